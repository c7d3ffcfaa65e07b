"""What a cache keeps: as documented, within its rounding, and attention over it by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5sft import errors
from t5sft.models.attention import cache as cached

B, K, G, S, H = 2, 2, 2, 6, 8


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_mask_as_documented():
    got = cached.mask(jnp.array([0, 3]), 5)[:, 0, 0].astype(int)
    np.testing.assert_array_equal(got, [[0, 0, 0, 0, 0, 1], [1, 1, 1, 0, 0, 1]])
    got = cached.mask(jnp.array([0, 3]), 5, window=2)[:, 0, 0].astype(int)
    np.testing.assert_array_equal(got, [[0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 1]])


@given(seed=st.integers(0, 2**16), size=st.sampled_from([1e-6, 1.0, 1e4]))
def test_int8_is_within_half_a_step(seed, size):
    x = draw(seed, 3, H) * size
    steps, scale = cached.quantise(x)
    assert steps.dtype == jnp.int8
    np.testing.assert_allclose(scale, np.abs(x).max(-1) / 127, rtol=1e-6)
    error = np.abs(steps * scale[:, None] - x)
    assert (error <= scale[:, None] * 0.501).all()


def test_int8_of_zeros_is_zero():
    steps, scale = cached.quantise(jnp.zeros((1, 4)))
    assert not steps.any() and not scale.any()


@pytest.mark.parametrize("dtype", cached.DTYPES)
def test_write_puts_each_row_at_its_own_slot(dtype):
    kv = draw(0, 3, B, 1, 2, K, H)
    empty = jax.tree.map(
        lambda x: jnp.zeros((3, B, K, S, *x.shape[4:]), x.dtype), cached.keep(kv, dtype)
    )
    got = cached.write(empty, kv, jnp.array([4, 9]))  # 9 is beyond S: dropped
    want = cached.keep(kv, dtype)
    for mine, new in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(mine[:, 0, :, 4], new[:, 0, :, 0])
        assert np.count_nonzero(mine) == np.count_nonzero(new[:, 0])


def slow_attend(query, key, value, sees, bias, cap):
    """One row and head at a time, float64; key and value [B, K, S + 1, H]."""
    out = np.zeros((B, 1, K * G, H))
    for b, n in np.ndindex(B, K * G):
        score = np.asarray(key[b, n // G], np.float64) @ np.asarray(query[b, 0, n], np.float64)
        score = (cap * np.tanh(score / cap) if cap else score) + np.asarray(bias[b, n, 0])
        weight = np.where(sees[b], np.exp(score - score.max()), 0)
        out[b, 0, n] = weight / weight.sum() @ np.asarray(value[b, n // G], np.float64)
    return out


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-5), ("bfloat16", 2e-2), ("int8", 4e-2)])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_attends_by_the_definition(dtype, atol, cap):
    kv, new, query = draw(1, B, S, 2, K, H), draw(2, B, 1, 2, K, H), draw(3, B, 1, K * G, H)
    mask, bias = cached.mask(jnp.array([2, 5]), S), draw(4, B, K * G, 1, S + 1)
    got = cached.attend(query, cached.keep(kv, dtype), mask, bias, new, cap)
    whole = np.concatenate([kv, new], axis=1).transpose(2, 0, 3, 1, 4)
    want = slow_attend(query, *whole, np.asarray(mask)[:, 0, 0], bias, cap)
    np.testing.assert_allclose(got, want, atol=atol)


def test_without_memory_nothing_is_added():
    kept = cached.keep(draw(1, B, S, 2, K, H), "float32")
    mask = jnp.zeros((B, 1, 1, S), bool).at[1, ..., 2].set(True)
    got = cached.attend(draw(3, B, 1, K * G, H), kept, mask, None, None, None)
    assert not got[0].any()
    np.testing.assert_allclose(got[1, 0, 0], kept.value[1, 0, 2], rtol=1e-5)


def test_an_unknown_dtype_is_an_error():
    with pytest.raises(errors.ConfigError, match="cache_dtype = 'int4' is unknown.*int8"):
        cached.check_dtype("int4")
