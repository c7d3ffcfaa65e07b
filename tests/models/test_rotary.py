"""Rotation against its definition, and the ways to stretch it on worked examples."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import transformer

from t5sft.models import rotary

POSITIONS = jnp.array([[0, 1, 7, 30]])


def frequencies(num_features, theta, scaling=None):
    """What `angles` turns by at position 1, and the factor of cos and sin."""
    cos, sin = rotary.angles(jnp.array([[1, 0]]), num_features, theta, scaling)
    return np.arctan2(sin[0, 0, 0], cos[0, 0, 0]), float(cos[0, 1, 0, 0])


def test_turns_as_defined():
    x = np.random.default_rng(0).standard_normal((31, 8), np.float32)
    want = transformer.rope(x.astype(np.float64), 1e4)
    got = rotary.rotate(x[None, :, None], *rotary.angles(jnp.arange(31)[None], 8, 1e4))
    np.testing.assert_allclose(got[0, :, 0], want, atol=1e-5)


def test_features_beyond_the_fraction_stay():
    x = np.random.default_rng(0).standard_normal((1, 4, 2, 8), np.float32)
    got = rotary.rotate(x, *rotary.angles(POSITIONS, 6, 1e4))
    np.testing.assert_array_equal(got[..., 6:], x[..., 6:])
    want = rotary.rotate(x[..., :6], *rotary.angles(POSITIONS, 6, 1e4))
    np.testing.assert_array_equal(got[..., :6], want)


def test_angles_are_exact_far_out():
    """float32 angles: position times a frequency that is rounded once."""
    position = 100_000
    cos, _ = rotary.angles(jnp.array([[position]]), 128, 5e5)
    exact = np.cos(position * np.float32(5e5 ** (-np.arange(0, 128, 2) / 128)).astype(np.float64))
    np.testing.assert_allclose(cos[0, 0, 0], exact, atol=1e-2)  # 100,000 radians in 24 bits


def test_linear_divides_positions():
    got, _ = frequencies(8, 1e4, rotary.Linear(factor=4.0))
    np.testing.assert_allclose(got, frequencies(8, 1e4)[0] / 4, rtol=1e-5)


def test_llama3_stretches_long_waves_only():
    """Original length 64: waves over 64 are stretched, under 16 kept, 32 by half of each.

    32 tokens: 2 turns over the original length, a third of the way from 1 to 4.
    """
    scaling = rotary.Llama3(factor=8.0, original_length=64)
    waves = np.array([8.0, 15.9, 32.0, 65.0, 500.0])
    got = 2 * math.pi / scaling.scale(2 * math.pi / waves)
    third = 1 / (1 / 3 / 32 + 2 / 3 / (8 * 32))
    np.testing.assert_allclose(got, [8.0, 15.9, third, 520.0, 4000.0])


@pytest.mark.parametrize("is_long, factors", [(False, (1.0, 2.0)), (True, (4.0, 8.0))])
def test_longrope_divides_by_the_factors_in_use(is_long, factors):
    scaling = rotary.LongRope(
        short_factors=(1.0, 2.0),
        long_factors=(4.0, 8.0),
        original_length=64,
        magnitude=1.25,
        is_long=is_long,
    )
    got, magnitude = frequencies(4, 100.0, scaling)
    np.testing.assert_allclose(got, [1 / factors[0], 0.1 / factors[1]], rtol=1e-5)
    assert magnitude == 1.25
