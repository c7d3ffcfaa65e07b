"""Attention by blocks of keys in plain XLA, for any device.

The softmax is built up block by block (Dao et al. 2022, arXiv:2205.14135, algorithm 1; Rabe and
Staats 2021, arXiv:2112.05682), and the backward pass computes the scores again: nothing of size
T x S is ever in memory, and pairs of blocks that cannot see each other are never computed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from t5sft.models import layers
from t5sft.models.attention import bias, reference, views

BLOCK = 512  # queries and keys per block: the largest temporary is [B, N, BLOCK, BLOCK] float32


class Plan(NamedTuple):
    """What is known while tracing; hashable."""

    limits: views.Limits
    num_queries: int  # per block
    num_keys: int  # per block
    pairs: tuple[tuple[int, int], ...]  # blocks of queries and keys that may see each other


class Inputs(NamedTuple):
    """The arrays, padded to whole blocks."""

    query: jax.Array  # [B, T, N, H]
    key: jax.Array  # [B, S, K, H]
    value: jax.Array  # [B, S, K, H]
    query_segments: jax.Array  # [B, T]
    key_segments: jax.Array  # [B, S]
    line: jax.Array | None  # [N, at least offset + T + S]
    offset: jax.Array  # [] int32, place of the first query in the row of the keys


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    line: jax.Array | None = None,
    *,
    limits: views.Limits,
    offset: int | jax.Array = 0,
    block: int = BLOCK,
) -> jax.Array:
    """Returns [B, T, N, H] in the dtype of the values; a query that sees no key gets zero.

    Args:
      query: [B, T, N, H], scaled already.
      key, value: [B, S, K, H].
      query_segments, key_segments: [B, T] and [B, S] int, 0 is padding.
      line: [N, whole T + S], the bias by distance (`bias.line`).
      offset: place in the row of the first query, where a device holds a part of the queries.
      block: queries and keys per block.
    """
    t, s = query.shape[1], key.shape[1]
    num_queries, num_keys = min(block, t), min(block, s)
    more_t, more_s = -t % num_queries, -s % num_keys
    pad = lambda x, more: jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))  # noqa: E731
    is_known = isinstance(offset, int)
    pairs = tuple(
        (i, j)
        for i in range((t + more_t) // num_queries)
        for j in range((s + more_s) // num_keys)
        if not is_known
        or limits.may_see(offset + i * num_queries, num_queries, j * num_keys, num_keys)
    )
    inputs = Inputs(
        query=pad(query, more_t),
        key=pad(key, more_s),
        value=pad(value, more_s),
        query_segments=pad(query_segments, more_t),
        key_segments=pad(key_segments, more_s),
        line=None if line is None else jnp.pad(line, ((0, 0), (more_s, more_t))),
        offset=jnp.asarray(offset, jnp.int32),
    )
    return _attend(Plan(limits, num_queries, num_keys, pairs), inputs)[:, :t]


def _cut(x: jax.Array, start, size: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)


def _put(x: jax.Array, part: jax.Array, start, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part.astype(x.dtype), start, axis)


class Block(NamedTuple):
    """One pair of blocks."""

    query: jax.Array  # [B, t, N, H]
    key: jax.Array  # [B, s, K, H]
    value: jax.Array  # [B, s, K, H]
    mask: jax.Array  # [B, 1, t, s]
    begin: tuple[jax.Array, jax.Array, jax.Array]  # of queries, keys, and the window of the line


def _block(plan: Plan, x: Inputs, pair) -> Block:
    begin_t, begin_s = pair[0] * plan.num_queries, pair[1] * plan.num_keys
    query_segments = _cut(x.query_segments, begin_t, plan.num_queries, 1)[:, None, :, None]
    key_segments = _cut(x.key_segments, begin_s, plan.num_keys, 1)[:, None, None, :]
    places = jnp.arange(plan.num_queries)[:, None] - jnp.arange(plan.num_keys)[None, :]
    seen = plan.limits.sees(x.offset + begin_t - begin_s + places)
    mask = (query_segments == key_segments) & (key_segments > 0)
    if plan.limits.causal:
        mask = mask & seen[None, None]
    begin_line = x.offset + begin_t - begin_s - plan.num_keys + x.key.shape[1]
    return Block(
        query=_cut(x.query, begin_t, plan.num_queries, 1),
        key=_cut(x.key, begin_s, plan.num_keys, 1),
        value=_cut(x.value, begin_s, plan.num_keys, 1),
        mask=mask,
        begin=(begin_t, begin_s, begin_line),
    )


def _spread(plan: Plan, window: jax.Array) -> jax.Array:
    return bias.line_block(window, plan.num_queries, plan.num_keys)


def _scores(plan: Plan, x: Inputs, block: Block):
    """Returns the scores [B, N, t, s] float32 of one pair, and the derivative of their soft cap."""
    raw = reference.scores(block.query, block.key)
    cap = plan.limits.soft_cap
    capped = layers.soft_cap(raw, cap)
    slope = 1.0 if cap is None else 1.0 - jnp.square(capped / cap)
    if x.line is None:
        return capped, slope
    window = _cut(x.line, block.begin[2], plan.num_queries + plan.num_keys, 1)
    return capped + _spread(plan, window)[None], slope


def _numbers(plan: Plan):
    return tuple(jnp.asarray(np.array(plan.pairs, np.int32).reshape(-1, 2)[:, k]) for k in (0, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, x: Inputs) -> jax.Array:
    return _forward(plan, x)[0]


def _forward(plan: Plan, x: Inputs):
    """Returns the output and what is kept for the backward pass."""
    b, t, n, h = x.query.shape

    def step(sums, pair):
        mixed, highest, total = sums  # [B, T, N, H], [B, N, T] twice, float32
        block = _block(plan, x, pair)
        scores, _ = _scores(plan, x, block)
        begin = block.begin[0]
        before = _cut(highest, begin, plan.num_queries, 2)
        after = jnp.maximum(before, jnp.where(block.mask, scores, views.MASKED).max(axis=-1))
        weights = jnp.where(block.mask, jnp.exp(scores - after[..., None]), 0.0)
        shrink = jnp.exp(before - after)  # [B, N, t]
        fresh = reference.mix(weights.astype(x.value.dtype), block.value, jnp.float32)
        kept = _cut(mixed, begin, plan.num_queries, 1) * shrink.swapaxes(1, 2)[..., None]
        count = _cut(total, begin, plan.num_queries, 2) * shrink + weights.sum(axis=-1)
        sums = (
            _put(mixed, kept + fresh, begin, 1),
            _put(highest, after, begin, 2),
            _put(total, count, begin, 2),
        )
        return sums, None

    zeros = jnp.zeros((b, t, n, h), jnp.float32), jnp.zeros((b, n, t), jnp.float32)
    start = (zeros[0], jnp.full((b, n, t), views.MASKED), zeros[1])
    (mixed, highest, total), _ = jax.lax.scan(step, start, _numbers(plan))
    sees = total > 0
    log_z = highest + jnp.log(jnp.where(sees, total, 1.0))
    scale = jnp.where(sees, 1.0 / jnp.where(sees, total, 1.0), 0.0)
    out = (mixed * scale.swapaxes(1, 2)[..., None]).astype(x.value.dtype)
    out = checkpoint_name(out, "attention")
    log_z = checkpoint_name(log_z, "attention")
    return out, (x, out, log_z)


def _backward(plan: Plan, kept, cotangent: jax.Array):
    """Computes each pair's weights again; gradients add up over the pairs in float32."""
    x, out, log_z = kept
    product = out.astype(jnp.float32) * cotangent.astype(jnp.float32)
    delta = product.sum(axis=-1).swapaxes(1, 2)  # [B, N, T]
    k = x.key.shape[2]

    def step(sums, pair):
        block = _block(plan, x, pair)
        begin_t, begin_s, begin_line = block.begin
        scores, slope = _scores(plan, x, block)
        z = _cut(log_z, begin_t, plan.num_queries, 2)[..., None]
        weights = jnp.where(block.mask, jnp.exp(scores - z), 0.0)
        given = _cut(cotangent, begin_t, plan.num_queries, 1)
        to_weights = reference.scores(given, block.value)  # [B, N, t, s]
        to_weights = to_weights - _cut(delta, begin_t, plan.num_queries, 2)[..., None]
        to_scores = weights * to_weights
        to_raw = (to_scores * slope).astype(x.query.dtype)
        parts = [
            (reference.mix(to_raw, block.key, jnp.float32), begin_t),
            (reference.collect(to_raw, block.query, k), begin_s),
            (reference.collect(weights.astype(given.dtype), given, k), begin_s),
        ]
        if x.line is not None:
            _, spread_back = jax.vjp(
                functools.partial(_spread, plan), _cut(x.line, 0, sum(plan[1:3]), 1)
            )
            parts.append((spread_back(to_scores.sum(axis=0))[0], begin_line))
        sums = tuple(
            _put(total, _cut(total, begin, part.shape[1], 1) + part, begin, 1)
            for total, (part, begin) in zip(sums, parts, strict=True)
        )
        return sums, None

    like = [x.query, x.key, x.value, *([] if x.line is None else [x.line])]
    zeros = tuple(jnp.zeros(leaf.shape, jnp.float32) for leaf in like)
    sums, _ = jax.lax.scan(step, zeros, _numbers(plan))
    sums = [total.astype(leaf.dtype) for total, leaf in zip(sums, like, strict=True)]
    query, key, value = sums[:3]
    line = None if x.line is None else sums[3]
    return (Inputs(query, key, value, None, None, line, None),)


_attend.defvjp(_forward, _backward)
