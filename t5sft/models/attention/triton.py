"""Flash attention of packed rows for NVIDIA GPUs, by Pallas through Triton.

Forward and backward as FlashAttention-2 (Dao 2023, arXiv:2307.08691, section 3). cuDNN sees
segments as a mask only, computes all of it, and would want T5's bias at [B, N, T, S]; here blocks
of other segments are not computed, and of the bias there is one block for each distance of blocks.
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
from t5sft.models.attention.tiles import BLOCK

# By kernel, measured on an H200: threads of a block, in 32s, and loads that are under way at once.
WARPS = {"attention": 4, "attention_keys": 4, "attention_queries": 4, "attention_bias": 4}
STAGES = {"attention": 2, "attention_keys": 4, "attention_queries": 3, "attention_bias": 1}
SHARES = 16  # of the rows of a batch, whose gradients of the bias are summed side by side


class Inputs(NamedTuple):
    """The arrays, padded to whole blocks."""

    offset: jax.Array  # [1] int32, place of the first query in the row of the keys
    query: jax.Array  # [B, T, N, H]
    key: jax.Array  # [B, S, K, H]
    value: jax.Array  # [B, S, K, H]
    query_segments: jax.Array  # [B, T]
    key_segments: jax.Array  # [B, S]
    bias: jax.Array | None  # [N, distances, queries, keys] float32, a block for each distance


class Plan(NamedTuple):
    """What is known while tracing; hashable."""

    limits: views.Limits
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
    interpret: bool = False,
) -> jax.Array:
    """Returns [B, T, N, H] in the dtype of the values; a query that sees no key gets zero.

    Args: as `blockwise.attend`; H is a power of two from 16 on.
      interpret: run the kernels as plain XLA, on any device (for tests).
    """
    t, s = query.shape[1], key.shape[1]
    more_t, more_s = -t % BLOCK, -s % BLOCK
    pad = lambda x, more: jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))  # noqa: E731
    if line is not None:
        line = jnp.pad(line, ((0, 0), (more_s, more_t)))
        line = jax.lax.dynamic_slice_in_dim(line, offset, t + more_t + s + more_s, axis=1)
    inputs = Inputs(
        offset=jnp.asarray(offset, jnp.int32).reshape(1),
        query=pad(query, more_t),
        key=pad(key, more_s),
        value=pad(value, more_s),
        query_segments=pad(query_segments, more_t),
        key_segments=pad(key_segments, more_s),
        bias=None if line is None else _blocks_of_bias(line),
    )
    return _attend(Plan(limits, interpret), inputs)[:, :t]


def _blocks_of_bias(line: jax.Array) -> jax.Array:
    """One block for each distance of blocks: [N, T + S] -> [N, (T + S) / BLOCK - 1, BLOCK, BLOCK].

    Number i - j + S / BLOCK - 1 is that of queries i and keys j.
    """
    parts = line.reshape(line.shape[0], -1, BLOCK)
    windows = jnp.concatenate([parts[:, :-1], parts[:, 1:]], axis=2)
    blocks = bias.line_block(windows.reshape(-1, 2 * BLOCK), BLOCK, BLOCK)
    return blocks.reshape(*windows.shape[:2], BLOCK, BLOCK)


def _meets(plan: Plan, x: Inputs) -> jax.Array:
    """Which pairs of blocks may see each other: [B, blocks of queries, blocks of keys] bool."""

    def ends(segments):
        blocks = segments.reshape(segments.shape[0], -1, BLOCK)
        low = jnp.where(blocks > 0, blocks, jnp.iinfo(jnp.int32).max).min(axis=-1)
        return low, blocks.max(axis=-1)

    query_low, query_high = ends(x.query_segments)
    key_low, key_high = ends(x.key_segments)
    meets = query_low[:, :, None] <= key_high[:, None, :]
    meets &= key_low[:, None, :] <= query_high[:, :, None]
    limits = plan.limits
    if not limits.causal:
        return meets
    blocks = jnp.arange(query_low.shape[1])[:, None] - jnp.arange(key_low.shape[1])[None, :]
    behind = x.offset[0] + BLOCK * blocks
    seen = behind + BLOCK > 0
    if limits.window is not None:
        seen &= behind - BLOCK + 1 < limits.window
    return meets & seen[None]


def _span(meets: jax.Array) -> jax.Array:
    """The first block met and the one after the last, along the last axis: [B, blocks, 2]."""
    begin = jnp.argmax(meets, axis=-1)
    end = meets.shape[-1] - jnp.argmax(meets[..., ::-1], axis=-1)
    return jnp.stack([begin, jnp.where(meets.any(axis=-1), end, begin)], -1).astype(jnp.int32)


def _call(plan: Plan, body, name: str, grid, specs: Sequence, arrays, out_specs, shapes):
    """Runs a kernel on the arrays that are there."""
    present = [each for each in zip(specs, arrays, strict=True) if each[1] is not None]
    return pl.pallas_call(
        functools.partial(body, plan.limits),
        grid=grid,
        in_specs=[spec for spec, _ in present],
        out_specs=out_specs,
        out_shape=shapes,
        compiler_params=pallas_triton.CompilerParams(
            num_warps=WARPS[name], num_stages=STAGES[name]
        ),
        interpret=plan.interpret,
        name=name,
    )(*(array for _, array in present))


def _whole(*shape: int) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))


def _by_queries(x: Inputs):
    """Block shapes of the inputs and of [B, N, T]. Grid: blocks of queries, heads, rows."""
    h, group = x.query.shape[3], x.query.shape[2] // x.key.shape[2]
    s = x.key.shape[1]
    queries = pl.BlockSpec((None, BLOCK, None, h), lambda i, n, b: (b, i, n, 0))
    keys = pl.BlockSpec((None, s, None, h), lambda i, n, b: (b, 0, n // group, 0))
    distances = None
    if x.bias is not None:
        distances = pl.BlockSpec((None, *x.bias.shape[1:]), lambda i, n, b: (n, 0, 0, 0))
    inputs = [
        _whole(1),
        pl.BlockSpec((None, None, 2), lambda i, n, b: (b, i, 0)),
        queries,
        keys,
        keys,
        pl.BlockSpec((None, BLOCK), lambda i, n, b: (b, i)),
        pl.BlockSpec((None, s), lambda i, n, b: (b, 0)),
        distances,
    ]
    return inputs, pl.BlockSpec((None, None, BLOCK), lambda i, n, b: (b, n, i))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, x: Inputs) -> jax.Array:
    return _forward(plan, x)[0]


def _forward(plan: Plan, x: Inputs):
    b, t, n, _ = x.query.shape
    specs, statistics = _by_queries(x)
    out, log_z = _call(
        plan,
        tiles.forward,
        "attention",
        (t // BLOCK, n, b),
        specs,
        (x.offset, _span(_meets(plan, x)), *x[1:]),
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
    to_bias = None if x.bias is None else _of_bias(plan, x, more)
    return (Inputs(None, _of_queries(plan, x, more), to_key, to_value, None, None, to_bias),)


_attend.defvjp(_forward, _backward)


def _of_keys(plan: Plan, x: Inputs, more):
    """Gradients of keys and values. Grid: blocks of keys, heads of keys, rows."""
    b, t, n, h = x.query.shape
    s, k = x.key.shape[1:3]
    group = n // k
    queries = pl.BlockSpec((None, t, group, h), lambda j, k, b: (b, 0, k, 0))
    keys = pl.BlockSpec((None, BLOCK, None, h), lambda j, k, b: (b, j, k, 0))
    statistics = pl.BlockSpec((None, group, t), lambda j, k, b: (b, k, 0))
    turned = distances = None
    if x.bias is not None:
        turned = x.bias.swapaxes(2, 3)
        distances = pl.BlockSpec((group, *turned.shape[1:]), lambda j, k, b: (k, 0, 0, 0))
    return _call(
        plan,
        tiles.of_keys,
        "attention_keys",
        (s // BLOCK, k, b),
        [
            _whole(1),
            pl.BlockSpec((None, None, 2), lambda j, k, b: (b, j, 0)),
            queries,
            keys,
            keys,
            pl.BlockSpec((None, t), lambda j, k, b: (b, 0)),
            pl.BlockSpec((None, BLOCK), lambda j, k, b: (b, j)),
            distances,
            queries,
            statistics,
            statistics,
        ],
        (x.offset, _span(_meets(plan, x).swapaxes(1, 2)), *x[1:-1], turned, *more),
        [keys, keys],
        [jax.ShapeDtypeStruct(y.shape, y.dtype) for y in (x.key, x.value)],
    )


def _of_queries(plan: Plan, x: Inputs, more):
    """Gradient of the queries."""
    b, t, n, _ = x.query.shape
    specs, statistics = _by_queries(x)
    return _call(
        plan,
        tiles.of_queries,
        "attention_queries",
        (t // BLOCK, n, b),
        [*specs, specs[2], statistics, statistics],
        (x.offset, _span(_meets(plan, x)), *x[1:], *more),
        specs[2],
        jax.ShapeDtypeStruct(x.query.shape, x.query.dtype),
    )


def _of_bias(plan: Plan, x: Inputs, more):
    """Gradient of the blocks of the bias. Grid: distances, heads, shares of the rows."""
    assert x.bias is not None
    b, t, n, h = x.query.shape
    s, group = x.key.shape[1], n // x.key.shape[2]
    num = x.bias.shape[1]
    shares = max(each for each in range(1, SHARES + 1) if b % each == 0)
    rows = b // shares
    queries = pl.BlockSpec((rows, t, None, h), lambda d, n, p: (p, 0, n, 0))
    keys = pl.BlockSpec((rows, s, None, h), lambda d, n, p: (p, 0, n // group, 0))
    statistics = pl.BlockSpec((rows, None, t), lambda d, n, p: (p, n, 0))
    parts = _call(
        plan,
        tiles.of_bias,
        "attention_bias",
        (num, n, shares),
        [
            _whole(1),
            pl.BlockSpec((rows, t // BLOCK, s // BLOCK), lambda d, n, p: (p, 0, 0)),
            queries,
            keys,
            keys,
            pl.BlockSpec((rows, t), lambda d, n, p: (p, 0)),
            pl.BlockSpec((rows, s), lambda d, n, p: (p, 0)),
            pl.BlockSpec((None, None, BLOCK, BLOCK), lambda d, n, p: (n, d, 0, 0)),
            queries,
            statistics,
            statistics,
        ],
        (x.offset, _meets(plan, x).astype(jnp.int32), *x[1:], *more),
        pl.BlockSpec((None, None, None, BLOCK, BLOCK), lambda d, n, p: (p, n, d, 0, 0)),
        jax.ShapeDtypeStruct((shares, *x.bias.shape), jnp.float32),
    )
    return parts.sum(axis=0)
