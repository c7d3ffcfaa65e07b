"""Flash attention with T5's relative bias in one TPU kernel each way (Pallas).

Forward and backward as FlashAttention (Dao 2023, arXiv:2307.08691, section 3.1). The bias of a
block is made in the kernel from a line of distances, each row the one above moved by one lane, and
its gradient is summed along diagonals there: nothing of size T x S is in memory.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t5sft.models.attention import kernels, views

LANES = 128
BLOCKS = (512, 256, 128)  # the first that divides a padded row
KEPT_BYTES = 8 * 2**20  # most that the gradient of a row's queries may take of VMEM, float32


class Inputs(NamedTuple):
    """The arrays, padded to whole blocks, tokens along lanes."""

    offset: jax.Array  # [1] int32, place of the first query in the row of the keys
    query: jax.Array  # [B, N, H, T]
    key: jax.Array  # [B, K, H, S]
    value: jax.Array  # [B, K, H, S]
    query_segments: jax.Array  # [B, 1, T]
    key_segments: jax.Array  # [B, 1, S]
    line: jax.Array | None  # [N, 1, T + S] float32, from the distance of the first query on


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
    blocks: tuple[int, ...] = BLOCKS,
    interpret: bool = False,
) -> jax.Array:
    """Returns [B, T, N, H] in the dtype of the values; a query that sees no key gets zero.

    Args: as `blockwise.attend`.
      blocks: sizes of a block to choose from, the first that divides the padded length.
      interpret: run the kernels as plain XLA, on any device (for tests).
    """
    t, s = query.shape[1], key.shape[1]
    more_t, more_s = -t % LANES, -s % LANES
    num_queries, num_keys = (
        next(size for size in blocks if length % size == 0) for length in (t + more_t, s + more_s)
    )
    blocks_of_queries, blocks_of_keys = (t + more_t) // num_queries, (s + more_s) // num_keys
    pairs = sum(
        not isinstance(offset, int)
        or limits.may_see(offset + i * num_queries, num_queries, j * num_keys, num_keys)
        for i in range(blocks_of_queries)
        for j in range(blocks_of_keys)
    )
    plan = kernels.Plan(
        limits, num_queries, num_keys, blocks_of_queries, blocks_of_keys, pairs, interpret
    )

    def lanes(x, more):  # [B, T, N, H] -> [B, N, H, padded T]
        return jnp.pad(x.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), (0, more)))

    if line is not None:
        line = jnp.pad(line, ((0, 0), (more_s, more_t)))
        size = t + more_t + s + more_s
        line = jax.lax.dynamic_slice_in_dim(line, offset, size, axis=1)[:, None]
    inputs = Inputs(
        offset=jnp.asarray(offset, jnp.int32).reshape(1),
        query=lanes(query, more_t),
        key=lanes(key, more_s),
        value=lanes(value, more_s),
        query_segments=jnp.pad(query_segments, ((0, 0), (0, more_t)))[:, None],
        key_segments=jnp.pad(key_segments, ((0, 0), (0, more_s)))[:, None],
        line=line,
    )
    return _attend(plan, inputs)[..., :t].transpose(0, 3, 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: kernels.Plan, x: Inputs) -> jax.Array:
    return _forward(plan, x)[0]


def _divided(number, by: int):
    """Division of what is not negative: `//` asks the process for the kind of its TPU."""
    return jax.lax.div(number, jnp.int32(by))


def _specs(plan: kernels.Plan, x: Inputs, order) -> tuple[Inputs, tuple]:
    """Block shapes of the inputs, and of what has the shape of queries: [H, T] and [1, T].

    Args:
      order: (third, fourth number of the grid) -> (block of queries, block of keys).
    """
    h, group = x.query.shape[2], x.query.shape[1] // x.key.shape[1]

    def visible(i, j, offset):  # a block that is skipped is not fetched
        i, j = order(i, j)
        if plan.limits.causal:
            last = _divided(offset[0] + (i + 1) * plan.num_queries - 1, plan.num_keys)
            j = jnp.minimum(j, last)
        return i, j

    def of_queries(rows):
        block = (1, 1, rows, plan.num_queries)
        return pl.BlockSpec(block, lambda n, b, i, j, offset: (b, n, 0, order(i, j)[0]))

    def of_keys():
        block = (1, 1, h, plan.num_keys)
        return pl.BlockSpec(
            block, lambda n, b, i, j, offset: (b, _divided(n, group), 0, visible(i, j, offset)[1])
        )

    line = None
    if x.line is not None:
        line = pl.BlockSpec((1, 1, x.line.shape[2]), lambda n, b, i, j, offset: (n, 0, 0))
    segments = (
        pl.BlockSpec((1, 1, plan.num_queries), lambda n, b, i, j, offset: (b, 0, order(i, j)[0])),
        pl.BlockSpec(
            (1, 1, plan.num_keys), lambda n, b, i, j, offset: (b, 0, visible(i, j, offset)[1])
        ),
    )
    return (
        Inputs(None, of_queries(h), of_keys(), of_keys(), *segments, line),
        (of_queries(h), of_queries(1)),
    )


def _cost(plan: kernels.Plan, x: Inputs, matmuls: int, arrays) -> pl.CostEstimate:
    """What the compiler cannot see in a kernel: the pairs that are computed."""
    b, n, h, _ = x.query.shape
    entries = b * n * plan.pairs * plan.num_queries * plan.num_keys
    return pl.CostEstimate(
        flops=2 * matmuls * entries * h,
        transcendentals=entries * (1 if plan.limits.soft_cap is None else 2),
        bytes_accessed=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays)),
    )


def _params(*parallel: str) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=parallel)


def _forward(plan: kernels.Plan, x: Inputs):
    b, n, h, t = x.query.shape
    specs, (of_heads, of_rows) = _specs(plan, x, lambda i, j: (i, j))
    shapes = (
        jax.ShapeDtypeStruct((b, n, h, t), x.value.dtype),
        jax.ShapeDtypeStruct((b, n, 1, t), jnp.float32),
    )

    def body(offset, *refs):
        kernels.forward(plan, *_apart(x, offset, refs))

    out, log_z = pl.pallas_call(
        body,
        out_shape=shapes,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(n, b, plan.blocks_of_queries, plan.blocks_of_keys),
            in_specs=[spec for spec in specs[1:] if spec is not None],
            out_specs=[of_heads, of_rows],
            scratch_shapes=[
                pltpu.VMEM((h, plan.num_queries), jnp.float32),
                pltpu.VMEM((1, plan.num_queries), jnp.float32),
                pltpu.VMEM((1, plan.num_queries), jnp.float32),
            ],
        ),
        compiler_params=_params("parallel", "parallel", "parallel", "arbitrary"),
        cost_estimate=_cost(plan, x, 2, (x, shapes)),
        interpret=plan.interpret,
        name="fused_attention",
    )(*(leaf for leaf in x if leaf is not None))
    out = checkpoint_name(out, "attention")
    return out, (x, out, checkpoint_name(log_z, "attention"))


def _apart(x: Inputs, offset, refs):
    """The references of a kernel as Tokens and the rest."""
    number = sum(leaf is not None for leaf in x[1:])
    taken = list(refs[:number]) + [None] * (x.line is None)
    return kernels.Tokens(offset, *taken), *refs[number:]


def _backward(plan: kernels.Plan, kept, cotangent: jax.Array):
    x, out, log_z = kept
    b, n, h, t = x.query.shape
    s = x.key.shape[3]
    product = out.astype(jnp.float32) * cotangent.astype(jnp.float32)
    delta = product.sum(axis=2, keepdims=True)  # [B, N, 1, T]
    specs, (of_heads, of_rows) = _specs(plan, x, lambda j, i: (i, j))
    whole = pl.BlockSpec((1, 1, h, t), lambda n, b, j, i, offset: (b, n, 0, 0))
    of_keys = pl.BlockSpec((1, 1, h, plan.num_keys), lambda n, b, j, i, offset: (b, n, 0, j))
    shapes = [
        jax.ShapeDtypeStruct((b, n, h, t), x.query.dtype),
        jax.ShapeDtypeStruct((b, n, h, s), x.key.dtype),
        jax.ShapeDtypeStruct((b, n, h, s), x.value.dtype),
    ]
    out_specs = [whole, of_keys, of_keys]
    if x.line is not None:
        shape = (n, kernels.ROWS, t + s)
        shapes.append(jax.ShapeDtypeStruct(shape, jnp.float32))
        out_specs.append(pl.BlockSpec((1, *shape[1:]), lambda n, b, j, i, offset: (n, 0, 0)))

    def body(offset, *refs):
        kernels.backward(plan, *_apart(x, offset, refs))

    more = (cotangent.astype(x.query.dtype), log_z, delta)
    to_query, to_key, to_value, *to_line = pl.pallas_call(
        body,
        out_shape=shapes,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(n, b, plan.blocks_of_keys, plan.blocks_of_queries),
            in_specs=[
                *(spec for spec in specs[1:] if spec is not None),
                of_heads,
                of_rows,
                of_rows,
            ],
            out_specs=out_specs,
            scratch_shapes=[
                pltpu.VMEM((h, t), jnp.float32),
                pltpu.VMEM((h, plan.num_keys), jnp.float32),
                pltpu.VMEM((h, plan.num_keys), jnp.float32),
            ],
        ),
        compiler_params=_params("parallel", "arbitrary", "arbitrary", "arbitrary"),
        cost_estimate=_cost(plan, x, 5, (x, more, shapes)),
        interpret=plan.interpret,
        name="fused_attention_backward",
    )(*(leaf for leaf in x if leaf is not None), *more)
    k = x.key.shape[1]

    def grouped(x):  # each query head has its own sum; [B, N, H, S] -> [B, K, H, S]
        return x if n == k else x.reshape(b, k, n // k, h, s).sum(axis=2)

    line = None
    if to_line:  # row c of the last eight still has to move left by c
        moved = [jnp.roll(to_line[0][:, c], -c, axis=1) for c in range(kernels.ROWS)]
        line = sum(moved)[:, None]
    return (Inputs(None, to_query, grouped(to_key), grouped(to_value), None, None, line),)


_attend.defvjp(_forward, _backward)
