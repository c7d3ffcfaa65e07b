"""Ten losses of a tiny model on a fixed stream: nothing drifts unseen."""

import json

import numpy as np
import pytest
from golden import remake, stream


@pytest.mark.parametrize("name", stream.BOTH)
def test_losses_are_the_golden_ones(name):
    got = remake.losses(name)
    np.testing.assert_allclose(got, json.loads(remake.path(name).read_text()), rtol=1e-5)
    assert got[-1] < got[0] - 0.5
