"""Attention by its definition: all scores at once, [B, N, T, S] float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from t5sft.models import layers
from t5sft.models.attention import views


def scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Inner products in float32: [B, T, N, H], [B, S, K, H] -> [B, N, T, S]."""
    b, t, n, h = query.shape
    s, k = key.shape[1:3]
    if n == k:  # an axis of one group would cost 4 % of a training step on CPU
        return jnp.einsum("BTNH,BSNH->BNTS", query, key, preferred_element_type=jnp.float32)
    query = query.reshape(b, t, k, n // k, h)
    out = jnp.einsum("BTKGH,BSKH->BKGTS", query, key, preferred_element_type=jnp.float32)
    return out.reshape(b, n, t, s)


def mix(weights: jax.Array, value: jax.Array, dtype=None) -> jax.Array:
    """Weighted sums of the values: [B, N, T, S], [B, S, K, H] -> [B, T, N, H]."""
    b, n, t, s = weights.shape
    k, h = value.shape[2:]
    if n == k:
        return jnp.einsum("BNTS,BSNH->BTNH", weights, value, preferred_element_type=dtype)
    weights = weights.reshape(b, k, n // k, t, s)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, value, preferred_element_type=dtype)
    return out.reshape(b, t, n, h)


def collect(weights: jax.Array, query: jax.Array, num_kv_heads: int) -> jax.Array:
    """Weighted sums over the queries, float32: [B, N, T, S], [B, T, N, H] -> [B, S, K, H]."""
    b, n, t, s = weights.shape
    k = num_kv_heads
    weights = weights.reshape(b, k, n // k, t, s)
    query = query.reshape(b, t, k, n // k, query.shape[-1])
    return jnp.einsum("BKGTS,BTKGH->BSKH", weights, query, preferred_element_type=jnp.float32)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    view: views.View,
    *,
    soft_cap: float | None = None,
    drop: Callable[[jax.Array], jax.Array] = lambda weights: weights,
) -> jax.Array:
    """Softmax in float32 over the visible keys; a query that sees none gets zero.

    Args:
      query: [B, T, N, H], scaled already.
      key, value: [B, S, K, H].
      soft_cap: bound of the scores, before the bias.
      drop: dropout of the weights [B, N, T, S].
    """
    weights = layers.soft_cap(scores(query, key), soft_cap)
    if view.bias is not None:
        weights = weights + view.bias
    # Not softmax(where=mask): XLA for CPU reads the mask four times there, 9 % of a step.
    weights = jax.nn.softmax(jnp.where(view.mask, weights, views.MASKED), axis=-1)
    y = mix(drop(weights.astype(value.dtype)), value)
    sees = view.mask.any(axis=-1).transpose(0, 2, 1)[..., None]  # [B, T, 1, 1]
    return jnp.where(sees, y, 0)
