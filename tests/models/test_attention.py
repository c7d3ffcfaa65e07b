"""The parts of attention against their definitions, on worked examples."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import transformer

from t5sft.models import attention, rotary


def test_packed_mask_as_documented():
    segments = jnp.array([[1, 1, 2, 0]])
    mask = attention.packed_mask(segments, segments, causal=True)
    np.testing.assert_array_equal(
        mask[0, 0].astype(int), [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    )


def test_window_as_documented():
    """A window of 2: each token sees itself and the one before, of its own segment."""
    segments = jnp.array([[1, 1, 1, 2, 2, 0]])
    mask = attention.packed_mask(segments, segments, causal=True, window=2)
    rows = ["100000", "110000", "011000", "000100", "000110", "000000"]
    np.testing.assert_array_equal(mask[0, 0].astype(int), [[int(c) for c in row] for row in rows])


def test_cross_attention_sees_the_segment_of_the_same_number():
    query, key = jnp.array([[1, 2, 2, 0]]), jnp.array([[1, 1, 3, 2, 0]])
    mask = attention.packed_mask(query, key, causal=False)
    np.testing.assert_array_equal(
        mask[0, 0].astype(int), [[1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0], [0] * 5]
    )


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20)])
def test_buckets_agree_with_whole_number_arithmetic(num_buckets, max_distance, bidirectional):
    got = attention.buckets(num_buckets, max_distance, bidirectional)
    want = [
        transformer.bucket(distance, num_buckets, max_distance, bidirectional)
        for distance in range(-max_distance, max_distance + 1)
    ]
    np.testing.assert_array_equal(got, want)


def test_row_bias_is_a_lookup_by_distance():
    table = np.random.default_rng(0).standard_normal((32, 4), np.float32)
    buckets = attention.buckets(32, 128, True)
    for length in (1, 2, 7, 300):
        got = attention.row_bias(jnp.asarray(table), buckets, length)
        distance = np.arange(length)[None, :] - np.arange(length)[:, None]
        want = table[buckets[np.clip(distance, -128, 128) + 128]].transpose(2, 0, 1)
        np.testing.assert_array_equal(got[0], want)


def test_slot_bias_is_a_row_of_row_bias():
    table = jnp.asarray(np.random.default_rng(0).standard_normal((32, 4), np.float32))
    buckets = attention.buckets(32, 128, False)
    rows = attention.row_bias(table, buckets, 40)[0]  # [N, T, T]
    got = attention.slot_bias(table, buckets, jnp.array([[3], [39]]), 40)  # [B, N, 1, T]
    np.testing.assert_array_equal(got[0, :, 0], rows[:, 3])
    np.testing.assert_array_equal(got[1, :, 0], rows[:, 39])


def test_rotation_is_relative():
    """The inner product of a rotated query and key depends on their distance alone."""
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 1, 1, 1, 8), np.float32)
    products = []
    for shift in (0, 5, 100):
        turned = [
            rotary.rotate(x, *rotary.angles(jnp.array([[p + shift]]), 8, 1e4))
            for x, p in ((query, 7), (key, 3))
        ]
        products.append((turned[0] * turned[1]).sum())
    np.testing.assert_allclose(products, products[0], rtol=1e-4)


def test_grouped_heads_are_repeated_heads():
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, 5, 4, 8), np.float32)
    key, value = rng.standard_normal((2, 2, 6, 2, 8), np.float32)
    got, want = (attention.scores(query, k) for k in (key, np.repeat(key, 2, axis=2)))
    np.testing.assert_allclose(got, want, atol=1e-5)
    got, want = (attention.mix(want, v) for v in (value, np.repeat(value, 2, axis=2)))
    np.testing.assert_allclose(got, want, atol=1e-4)
