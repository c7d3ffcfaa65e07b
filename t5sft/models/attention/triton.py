"""Flash attention of packed rows for NVIDIA GPUs, by Pallas through Triton.

Forward and backward as FlashAttention-2 (Dao 2023, arXiv:2307.08691, section 3). cuDNN sees
segments as a mask only, computes all blocks of it, and would want T5's bias at [B, N, T, S]; here
blocks of other segments are not computed, and the bias is read from its line of distances.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pallas_triton

from t5sft.models.attention import bias, tiles, views

SMALLEST = 64  # tokens of a block: rows are padded to a multiple of it


class Shape(NamedTuple):
    """How a kernel is cut and scheduled."""

    num_queries: int  # per block; a power of two
    num_keys: int  # per block; a power of two
    warps: int
    stages: int  # loads that are under way at once


class Shapes(NamedTuple):
    """Of the three kernels, measured on an H200."""

    forward: Shape = Shape(64, 64, 4, 3)
    keys: Shape = Shape(64, 64, 4, 3)  # gradients of keys and values
    queries: Shape = Shape(64, 64, 4, 3)  # gradient of queries
    line: Shape = Shape(64, 64, 4, 2)  # gradient of the bias


MEASURED = Shapes()


class Inputs(NamedTuple):
    """The arrays, padded to whole blocks."""

    offset: jax.Array  # [1] int32, place of the first query in the row of the keys
    query: jax.Array  # [B, T, N, H]
    key: jax.Array  # [B, S, K, H]
    value: jax.Array  # [B, S, K, H]
    query_segments: jax.Array  # [B, T]
    key_segments: jax.Array  # [B, S]
    line: jax.Array | None  # [N, at least offset + T + S] float32


class Plan(NamedTuple):
    """What is known while tracing; hashable."""

    limits: views.Limits
    shapes: Shapes
    interpret: bool


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
    shapes: Shapes = MEASURED,
    interpret: bool = False,
) -> jax.Array:
    """Returns [B, T, N, H] in the dtype of the values; a query that sees no key gets zero.

    Args: as `blockwise.attend`; H is a power of two from 16 on.
      shapes: of the kernels; a block is halved until it divides the padded row.
      interpret: run the kernels as plain XLA, on any device (for tests).
    """
    t, s = query.shape[1], key.shape[1]
    more_t, more_s = -t % SMALLEST, -s % SMALLEST
    pad = lambda x, more: jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))  # noqa: E731
    inputs = Inputs(
        offset=jnp.asarray(offset, jnp.int32).reshape(1),
        query=pad(query, more_t),
        key=pad(key, more_s),
        value=pad(value, more_s),
        query_segments=pad(query_segments, more_t),
        key_segments=pad(key_segments, more_s),
        line=None if line is None else jnp.pad(line, ((0, 0), (more_s, more_t))),
    )
    fitting = Shapes(*(_fitting(shape, t + more_t, s + more_s) for shape in shapes))
    return _attend(Plan(limits, fitting, interpret), inputs)[:, :t]


def _fitting(shape: Shape, t: int, s: int) -> Shape:
    """Halves the blocks until they divide the lengths: multiples of SMALLEST."""
    queries, keys = shape.num_queries, shape.num_keys
    while t % queries:
        queries //= 2
    while s % keys:
        keys //= 2
    return shape._replace(num_queries=queries, num_keys=keys)


def _meets(plan: Plan, shape: Shape, x: Inputs) -> jax.Array:
    """Which pairs of blocks may see each other: [B, blocks of queries, blocks of keys] bool."""
    rows = x.query.shape[0]

    def ends(segments, size):
        blocks = segments.reshape(rows, -1, size)
        low = jnp.where(blocks > 0, blocks, jnp.iinfo(jnp.int32).max).min(axis=-1)
        return low, blocks.max(axis=-1)

    query_low, query_high = ends(x.query_segments, shape.num_queries)
    key_low, key_high = ends(x.key_segments, shape.num_keys)
    meets = query_low[:, :, None] <= key_high[:, None, :]
    meets &= key_low[:, None, :] <= query_high[:, :, None]
    limits = plan.limits
    if not limits.causal:
        return meets
    first_query = x.offset[0] + jnp.arange(query_low.shape[1]) * shape.num_queries
    first_key = jnp.arange(key_low.shape[1]) * shape.num_keys
    behind = first_query[:, None] - first_key[None, :]
    seen = behind + shape.num_queries > 0
    if limits.window is not None:
        seen &= behind - shape.num_keys + 1 < limits.window
    return meets & seen[None]


def _span(meets: jax.Array) -> jax.Array:
    """The first block met and the one after the last, along the last axis: [B, blocks, 2]."""
    begin = jnp.argmax(meets, axis=-1)
    end = meets.shape[-1] - jnp.argmax(meets[..., ::-1], axis=-1)
    return jnp.stack([begin, jnp.where(meets.any(axis=-1), end, begin)], -1).astype(jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, x: Inputs) -> jax.Array:
    return _forward(plan, x)[0]


def _call(plan: Plan, shape: Shape, body, name: str, grid, specs: Sequence, arrays, out, outs):
    """Runs a kernel on the arrays that are there."""
    length = arrays[3].shape[1]
    present = [
        (spec, array) for spec, array in zip(specs, arrays, strict=True) if array is not None
    ]
    return pl.pallas_call(
        functools.partial(body, tiles.Tile(plan.limits, shape.num_queries, shape.num_keys, length)),
        grid=grid,
        in_specs=[spec for spec, _ in present],
        out_specs=out,
        out_shape=outs,
        compiler_params=pallas_triton.CompilerParams(
            num_warps=shape.warps, num_stages=shape.stages
        ),
        interpret=plan.interpret,
        name=name,
    )(*(array for _, array in present))


def _whole(*shape: int) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))


def _by_queries(shape: Shape, x: Inputs):
    """Block shapes of the inputs and of [B, N, T]. Grid: blocks of queries, heads, rows."""
    h, group = x.query.shape[3], x.query.shape[2] // x.key.shape[2]
    s = x.key.shape[1]
    queries = pl.BlockSpec((None, shape.num_queries, None, h), lambda i, n, b: (b, i, n, 0))
    keys = pl.BlockSpec((None, s, None, h), lambda i, n, b: (b, 0, n // group, 0))
    inputs = [
        _whole(1),
        pl.BlockSpec((None, None, 2), lambda i, n, b: (b, i, 0)),
        queries,
        keys,
        keys,
        pl.BlockSpec((None, shape.num_queries), lambda i, n, b: (b, i)),
        pl.BlockSpec((None, s), lambda i, n, b: (b, 0)),
        None if x.line is None else pl.BlockSpec((None, x.line.shape[1]), lambda i, n, b: (n, 0)),
    ]
    return inputs, pl.BlockSpec((None, None, shape.num_queries), lambda i, n, b: (b, n, i))


def _forward(plan: Plan, x: Inputs):
    shape = plan.shapes.forward
    b, t, n, _ = x.query.shape
    specs, statistics = _by_queries(shape, x)
    out, log_z = _call(
        plan,
        shape,
        tiles.forward,
        "attention",
        (t // shape.num_queries, n, b),
        specs,
        (x.offset, _span(_meets(plan, shape, x)), *x[1:]),
        [specs[2], statistics],
        [
            jax.ShapeDtypeStruct(x.query.shape, x.value.dtype),
            jax.ShapeDtypeStruct((b, n, t), jnp.float32),
        ],
    )
    out, log_z = checkpoint_name(out, "attention"), checkpoint_name(log_z, "attention")
    return out, (x, out, log_z)


def _backward(plan: Plan, kept, cotangent: jax.Array):
    x, out, log_z = kept
    product = out.astype(jnp.float32) * cotangent.astype(jnp.float32)
    delta = product.sum(axis=-1).swapaxes(1, 2)  # [B, N, T]
    more = (cotangent.astype(x.query.dtype), log_z, delta)
    to_key, to_value = _of_keys(plan, x, more)
    to_line = None if x.line is None else _of_line(plan, x, more)
    return (Inputs(None, _of_queries(plan, x, more), to_key, to_value, None, None, to_line),)


_attend.defvjp(_forward, _backward)


def _of_keys(plan: Plan, x: Inputs, more):
    """Gradients of keys and values. Grid: blocks of keys, heads of keys, rows."""
    shape = plan.shapes.keys
    b, t, n, h = x.query.shape
    s, k = x.key.shape[1:3]
    group = n // k
    queries = pl.BlockSpec((None, t, group, h), lambda j, k, b: (b, 0, k, 0))
    keys = pl.BlockSpec((None, shape.num_keys, None, h), lambda j, k, b: (b, j, k, 0))
    statistics = pl.BlockSpec((None, group, t), lambda j, k, b: (b, k, 0))
    line = None
    if x.line is not None:
        line = pl.BlockSpec((group, x.line.shape[1]), lambda j, k, b: (k, 0))
    specs = [
        _whole(1),
        pl.BlockSpec((None, None, 2), lambda j, k, b: (b, j, 0)),
        queries,
        keys,
        keys,
        pl.BlockSpec((None, t), lambda j, k, b: (b, 0)),
        pl.BlockSpec((None, shape.num_keys), lambda j, k, b: (b, j)),
        line,
        queries,
        statistics,
        statistics,
    ]
    return _call(
        plan,
        shape,
        tiles.of_keys,
        "attention_keys",
        (s // shape.num_keys, k, b),
        specs,
        (x.offset, _span(_meets(plan, shape, x).swapaxes(1, 2)), *x[1:], *more),
        [keys, keys],
        [jax.ShapeDtypeStruct(y.shape, y.dtype) for y in (x.key, x.value)],
    )


def _of_queries(plan: Plan, x: Inputs, more):
    """Gradient of the queries."""
    shape = plan.shapes.queries
    b, t, n, _ = x.query.shape
    specs, statistics = _by_queries(shape, x)
    return _call(
        plan,
        shape,
        tiles.of_queries,
        "attention_queries",
        (t // shape.num_queries, n, b),
        [*specs, specs[2], statistics, statistics],
        (x.offset, _span(_meets(plan, shape, x)), *x[1:], *more),
        specs[2],
        jax.ShapeDtypeStruct(x.query.shape, x.query.dtype),
    )


def _of_line(plan: Plan, x: Inputs, more):
    """Gradient of the line. Grid: blocks of queries, blocks of keys, heads.

    The gradient of the scores is summed over the rows in the kernel; [N, T, S] is what is left of
    them for the sum along diagonals, B times less than the scores.
    """
    assert x.line is not None
    shape = plan.shapes.line
    b, t, n, h = x.query.shape
    s, group = x.key.shape[1], n // x.key.shape[2]
    queries = pl.BlockSpec((b, shape.num_queries, None, h), lambda i, j, n: (0, i, n, 0))
    keys = pl.BlockSpec((b, shape.num_keys, None, h), lambda i, j, n: (0, j, n // group, 0))
    statistics = pl.BlockSpec((b, None, shape.num_queries), lambda i, j, n: (0, n, i))
    specs = [
        _whole(1),
        pl.BlockSpec((b, None, None), lambda i, j, n: (0, i, j)),
        queries,
        keys,
        keys,
        pl.BlockSpec((b, shape.num_queries), lambda i, j, n: (0, i)),
        pl.BlockSpec((b, shape.num_keys), lambda i, j, n: (0, j)),
        pl.BlockSpec((None, x.line.shape[1]), lambda i, j, n: (n, 0)),
        queries,
        statistics,
        statistics,
    ]
    by_pair = _call(
        plan,
        shape,
        tiles.of_line,
        "attention_line",
        (t // shape.num_queries, s // shape.num_keys, n),
        specs,
        (x.offset, _meets(plan, shape, x).astype(jnp.int32), *x[1:], *more),
        pl.BlockSpec((None, shape.num_queries, shape.num_keys), lambda i, j, n: (n, i, j)),
        jax.ShapeDtypeStruct((n, t, s), jnp.float32),
    )
    window = jax.ShapeDtypeStruct((n, t + s), jnp.float32)
    (summed,) = jax.linear_transpose(lambda w: bias.line_block(w, t, s), window)(by_pair)
    zeros = jnp.zeros_like(x.line)
    return jax.lax.dynamic_update_slice_in_dim(zeros, summed, x.offset[0], axis=1)
