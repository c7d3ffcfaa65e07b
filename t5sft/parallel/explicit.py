"""Data parallelism spelt out: every device works on its own rows, and gathers weights itself.

Inside `region` arrays are a device's parts. A layer gathers its weights in the compute dtype, over
one mesh axis after the other, and the transposed gather of the backward pass is a reduce-scatter
per axis. Left to itself the TPU compiler all-reduces whole gradients: 7.27 GB on the wire of a step
that needs 5.6 at 256 chips. Axes that do not split the batch (tensor, context) stay the compiler's.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5sft.parallel import rules as rules_lib
from t5sft.parallel.rules import Names, Rules

GATHERED = "gathered"  # weights made whole, as remat policies name them


def batch_axes(mesh: Mesh, rules: Rules) -> tuple[str, ...]:
    """Returns the mesh axes that split the rows of a batch."""
    return rules_lib.axes_of(rules_lib.sharding(("batch",), mesh, rules).spec[0])


def manual_axes(mesh: Mesh, rules: Rules) -> frozenset[str]:
    """Returns the axes that `region` takes from the compiler: the batch's, and those of size 1."""
    rows = batch_axes(mesh, rules)
    return frozenset(axis for axis, size in mesh.shape.items() if axis in rows or size == 1)


def region(
    compute: Callable, mesh: Mesh, rules: Rules, params_like: Any, batch_like: Any
) -> Callable:
    """Runs compute(params, batch, key) -> (gradient, sums) on the parts of every device.

    Args:
      params_like: the parameters' `NamedSharding`s, which are also those of the gradient.
      batch_like: the batch's.

    Returns the same function of global arrays: gradients added up over the rows, and so are sums.
    """
    rows, manual = batch_axes(mesh, rules), manual_axes(mesh, rules)
    if not rows:
        return _with_rules(compute, mesh, rules, frozenset())

    def of_spec(sharding: NamedSharding) -> PartitionSpec:
        return rules_lib.only(sharding.spec, manual)

    param_specs = jax.tree.map(of_spec, params_like)
    batch_specs = jax.tree.map(of_spec, batch_like)

    def local(params, batch, key):
        gradient, sums = _with_rules(compute, mesh, rules, manual)(params, batch, key)

        def total(leaf, spec):
            scattered = {axis for part in spec for axis in rules_lib.axes_of(part)}
            over = tuple(axis for axis in rows if axis not in scattered)
            return jax.lax.psum(leaf, over) if over else leaf

        return jax.tree.map(total, gradient, param_specs), jax.lax.psum(sums, rows)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(param_specs, batch_specs, PartitionSpec()),
        out_specs=(param_specs, PartitionSpec()),
        axis_names=manual,
        check_vma=False,
    )


def _with_rules(compute: Callable, mesh: Mesh, rules: Rules, manual: frozenset[str]) -> Callable:
    def run(*arguments):
        with rules_lib.using(mesh, rules, manual):
            return compute(*arguments)

    return run


