"""The bodies of the fused kernels: one pair of blocks of keys (rows) and queries (columns).

Scores are kept as [keys, queries]: the sums of the softmax are then along sublanes, its statistics
are rows [1, queries], and arrays have the tokens along the 128 lanes, so that heads of 64 features
fill their tiles (heads along lanes would waste half of a TPU's memory and bandwidth).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t5sft.models import layers
from t5sft.models.attention import views

ROWS = 8  # sublanes of a tile: rows that the gradient of the line is summed to in the kernel


class Plan(NamedTuple):
    """What is known while tracing; hashable."""

    limits: views.Limits
    num_queries: int  # per block, 128 times a power of two
    num_keys: int  # per block, 128 times a power of two
    blocks_of_queries: int
    blocks_of_keys: int
    pairs: int  # that are computed, for the estimate of cost
    interpret: bool


class Tokens(NamedTuple):
    """References to one pair of blocks."""

    offset: jax.Array  # [1] int32 in scalar memory
    query: jax.Array  # [1, 1, H, queries]
    key: jax.Array  # [1, 1, H, keys]
    value: jax.Array  # [1, 1, H, keys]
    query_segments: jax.Array  # [1, 1, queries]
    key_segments: jax.Array  # [1, 1, keys]
    line: jax.Array | None  # [1, 1, T + S]


def dot(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Sums over one axis of each matrix, in float32."""
    return jax.lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        # Products of bfloat16 are exact; Mosaic refuses them where the process asks for more.
        precision=jax.lax.Precision.DEFAULT if a.dtype == jnp.bfloat16 else None,
        preferred_element_type=jnp.float32,
    )


def may_see(plan: Plan, offset, i, j):
    """Whether any query of block i sees any key of block j."""
    limits = plan.limits
    if not limits.causal:
        return True
    first = offset + i * plan.num_queries
    seen = j * plan.num_keys < first + plan.num_queries
    if limits.window is not None:
        seen &= first - (j * plan.num_keys + plan.num_keys - 1) < limits.window
    return seen


def line_start(plan: Plan, i, j):
    """Where the window of a pair begins in the line of [T + S] distances."""
    start = (plan.blocks_of_keys - 1 - j) * plan.num_keys + i * plan.num_queries
    return pl.multiple_of(start, 128)


def scores(plan: Plan, tokens: Tokens, i, j):
    """Returns scores [keys, queries] float32, the slope of their soft cap, and the mask."""
    queries, keys = plan.num_queries, plan.num_keys
    raw = dot(tokens.key[0, 0], tokens.query[0, 0], (0, 0))
    cap = plan.limits.soft_cap
    out = layers.soft_cap(raw, cap)
    slope = None if cap is None else 1.0 - jnp.square(out / cap)
    if tokens.line is not None:
        window = tokens.line[0, :, pl.ds(line_start(plan, i, j), queries + keys)]
        out = out + _spread(window, keys)[:, keys:]
    column = jnp.broadcast_to(tokens.key_segments[0], (128, keys)).T[:, :1]
    key_segments = jnp.broadcast_to(column, (keys, queries))
    mask = (key_segments == tokens.query_segments[0]) & (key_segments > 0)
    if plan.limits.causal:
        place = lambda axis: jax.lax.broadcasted_iota(jnp.int32, (keys, queries), axis)  # noqa: E731
        first = tokens.offset[0] + i * queries - j * keys
        behind = first + place(1) - place(0)
        mask = mask & plan.limits.sees(behind)
    return out, slope, mask


def forward(plan: Plan, tokens: Tokens, out, log_z, mixed, highest, total):
    """Adds one block of keys to the softmax of a block of queries; grid (N, B, queries, keys).

    Writes the output [H, queries] and log Z [1, queries], 0 where a query sees no key.
    """
    i, j = pl.program_id(2), pl.program_id(3)

    @pl.when(j == 0)
    def start():
        mixed[...] = jnp.zeros_like(mixed)
        highest[...] = jnp.full_like(highest, views.MASKED)
        total[...] = jnp.zeros_like(total)

    @pl.when(may_see(plan, tokens.offset[0], i, j))
    def add():
        values, _, mask = scores(plan, tokens, i, j)
        values = jnp.where(mask, values, views.MASKED)
        before = highest[...]
        after = jnp.maximum(before, values.max(axis=0, keepdims=True))
        weights = jnp.where(mask, jnp.exp(values - after), 0.0)
        shrink = jnp.exp(before - after)
        value = tokens.value[0, 0]
        mixed[...] = mixed[...] * shrink + dot(value, weights.astype(value.dtype), (1, 0))
        total[...] = total[...] * shrink + weights.sum(axis=0, keepdims=True)
        highest[...] = after

    @pl.when(j == plan.blocks_of_keys - 1)
    def finish():
        sees = total[...] > 0
        count = jnp.where(sees, total[...], 1.0)
        out[0, 0] = (mixed[...] * jnp.where(sees, 1.0 / count, 0.0)).astype(out.dtype)
        log_z[0, 0] = jnp.where(sees, highest[...] + jnp.log(count), 0.0)


