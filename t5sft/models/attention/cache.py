"""Cached keys and values of generation."""

from typing import Any

import jax
import jax.numpy as jnp

from t5sft.parallel import rules


def empty_cache(config: Any, num_layers: int, num_rows: int, max_length: int) -> jax.Array:
    """Returns zeros [L, B, S, 2, K, H] in the compute dtype: slots for keys and values."""
    shape = (num_layers, num_rows, max_length, 2, config.num_kv_heads, config.head_dim)
    names = ("layers", "batch", None, None, "kv_heads", "head_dim")
    return rules.constrain(jnp.zeros(shape, config.dtype), names)


def write(cache: jax.Array, new: jax.Array, slots: jax.Array) -> jax.Array:
    """Puts new [..., B, T, 2, K, H] at slots [B, T] of a cache [..., B, S, 2, K, H]."""
    rows = jnp.arange(slots.shape[0])[:, None]
    return cache.at[..., rows, slots, :, :, :].set(new.astype(cache.dtype))
