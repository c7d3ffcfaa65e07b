"""The bodies of the GPU kernels: one block of queries or keys, and the loop over what it meets.

Scores are in units of log 2, because a GPU has 2^x. The gradients of keys compute them as
[keys, queries]: products with the transposed weights then need no transposition in registers.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pallas_triton

from t5sft.models import layers
from t5sft.models.attention import views

LOG2_E = math.log2(math.e)
UNSEEN = -views.MASKED  # log Z of a query that sees no key: its weights are 2^-huge, 0


class Tile(NamedTuple):
    """What is known while tracing."""

    limits: views.Limits
    num_queries: int
    num_keys: int
    length: int  # S: the entry of a line where the distance is 0


class Side(NamedTuple):
    """One block of queries or keys."""

    features: jax.Array  # [tokens, H]
    segments: jax.Array  # [tokens]
    begin: jax.Array  # [] int32, the place of the first token in the row of the keys


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


def _scores(tile: Tile, rows: Side, columns: Side, line, sign: int):
    """Returns scores [rows, columns] and the slope of their soft cap, None without one.

    Args:
      line: from places in it, [rows, columns], to the bias there; or None.
      sign: 1 where the rows are queries, -1 where they are keys.
    """
    out = _dot(rows.features, columns.features.T)
    cap = tile.limits.soft_cap
    out = layers.soft_cap(out, cap)
    slope = None if cap is None else 1.0 - jnp.square(out / cap)
    down = jax.lax.broadcasted_iota(jnp.int32, out.shape, 0)
    across = jax.lax.broadcasted_iota(jnp.int32, out.shape, 1)
    behind = sign * ((rows.begin - columns.begin) + (down - across))
    if line is not None:
        out = out + line(behind + tile.length)
    mask = (rows.segments[:, None] == columns.segments[None, :]) & (rows.segments > 0)[:, None]
    if tile.limits.causal:
        mask = mask & tile.limits.sees(behind)
    return jnp.where(mask, out * LOG2_E, views.MASKED), slope


def _to_scores(tile: Tile, rows: Side, columns: Side, line, sign: int, products, log_z, delta):
    """Returns the weights [rows, columns] and the gradients of scores and of raw scores.

    Args:
      products: of values and given gradients, [rows, columns]; log_z, delta: [1, columns] or
        [rows, 1], of the queries.
    """
    scores, slope = _scores(tile, rows, columns, line, sign)
    weights = jnp.exp2(scores - log_z)
    to_scores = weights * (products - delta)
    return weights, to_scores, to_scores if slope is None else to_scores * slope


def forward(tile: Tile, offset, span, query, key, value, query_segments, key_segments, *rest):
    """Mixes the values for a block of queries; writes log2 Z, too."""
    *line, out, log_z = rest
    size = tile.num_keys
    queries = Side(query[...], query_segments[...], offset[0] + pl.program_id(0) * tile.num_queries)

    def add(j, sums):
        mixed, highest, total = sums
        here = pl.ds(j * size, size)
        keys = Side(key[here, :], key_segments[here], j * size)
        scores, _ = _scores(tile, queries, keys, _reader(line), 1)
        after = jnp.maximum(highest, scores.max(axis=1))
        weights = jnp.exp2(scores - after[:, None])
        shrink = jnp.exp2(highest - after)
        mixed = mixed * shrink[:, None] + _dot(weights.astype(value.dtype), value[here, :])
        return mixed, after, total * shrink + weights.sum(axis=1)

    start = (
        jnp.zeros(query.shape, jnp.float32),
        jnp.full((tile.num_queries,), views.MASKED, jnp.float32),
        jnp.zeros((tile.num_queries,), jnp.float32),
    )
    mixed, highest, total = jax.lax.fori_loop(span[0], span[1], add, start)
    # Until a query meets its first key it weighs masked ones by 1; that key shrinks them to zero.
    sees = highest > 0.5 * views.MASKED
    count = jnp.where(sees, total, 1.0)
    out[...] = (mixed * jnp.where(sees, 1.0 / count, 0.0)[:, None]).astype(out.dtype)
    log_z[...] = jnp.where(sees, highest + jnp.log2(count), UNSEEN)


def of_keys(tile: Tile, offset, span, query, key, value, query_segments, key_segments, *rest):
    """Sums the gradients of a block of keys and values over the queries of all heads they serve."""
    *line, given, log_z, delta, to_key, to_value = rest
    size, group = tile.num_queries, query.shape[1]
    keys, values = Side(key[...], key_segments[...], pl.program_id(0) * tile.num_keys), value[...]
    first = span[0]
    count = span[1] - first

    def add(number, sums):
        n, i = jax.lax.div(number, count), first + jax.lax.rem(number, count)
        here = pl.ds(i * size, size)
        queries = Side(query[here, n, :], query_segments[here], offset[0] + i * size)
        out = given[here, n, :]
        weights, _, to_raw = _to_scores(
            tile,
            keys,
            queries,
            _reader(line, n),
            -1,
            _dot(values, out.T),
            log_z[n, here][None, :],
            delta[n, here][None, :],
        )
        return (
            sums[0] + _dot(to_raw.astype(out.dtype), queries.features),
            sums[1] + _dot(weights.astype(out.dtype), out),
        )

    zeros = jnp.zeros(key.shape, jnp.float32)
    sums = jax.lax.fori_loop(0, group * count, add, (zeros, zeros))
    to_key[...] = sums[0].astype(to_key.dtype)
    to_value[...] = sums[1].astype(to_value.dtype)


def of_queries(tile: Tile, offset, span, query, key, value, query_segments, key_segments, *rest):
    """Sums the gradient of a block of queries over its keys."""
    *line, given, log_z, delta, to_query = rest
    size = tile.num_keys
    queries = Side(query[...], query_segments[...], offset[0] + pl.program_id(0) * tile.num_queries)
    out, own_z, own_delta = given[...], log_z[...][:, None], delta[...][:, None]

    def add(j, total):
        here = pl.ds(j * size, size)
        keys = Side(key[here, :], key_segments[here], j * size)
        products = _dot(out, value[here, :].T)
        _, _, to_raw = _to_scores(tile, queries, keys, _reader(line), 1, products, own_z, own_delta)
        return total + _dot(to_raw.astype(out.dtype), keys.features)

    total = jax.lax.fori_loop(span[0], span[1], add, jnp.zeros(query.shape, jnp.float32))
    to_query[...] = total.astype(to_query.dtype)


def of_line(tile: Tile, offset, meets, query, key, value, query_segments, key_segments, *rest):
    """Sums the gradients of the scores of a pair of blocks over the rows of the batch."""
    line, given, log_z, delta, to_pair = rest
    places = (
        offset[0] + pl.program_id(0) * tile.num_queries,
        pl.program_id(1) * tile.num_keys,
    )

    def add(b, total):
        queries = Side(query[b], query_segments[b], places[0])
        keys = Side(key[b], key_segments[b], places[1])
        products = _dot(given[b], value[b].T)
        statistics = log_z[b][:, None], delta[b][:, None]
        return total + _to_scores(tile, queries, keys, _reader([line]), 1, products, *statistics)[1]

    def add_if_met(b, total):
        return jax.lax.cond(meets[b] > 0, add, lambda b, total: total, b, total)

    start = jnp.zeros((tile.num_queries, tile.num_keys), jnp.float32)
    to_pair[...] = jax.lax.fori_loop(0, query.shape[0], add_if_met, start)


def _reader(line, *head):
    """What reads the line of a head, [at least offset + T + S]; None where there is no line."""
    return (lambda places: pallas_triton.load(line[0].at[(*head, places)])) if line else None
