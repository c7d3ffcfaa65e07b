"""The pairs that splash computes are those of its visible blocks."""

import numpy as np
import pytest

from t5sft.models.attention import splash, views


def slow_pairs(limits, t, s):
    """The definition: a block counts whole if any of its pairs is seen."""
    behind = np.arange(t)[:, None] - np.arange(s)[None, :]
    seen = np.broadcast_to(limits.sees(behind), (t, s))
    q, kv = (next(size for size in (512, 256, 128) if n % size == 0) for n in (t, s))
    blocks = seen.reshape(t // q, q, s // kv, kv).any(axis=(1, 3))
    return int(blocks.sum()) * q * kv


@pytest.mark.parametrize("window", [None, 1, 128, 513, 4096])
@pytest.mark.parametrize("t", [128, 384, 1024, 2048])
def test_pairs_of_visible_blocks(t, window):
    limits = views.Limits(True, window)
    assert splash.computed_pairs(limits, t, t) == slow_pairs(limits, t, t)


def test_without_a_mask_all_pairs():
    assert splash.computed_pairs(views.Limits(False), 512, 384) == 512 * 384
