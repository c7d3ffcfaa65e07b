"""Ten losses of a tiny model on a fixed stream: nothing drifts unseen."""

import json
import math

import numpy as np
import pytest
from golden import remake, stream


@pytest.mark.parametrize("name", stream.BOTH)
def test_losses_are_the_golden_ones(name):
    got = remake.losses(name)
    np.testing.assert_allclose(got, json.loads(remake.path(name).read_text()), rtol=1e-5)
    # Logits of variance 0 (Llama's start) cost ln V, of variance 1 (T5's) half a nat more.
    expected = math.log(stream.V) + {"t5": 0.5, "decoder": 0.0}[name]
    assert abs(got[0] - expected) < 0.35
    assert got[-1] < got[0] - 0.5