def local_shape(shape: tuple[int, ...], names: Names) -> tuple[int, ...]:
    """Returns the shape of a device's part of a parameter; the whole shape outside `region`."""
    over = _over(names)
    return tuple(size // _ways(axes) for size, axes in zip(shape, over, strict=True))


def gather(weights: jax.Array, names: Names, dtype) -> jax.Array:
    """Makes a float32 parameter whole out of the devices' parts; only a cast outside `region`.

    Cast first: half the bytes on the wire. Then one mesh axis after the other, the inner ones
    first, as their parts lie next to each other.
    """
    if not is_split(names):
        return weights.astype(dtype)
    over = _over(names)
    split, axes = _left(names)
    is_mixed = any(here and there for here, there in zip(over, split, strict=True))

    def whole(part):
        part = part.astype(dtype) if is_mixed else _narrowed(part, dtype)
        if _is_halved_in_vain():
            part = part.astype(jnp.float32)
        for dimension, axes in enumerate(over):
            for axis in reversed(axes):
                part = jax.lax.all_gather(part, axis, axis=dimension, tiled=True)
        return part.astype(dtype)

    # Left to itself, the compiler makes weights whole over tensor before it gathers them, and every
    # part goes over the wire once more for each device of the tensor axis. A dimension that both
    # split would come out in another order.
    if axes and not is_mixed:
        mesh = jax.sharding.get_abstract_mesh()
        whole = jax.shard_map(
            whole, mesh=mesh, in_specs=split, out_specs=split, axis_names=axes, check_vma=False
        )
    return checkpoint_name(whole(weights), GATHERED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _narrowed(part: jax.Array, dtype) -> jax.Array:
    """Casts a float32 part where the code says so, from the layout in which it is kept.

    Of one layer in a loop the TPU compiler would rather cast all before the loop, and turn them
    round as the products like them: a copy of all parameters, 0.87 of 11.9 GB for Llama 3 8B on 16
    chips. It moves a cast (bfloat16 propagation), but no rounding; and layouts spread, unless told.
    """
    part = layout.with_layout_constraint(part, layout.Layout(tuple(range(part.ndim))))
    to = jnp.finfo(dtype)
    return jax.lax.reduce_precision(part, to.nexp, to.nmant).astype(dtype)


# The gradient's layout stays the compiler's: told, it all-reduces instead of reduce-scattering.
_narrowed.defvjp(
    lambda part, dtype: (_narrowed(part, dtype), None),
    lambda dtype, _, gradient: (gradient.astype(jnp.float32),),
)


def _is_halved_in_vain() -> bool:
    """Whether XLA for CPUs would abort the process at the gradient's reduce-scatter in bfloat16.

    It does where some axes are the compiler's ("Invalid binary instruction opcode copy", jaxlib
    0.10.2); and a CPU has no wire to save.
    """
    found = rules_lib.in_region()
    if found is None or found[0].devices.flat[0].platform != "cpu":
        return False
    return len(manual_axes(*found)) < len(found[0].shape)


def is_split(names: Names) -> bool:
    """Tells whether devices hold parts of such a parameter that `gather` makes whole."""
    return any(_over(names))


def lookup(table: jax.Array, tokens: jax.Array, names: Names, dtype) -> jax.Array:
    """Reads rows of a table [V, D] that may be split along D: [B, T] ids -> [B, T, D].

    Inside `region` every device looks its columns up for the tokens of all, and the devices then
    exchange columns for rows: 2 * B * T * D bytes on the wire in place of the table's V * D, and
    no whole table, nor its gradient, in memory. An id outside [0, V) becomes NaN, not a neighbour.
    """
    over_vocab, axes = _over(names)
    if over_vocab:  # a device lacks rows of its own tokens
        table, axes = gather(table, names, dtype), ()
    if axes:
        tokens = jax.lax.all_gather(tokens, axes, axis=0, tiled=True)
    values = _read(table, tokens, names[0]).astype(dtype)
    if not axes:
        return values
    return jax.lax.all_to_all(values, axes, split_axis=0, concat_axis=2, tiled=True)


def _read(table: jax.Array, tokens: jax.Array, vocab: str | None) -> jax.Array:
    """Rows of a table whose rows the compiler may have split: it cannot gather so in `region`."""
    found = rules_lib.in_region()
    if found is None or rules_lib.split_ways(vocab) == 1:
        return table.at[tokens].get(mode="fill", fill_value=jnp.nan)
    free = frozenset(found[0].shape) - manual_axes(*found)
    (split,) = rules_lib.only(rules_lib.spec((vocab,), found[1]), free)
    length = rules_lib.spec((None, "length"), found[1])
    axes = rules_lib.axes_of(split)

    def local(part, tokens):
        place = tokens - jax.lax.axis_index(axes) * part.shape[0]
        is_here = (place >= 0) & (place < part.shape[0])
        values = part[jnp.where(is_here, place, 0)]
        return jax.lax.psum(jnp.where(is_here[..., None], values, 0), axes)

    specs = (PartitionSpec(split, None), length)
    values = rules_lib.on_parts(local, specs, PartitionSpec(*length, None))(table, tokens)
    is_known = (tokens >= 0) & (tokens < table.shape[0])
    return jnp.where(is_known[..., None], values, jnp.nan)


def rows(draw: Callable, shape: tuple[int, ...]) -> jax.Array:
    """Returns draw(shape), where shape[0] counts rows of the batch: the same on every mesh.

    Inside `region` all rows of the global batch are drawn, and the device keeps its own.
    """
    found = rules_lib.in_region()
    if found is None:
        return draw(shape)
    axes = batch_axes(*found)
    everyones = draw((shape[0] * _ways(axes), *shape[1:]))
    first = jax.lax.axis_index(axes) * shape[0]
    return jax.lax.dynamic_slice_in_dim(everyones, first, shape[0])


def _over(names: Names) -> list[tuple[str, ...]]:
    """The mesh axes that split each dimension between the devices of `region`."""
    found = rules_lib.in_region()
    if found is None:
        return [() for _ in names]
    mesh, rules = found
    spec = rules_lib.only(rules_lib.sharding(names, mesh, rules).spec, manual_axes(mesh, rules))
    return [rules_lib.axes_of(part) for part in spec]


def _left(names: Names) -> tuple[PartitionSpec, frozenset[str]]:
    """What splits a parameter besides the devices of `region`: a spec, and the mesh axes in it."""
    found = rules_lib.in_region()
    assert found is not None, "outside nothing is gathered"
    mesh, rules = found
    spec = rules_lib.sharding(names, mesh, rules).spec
    left = rules_lib.only(spec, frozenset(mesh.shape) - manual_axes(mesh, rules))
    return left, frozenset(axis for part in left for axis in rules_lib.axes_of(part))


def _ways(axes: tuple[str, ...]) -> int:
    found = rules_lib.in_region()
    size = 1
    for axis in axes:
        size *= found[0].shape[axis] if found else 1
    return size