def backward(plan: Plan, tokens: Tokens, given, log_z, delta, to_query, to_key, to_value, *rest):
    """Adds one pair of blocks to all gradients; grid (N, B, keys, queries).

    The gradient of the queries of a row stays in VMEM until all its keys are through, that of the
    line until all rows of the batch are.
    """
    to_line = None if tokens.line is None else rest[0]
    queries, keys, values = rest[-3:]  # sums in float32
    b, j, i = (pl.program_id(k) for k in (1, 2, 3))

    @pl.when(i == 0)
    def start_keys():
        keys[...] = jnp.zeros_like(keys)
        values[...] = jnp.zeros_like(values)

    @pl.when((i == 0) & (j == 0))
    def start_queries():
        queries[...] = jnp.zeros_like(queries)

    @pl.when((i == 0) & (j == 0) & (b == 0))
    def start_line():
        if to_line is not None:
            to_line[...] = jnp.zeros_like(to_line)

    @pl.when(may_see(plan, tokens.offset[0], i, j))
    def add():
        query, key, value = tokens.query[0, 0], tokens.key[0, 0], tokens.value[0, 0]
        out, slope, mask = scores(plan, tokens, i, j)
        weights = jnp.where(mask, jnp.exp(out - log_z[0, 0]), 0.0)
        values[...] += dot(given[0, 0], weights.astype(query.dtype), (1, 1))
        to_scores = weights * (dot(value, given[0, 0], (0, 0)) - delta[0, 0])
        if to_line is not None:
            window = pl.ds(line_start(plan, i, j), plan.num_queries + plan.num_keys)
            to_line[0, :, window] += _diagonals(to_scores)
        to_raw = (to_scores if slope is None else to_scores * slope).astype(query.dtype)
        here = pl.ds(pl.multiple_of(i * plan.num_queries, 128), plan.num_queries)
        queries[:, here] += dot(key, to_raw, (1, 0))
        keys[...] += dot(query, to_raw, (1, 1))

    @pl.when(i == plan.blocks_of_queries - 1)
    def finish_keys():
        to_key[0, 0] = keys[...].astype(to_key.dtype)
        to_value[0, 0] = values[...].astype(to_value.dtype)

    @pl.when((i == plan.blocks_of_queries - 1) & (j == plan.blocks_of_keys - 1))
    def finish_queries():
        to_query[0, 0] = queries[...].astype(to_query.dtype)


def _spread(window: jax.Array, keys: int) -> jax.Array:
    """Spreads [1, queries + keys] over rows, row c moved right by c: [keys, queries + keys].

    Entry (c, r + keys) is the window at r - c + keys. Eight rows are made bit by bit, then their
    number doubles; from 128 rows on a move is by whole registers, and free. (A strided roll does
    it at once, but on a v4 there is none.)
    """
    rows = jnp.broadcast_to(window, (ROWS, window.shape[1]))
    row = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 0)
    for bit in (1, 2, 4):
        rows = jnp.where((row & bit) > 0, pltpu.roll(rows, bit, 1), rows)
    while rows.shape[0] < keys:
        rows = jnp.concatenate([rows, pltpu.roll(rows, rows.shape[0], 1)], axis=0)
    return rows


def _diagonals(block: jax.Array) -> jax.Array:
    """Sums a block [keys, queries] along its diagonals, up to 8 rows: [8, queries + keys].

    Row c has to move left by c. Halves are added, the lower one moved by its height, so that all
    the moving costs as much as one pass; a kernel's caller moves the last eight rows.
    """
    keys = block.shape[0]
    rows = jnp.concatenate([jnp.zeros((keys, keys), block.dtype), block], axis=1)
    while rows.shape[0] > ROWS:
        half = rows.shape[0] // 2
        rows = rows[:half] + pltpu.roll(rows[half:], rows.shape[1] - half, 1)
    return rows
