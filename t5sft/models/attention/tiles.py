"""The bodies of the GPU kernels: one block of queries or keys, and the loop over what it meets.

Scores are in units of log 2, because a GPU has 2^x. The gradients of keys compute them as
[keys, queries]: products with the transposed weights then need no transposition in registers.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from t5sft.models import layers
from t5sft.models.attention import views

BLOCK = 64  # queries and keys of a block; rows are padded to a multiple of it
LOG2_E = math.log2(math.e)
UNSEEN = -views.MASKED  # log Z of a query that sees no key: its weights are 2^-huge, 0


class Side(NamedTuple):
    """One block of queries or keys."""

    features: jax.Array  # [BLOCK, H]
    segments: jax.Array  # [BLOCK]
    begin: jax.Array  # [] int32, the place of the first token in the row of the keys


class Kept(NamedTuple):
    """What the backward pass knows of a block of queries."""

    given: jax.Array  # [BLOCK, H], the gradient of the output
    log_z: jax.Array  # [BLOCK], in units of log 2
    delta: jax.Array  # [BLOCK], the output's inner product with its gradient


def _here(block) -> pl.Slice:
    return pl.ds(block * BLOCK, BLOCK)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """[X, C], [C, Y] -> [X, Y] in float32."""
    return jax.lax.dot_general(
        a,
        b,
        (((1,), (0,)), ((), ())),
        # Products of bfloat16 are exact; the process may ask for more than Triton takes.
        precision=jax.lax.Precision.DEFAULT if a.dtype == jnp.bfloat16 else None,
        preferred_element_type=jnp.float32,
    )


def _scores(limits: views.Limits, rows: Side, columns: Side, bias, sign: int):
    """Returns scores [rows, columns] and the slope of their soft cap, None without one.

    Args:
      bias: [rows, columns], or None.
      sign: 1 where the rows are queries, -1 where they are keys.
    """
    out = _dot(rows.features, columns.features.T)
    cap = limits.soft_cap
    out = layers.soft_cap(out, cap)
    slope = None if cap is None else 1.0 - jnp.square(out / cap)
    if bias is not None:
        out = out + bias
    mask = (rows.segments[:, None] == columns.segments[None, :]) & (rows.segments > 0)[:, None]
    if limits.causal:
        down = jax.lax.broadcasted_iota(jnp.int32, out.shape, 0)
        across = jax.lax.broadcasted_iota(jnp.int32, out.shape, 1)
        mask = mask & limits.sees(sign * ((rows.begin - columns.begin) + (down - across)))
    return jnp.where(mask, out * LOG2_E, views.MASKED), slope


def _to_scores(limits: views.Limits, queries: Side, keys: Side, values, kept: Kept, bias, sign=1):
    """Returns the weights of a pair and the gradients of its scores and raw scores.

    [queries, keys], with sign -1 [keys, queries].
    """
    if sign == 1:
        sides, products = (queries, keys), _dot(kept.given, values.T)
        log_z, delta = kept.log_z[:, None], kept.delta[:, None]
    else:
        sides, products = (keys, queries), _dot(values, kept.given.T)
        log_z, delta = kept.log_z[None, :], kept.delta[None, :]
    scores, slope = _scores(limits, *sides, bias, sign)
    weights = jnp.exp2(scores - log_z)
    to_scores = weights * (products - delta)
    return weights, to_scores, to_scores if slope is None else to_scores * slope


def forward(limits, offset, span, query, key, value, query_segments, key_segments, *rest):
    """Mixes the values for a block of queries; writes log2 Z, too."""
    *bias, out, log_z = rest
    i, last = pl.program_id(0), key.shape[0] // BLOCK - 1
    queries = Side(query[...], query_segments[...], offset[0] + i * BLOCK)

    def add(j, sums):
        mixed, highest, total = sums
        here = _here(j)
        keys = Side(key[here, :], key_segments[here], j * BLOCK)
        of_pair = bias[0][i - j + last] if bias else None
        scores, _ = _scores(limits, queries, keys, of_pair, 1)
        after = jnp.maximum(highest, scores.max(axis=1))
        weights = jnp.exp2(scores - after[:, None])
        shrink = jnp.exp2(highest - after)
        mixed = mixed * shrink[:, None] + _dot(weights.astype(value.dtype), value[here, :])
        return mixed, after, total * shrink + weights.sum(axis=1)

    start = (
        jnp.zeros(query.shape, jnp.float32),
        jnp.full((BLOCK,), views.MASKED, jnp.float32),
        jnp.zeros((BLOCK,), jnp.float32),
    )
    mixed, highest, total = jax.lax.fori_loop(span[0], span[1], add, start)
    # Until a query meets its first key it weighs masked ones by 1; that key shrinks them to zero.
    sees = highest > 0.5 * views.MASKED
    count = jnp.where(sees, total, 1.0)
    out[...] = (mixed * jnp.where(sees, 1.0 / count, 0.0)[:, None]).astype(out.dtype)
    log_z[...] = jnp.where(sees, highest + jnp.log2(count), UNSEEN)


def of_keys(limits, offset, span, query, key, value, query_segments, key_segments, *rest):
    """Sums the gradients of a block of keys and values over the queries of all heads they serve."""
    *bias, given, log_z, delta, to_key, to_value = rest
    j, group = pl.program_id(0), query.shape[1]
    keys, values = Side(key[...], key_segments[...], j * BLOCK), value[...]
    first, last = span[0], pl.num_programs(0) - 1
    count = span[1] - first

    def add(number, sums):
        n, i = jax.lax.div(number, count), first + jax.lax.rem(number, count)
        here = _here(i)
        queries = Side(query[here, n, :], query_segments[here], offset[0] + i * BLOCK)
        kept = Kept(given[here, n, :], log_z[n, here], delta[n, here])
        of_pair = bias[0][n, i - j + last] if bias else None
        weights, _, to_raw = _to_scores(limits, queries, keys, values, kept, of_pair, -1)
        dtype = values.dtype
        return (
            sums[0] + _dot(to_raw.astype(dtype), queries.features),
            sums[1] + _dot(weights.astype(dtype), kept.given),
        )

    zeros = jnp.zeros(key.shape, jnp.float32)
    sums = jax.lax.fori_loop(0, group * count, add, (zeros, zeros))
    to_key[...] = sums[0].astype(to_key.dtype)
    to_value[...] = sums[1].astype(to_value.dtype)


def of_queries(limits, offset, span, query, key, value, query_segments, key_segments, *rest):
    """Sums the gradient of a block of queries over its keys."""
    *bias, given, log_z, delta, to_query = rest
    i, last = pl.program_id(0), key.shape[0] // BLOCK - 1
    queries = Side(query[...], query_segments[...], offset[0] + i * BLOCK)
    kept = Kept(given[...], log_z[...], delta[...])

    def add(j, total):
        here = _here(j)
        keys = Side(key[here, :], key_segments[here], j * BLOCK)
        of_pair = bias[0][i - j + last] if bias else None
        to_raw = _to_scores(limits, queries, keys, value[here, :], kept, of_pair)[2]
        return total + _dot(to_raw.astype(key.dtype), keys.features)

    total = jax.lax.fori_loop(span[0], span[1], add, jnp.zeros(query.shape, jnp.float32))
    to_query[...] = total.astype(to_query.dtype)


def of_bias(limits, offset, meets, query, key, value, query_segments, key_segments, *rest):
    """Sums the gradients of the scores of all pairs of blocks of one distance, in some rows."""
    bias, given, log_z, delta, to_bias = rest
    num_rows, blocks_of_queries, blocks_of_keys = meets.shape
    behind = pl.program_id(0) - (blocks_of_keys - 1)  # blocks
    first = jnp.maximum(behind, 0)
    count = jnp.minimum(blocks_of_queries, blocks_of_keys + behind) - first
    own = bias[...]

    def add(b, i, j, total):
        here, there = _here(i), _here(j)
        queries = Side(query[b, here, :], query_segments[b, here], offset[0] + i * BLOCK)
        keys = Side(key[b, there, :], key_segments[b, there], j * BLOCK)
        kept = Kept(given[b, here, :], log_z[b, here], delta[b, here])
        return total + _to_scores(limits, queries, keys, value[b, there, :], kept, own)[1]

    def add_if_met(number, total):
        b, i = jax.lax.div(number, count), first + jax.lax.rem(number, count)
        j = i - behind
        return jax.lax.cond(meets[b, i, j] > 0, add, lambda *x: x[3], b, i, j, total)

    start = jnp.zeros((BLOCK, BLOCK), jnp.float32)
    to_bias[...] = jax.lax.fori_loop(0, num_rows * count, add_if_met, start)
