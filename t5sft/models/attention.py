"""Attention of packed rows: who sees whom, relative bias, cached keys and values."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5sft.models import layers, rotary
from t5sft.parallel import rules

MASKED = -1e30  # a finite score: exp gives exactly 0, and no row becomes NaN


class View(NamedTuple):
    """What the queries of one stack see: built once per batch, shared by all its layers."""

    mask: jax.Array  # [B, 1, T, S] bool, True where query t sees key s
    bias: jax.Array | None = None  # [1 or B, N, T, S] float32, added to the scores
    rotation: rotary.Angles | None = None
    slots: jax.Array | None = None  # [B, T] where a cache keeps the T new tokens


def choose(is_first: jax.Array, first: View, second: View) -> View:
    """One of two views, by a scalar that may differ from layer to layer of a scan."""
    return jax.tree.map(lambda a, b: jnp.where(is_first, a, b), first, second)


def packed_mask(
    query_segments: jax.Array,
    key_segments: jax.Array,
    *,
    causal: bool,
    window: int | None = None,
) -> jax.Array:
    """Lets every token see its own segment only; padding (segment 0) sees nothing.

    Args:
      query_segments: [B, T] int, 0 is padding.
      key_segments: [B, S] int; for cross-attention the encoder's, numbered alike.
      causal: also hide the keys that come later in the row.
      window: of a causal row, see the last `window` keys only, the query's own among them.

    Example (causal):
      segments  1 1 2 0     rows  1 0 0 0 | 1 1 0 0 | 0 0 1 0 | 0 0 0 0
    """
    query, key = query_segments[:, None, :, None], key_segments[:, None, None, :]
    mask = (query == key) & (key > 0)  # [B, 1, T, S]
    if not causal:
        return mask
    behind = np.arange(query.shape[2])[:, None] - np.arange(key.shape[3])[None, :]  # [T, S]
    return mask & jnp.asarray(_within(behind, window))[None, None]


def cache_mask(slots: jax.Array, max_length: int, window: int | None = None) -> jax.Array:
    """Lets the token of slot p see slots 0 to p, or the last `window` of them.

    [B, T] slots -> [B, 1, T, max_length].
    """
    behind = slots[:, None, :, None] - jnp.arange(max_length)[None, None, None, :]
    return _within(behind, window)


def _within(behind, window: int | None):
    """Whether a key so many places behind its query is seen."""
    return (behind >= 0) if window is None else (behind >= 0) & (behind < window)


@functools.cache
def buckets(num_buckets: int, max_distance: int, bidirectional: bool) -> np.ndarray:
    """Buckets of the distances -max_distance .. max_distance (arXiv:1910.10683, section 2.1).

    Half the buckets hold one distance each, half grow with the logarithm up to max_distance; a
    bidirectional stack uses half of all for keys after the query. As T5X `relative_attention.py`.
    It is a table, so that training and decoding cannot round a logarithm differently.

    Returns int32 [2 * max_distance + 1], indexed by (key - query) + max_distance.
    """
    behind = np.arange(max_distance, -max_distance - 1, -1)  # query - key
    out = np.zeros_like(behind)
    if bidirectional:
        num_buckets //= 2
        out, behind = (behind < 0) * num_buckets, np.abs(behind)
    behind = np.maximum(behind, 0)
    exact = num_buckets // 2
    ratio = np.maximum(behind, 1).astype(np.float32) / exact + np.finfo(np.float32).eps
    growing = exact + (np.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact))
    growing = np.minimum(growing.astype(np.int32), num_buckets - 1)
    return (out + np.where(behind < exact, behind, growing)).astype(np.int32)


def row_bias(table: jax.Array, bucket_of: np.ndarray, length: int) -> jax.Array:
    """Relative bias of whole rows: [buckets, N] -> [1, N, T, T] float32.

    Distances are taken along the row: a segment is contiguous and its positions count up by one,
    so inside it they are the distances of the positions, and all else is masked. That makes the
    bias one matrix for the batch, constant along its diagonals: 2T values are looked up, and the
    rows are the same vector, each shifted by one. No gather of T * T.
    """
    distances = np.concatenate([np.arange(length), np.arange(-length, 0)])  # index d mod 2T
    reach = len(bucket_of) // 2
    values = table[bucket_of[np.clip(distances, -reach, reach) + reach]].T  # [N, 2T]
    period = 2 * length
    rows = jnp.tile(values.astype(jnp.float32), (1, length))  # read with stride 2T - 1: skewed
    rows = rows[:, : length * (period - 1)].reshape(-1, length, period - 1)
    return rows[None, :, :, :length]


def slot_bias(
    table: jax.Array, bucket_of: np.ndarray, slots: jax.Array, max_length: int
) -> jax.Array:
    """Relative bias of cached decoding: query slots [B, T] -> [B, N, T, max_length] float32."""
    reach = len(bucket_of) // 2
    distances = jnp.arange(max_length)[None, None, :] - slots[:, :, None]  # [B, T, S]
    index = jnp.asarray(bucket_of)[jnp.clip(distances, -reach, reach) + reach]
    return table.astype(jnp.float32)[index].transpose(0, 3, 1, 2)


def empty_cache(config: Any, num_layers: int, num_rows: int, max_length: int) -> jax.Array:
    """Returns zeros [L, B, S, 2, K, H] in the compute dtype: slots for keys and values."""
    shape = (num_layers, num_rows, max_length, 2, config.num_kv_heads, config.head_dim)
    names = ("layers", "batch", None, None, "kv_heads", "head_dim")
    return rules.constrain(jnp.zeros(shape, config.dtype), names)


def write(cache: jax.Array, new: jax.Array, slots: jax.Array) -> jax.Array:
    """Puts new [..., B, T, 2, K, H] at slots [B, T] of a cache [..., B, S, 2, K, H]."""
    rows = jnp.arange(slots.shape[0])[:, None]
    return cache.at[..., rows, slots, :, :, :].set(new.astype(cache.dtype))


def scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Inner products in float32: [B, T, N, H], [B, S, K, H] -> [B, N, T, S]."""
    b, t, n, h = query.shape
    s, k = key.shape[1:3]
    if n == k:  # an axis of one group would cost 4 % of a training step on CPU
        return jnp.einsum("BTNH,BSNH->BNTS", query, key, preferred_element_type=jnp.float32)
    query = query.reshape(b, t, k, n // k, h)
    out = jnp.einsum("BTKGH,BSKH->BKGTS", query, key, preferred_element_type=jnp.float32)
    return out.reshape(b, n, t, s)


def mix(weights: jax.Array, value: jax.Array) -> jax.Array:
    """Weighted sums of the values: [B, N, T, S], [B, S, K, H] -> [B, T, N, H]."""
    b, n, t, s = weights.shape
    k, h = value.shape[2:]
    if n == k:
        return jnp.einsum("BNTS,BSNH->BTNH", weights, value)
    weights = weights.reshape(b, k, n // k, t, s)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, value).reshape(b, t, n, h)


class Attention(nn.Module):
    """Multi-head attention with K <= N key/value heads (GQA, arXiv:2305.13245, section 2.2).

    Kernels: `q` [D, N, H], `kv` [D, 2, K, H] (keys, values), `out` [N, H, D]. With attention_bias
    `q_bias` [N, H] and `kv_bias` [2, K, H], with output_bias `out_bias` [D]; with qk_norm `q_norm`
    and `k_norm` [H]; with sandwich_norms `post_norm` [D]. Query head n reads key/value head
    n // (N / K).
    """

    config: Any

    def setup(self) -> None:
        c = self.config
        d, n, k, h = c.emb_dim, c.num_heads, c.num_kv_heads, c.head_dim
        self.norm = layers.norm_scale(self)
        self.q = layers.kernel(self, "q", (d, n, h), ("embed", "heads", "head_dim"))
        self.kv = layers.kernel(self, "kv", (d, 2, k, h), ("embed", None, "kv_heads", "head_dim"))
        self.out = layers.kernel(self, "out", (n, h, d), ("heads", "head_dim", "embed"))
        if c.attention_bias:
            self.q_bias = layers.kernel(self, "q_bias", (n, h), ("heads", "head_dim"))
            self.kv_bias = layers.kernel(self, "kv_bias", (2, k, h), (None, "kv_heads", "head_dim"))
        if c.output_bias:
            self.out_bias = layers.kernel(self, "out_bias", (d,), ("embed",))
        if c.qk_norm:
            self.q_norm = layers.norm_scale(self, "q_norm", h, "head_dim")
            self.k_norm = layers.norm_scale(self, "k_norm", h, "head_dim")
        if c.sandwich_norms:
            self.post_norm = layers.norm_scale(self, "post_norm")

    def __call__(
        self, x: jax.Array, view: View, cache: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Self-attention of [B, T, D], over a cache [B, S, 2, K, H] if one is given.

        Returns x plus its update, and the new keys and values [B, T, 2, K, H] for the cache; the
        caller writes them, so that a scan over layers copies T tokens and not S.
        """
        y = layers.rms_norm(x, self.norm, self.config.norm_epsilon)
        query, kv = self._queries(y), self.keys_values(y)
        key, value = kv[:, :, 0], kv[:, :, 1]
        if self.config.qk_norm:
            key = layers.rms_norm(key, self.k_norm, self.config.norm_epsilon)
        if view.rotation is not None:
            query, key = rotary.rotate(query, *view.rotation), rotary.rotate(key, *view.rotation)
        if cache is None:
            return self._attend(x, query, key, value, view), None
        new = jnp.stack([key, value], axis=2)
        cache = write(cache, new, view.slots)
        return self._attend(x, query, cache[:, :, 0], cache[:, :, 1], view), new

    def cross(self, x: jax.Array, kv: jax.Array, view: View) -> jax.Array:
        """Attention of [B, T, D] over the encoder's keys and values [B, S, 2, K, H]."""
        query = self._queries(layers.rms_norm(x, self.norm, self.config.norm_epsilon))
        return self._attend(x, query, kv[:, :, 0], kv[:, :, 1], view)

    def keys_values(self, x: jax.Array) -> jax.Array:
        """Projects [B, S, D] to keys and values [B, S, 2, K, H]."""
        kv = jnp.einsum("BSD,DXKH->BSXKH", x, self.kv)
        if self.config.attention_bias:
            kv = kv + self.kv_bias[None, None]
        # Queries of one part of the row need the keys of all parts, so S is not split.
        return rules.constrain(kv, ("batch", None, None, "kv_heads", "head_dim"))

    def _queries(self, x: jax.Array) -> jax.Array:
        query = jnp.einsum("BTD,DNH->BTNH", x, self.q)
        if self.config.attention_bias:
            query = query + self.q_bias[None, None]
        if self.config.qk_norm:
            query = layers.rms_norm(query, self.q_norm, self.config.norm_epsilon)
        query = query * self.config.query_scale
        return rules.constrain(query, ("batch", "length", "heads", "head_dim"))

    def _attend(self, x, query, key, value, view: View) -> jax.Array:
        """Softmax in float32 over the visible keys; a query that sees none adds zero."""
        c = self.config
        weights = layers.soft_cap(scores(query, key), c.attention_soft_cap)
        if view.bias is not None:
            weights = weights + view.bias
        # Not softmax(where=mask): XLA for CPU reads the mask four times there, 9 % of a step.
        weights = jax.nn.softmax(jnp.where(view.mask, weights, MASKED), axis=-1)
        y = mix(layers.dropout(self, weights.astype(value.dtype)), value)
        sees = view.mask.any(axis=-1).transpose(0, 2, 1)[..., None]  # [B, T, 1, 1]
        y = jnp.einsum("BTNH,NHD->BTD", jnp.where(sees, y, 0), self.out)
        if c.output_bias:
            y = y + self.out_bias[None, None]
        if c.sandwich_norms:
            y = layers.rms_norm(y, self.post_norm, c.norm_epsilon)
        return x + layers.dropout(self, rules.constrain(y, ("batch", "length", "act_embed")))
