"""Logical axis names to mesh axes: the shardings of parameters and activations.

Models name the axes of their arrays ("embed", "heads", ...); a rule list from gin says which mesh
axis each name is split over (the idea of T5X, arXiv:2203.17189, section 2.3).
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5sft import errors

Rules = Sequence[tuple[str, str | Sequence[str] | None]]
Names = Sequence[str | None]

DEFAULT_RULES: Rules = (
    ("batch", ("replica", "data", "fsdp", "fsdp_inner")),
    ("length", "context"),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("embed", ("fsdp", "fsdp_inner")),
    ("act_embed", None),
    ("head_dim", None),
    ("layers", None),
    ("norm", None),  # small: not worth a gather per layer
    ("relpos_buckets", None),
)


class _Active(NamedTuple):
    mesh: Mesh
    rules: Rules
    manual: frozenset[str]  # axes whose parts the traced code sees: `explicit.region`


_active: contextvars.ContextVar[_Active | None] = contextvars.ContextVar(
    "active_rules", default=None
)


def spec(names: Names, rules: Rules = DEFAULT_RULES) -> PartitionSpec:
    """Maps the logical names of one array to mesh axes, each mesh axis at most once.

    For every name the first rule counts whose mesh axes the array does not use yet, so a later
    rule for the same name is a second choice. The name None is never split.

    Example:
      ("vocab", "mlp")              PartitionSpec("tensor", None)
      ("embed", None, "mlp")        PartitionSpec(("fsdp", "fsdp_inner"), None, "tensor")
      ("length", "embed", "embed")  PartitionSpec("context", ("fsdp", "fsdp_inner"), None)

    Raises:
      ConfigError: no rule has the name.
    """
    known = {name for name, _ in rules}
    used: set[str] = set()
    out = []
    for name in names:
        if name is not None and name not in known:
            raise errors.ConfigError(
                f"no rule for the logical axis {name!r}; sharding rules; "
                f"add ({name!r}, None) or a mesh axis{errors.suggest(name, known)}"
            )
        choices = (axes for rule, axes in rules if rule == name and not used & {*axes_of(axes)})
        choice = next(choices, None)
        used |= {*axes_of(choice)}
        out.append(choice if choice is None or isinstance(choice, str) else tuple(choice))
    return PartitionSpec(*out)


def sharding(names: Names, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
    """Returns how an array with these logical names lies on the mesh.

    Axes of size 1 split nothing and are left out.

    Raises:
      ConfigError: a rule names an axis that the mesh does not have.
    """
    out = spec(names, rules)
    for axis in (axis for axes in out for axis in axes_of(axes)):
        if axis not in mesh.shape:
            raise errors.ConfigError(
                f"the mesh has no axis {axis!r}; sharding rules; "
                f"use one of {', '.join(mesh.shape)}{errors.suggest(axis, mesh.shape)}"
            )
    return NamedSharding(mesh, PartitionSpec(*(_split(axes, mesh) for axes in out)))


def ways(name: str, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> int:
    """Returns into how many parts the mesh splits an axis: what must divide a batch size."""
    over = sharding((name,), mesh, rules).spec[0]
    return math.prod(mesh.shape[axis] for axis in axes_of(over))


def shardings(shapes: Any, axes: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """Returns the tree of `NamedSharding` for a model's parameters, checked before any compile.

    Args:
      shapes: nested dict of arrays or `jax.ShapeDtypeStruct`, as of `model.abstract()`.
      axes: the same dict with a tuple of logical axis names per array.

    Raises:
      ConfigError: a mesh axis does not divide an array. It names the parameter, both sizes and
        the nearest axis sizes that work.
    """

    def one(path: tuple, shape: Any, names: Names) -> NamedSharding:
        result = sharding(names, mesh, rules)
        parameter = jax.tree_util.keystr(path, simple=True, separator=".")
        for size, name, over in zip(shape.shape, names, result.spec, strict=True):
            _check_divides(
                parameter, size, name, {axis: mesh.shape[axis] for axis in axes_of(over)}
            )
        return result

    return jax.tree_util.tree_map_with_path(one, shapes, axes)


def table(shapes: Any, axes: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> list[dict[str, Any]]:
    """Returns how every parameter lies on the mesh, one row each, to be printed or kept as JSON.

    Args:
      shapes, axes: as of `model.abstract()`.

    Example (fsdp=4, tensor=2):
      parameter  shape     names          split                     part     bytes_per_device
      head       [16, 64]  [embed, vocab] [[fsdp], [tensor]]        [4, 32]  512
    """
    found = shardings(shapes, axes, mesh, rules)
    rows = []
    for (path, leaf), names, placed in zip(
        jax.tree_util.tree_leaves_with_path(shapes),
        jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple)),
        jax.tree.leaves(found),
        strict=True,
    ):
        part = placed.shard_shape(leaf.shape)
        rows.append(
            {
                "parameter": jax.tree_util.keystr(path, simple=True, separator="."),
                "shape": [*leaf.shape],
                "names": [*names],
                "split": [[*axes_of(over)] for over in placed.spec],
                "part": [*part],
                "bytes_per_device": math.prod(part) * leaf.dtype.itemsize,
            }
        )
    return rows


@contextlib.contextmanager
def using(
    mesh: Mesh, rules: Rules = DEFAULT_RULES, manual: frozenset[str] = frozenset()
) -> Iterator[None]:
    """Makes `constrain` act while a model is traced inside the block.

    Enter it inside the function given to `jax.jit`: the context is no part of jit's cache key.

    Args:
      manual: mesh axes whose parts the block computes with (`explicit.region`).
    """
    token = _active.set(_Active(mesh, rules, manual))
    try:
        yield
    finally:
        _active.reset(token)


def constrain(x: jax.Array, names: Names) -> jax.Array:
    """Tells the compiler how an activation lies on the mesh; identity outside `using`."""
    if len(names) != x.ndim:
        raise ValueError(f"{len(names)} axis names {tuple(names)} for an array of shape {x.shape}")
    now = _active.get()
    if now is None:
        return x
    whole = sharding(names, now.mesh, now.rules)
    if not now.manual:
        return jax.lax.with_sharding_constraint(x, whole)
    if len(now.manual) == len(now.mesh.shape):
        return x
    rest = only(whole.spec, frozenset(now.mesh.shape) - now.manual)
    mesh = jax.sharding.get_abstract_mesh()
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, rest))


def active() -> tuple[Mesh, Rules] | None:
    """The mesh and the rules of the innermost `using`, None outside."""
    now = _active.get()
    return None if now is None else (now.mesh, now.rules)


def device() -> Any:
    """Returns a device that the program is compiled for: of the active mesh, else JAX's first.

    `t5sft plan` compiles for TPUs in a process that has CPUs only.
    """
    here = active()
    return here[0].devices.flat[0] if here else jax.devices()[0]


def platform() -> str:
    """Returns the platform of `device`: "cpu", "tpu" or "gpu"."""
    name = device().platform
    return "gpu" if name in ("cuda", "rocm") else name


def in_region() -> tuple[Mesh, Rules] | None:
    """The same inside `explicit.region`, None elsewhere."""
    now = _active.get()
    return None if now is None or not now.manual else (now.mesh, now.rules)


def on_parts(compute: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """Makes `compute` run on every device's part of its arguments, for what XLA cannot split.

    Args:
      in_specs, out_specs: `PartitionSpec`s by mesh axes, as `spec` returns them. Axes that the
        code sees the parts of already are left out of them.
    """
    now = _active.get()
    free = frozenset() if now is None else _free(now)
    if now is None or not free:
        return compute
    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    left = lambda specs: jax.tree.map(lambda s: only(s, free), specs, is_leaf=is_spec)  # noqa: E731
    return jax.shard_map(
        compute,
        mesh=jax.sharding.get_abstract_mesh() if now.manual else now.mesh,
        in_specs=left(in_specs),
        out_specs=left(out_specs),
        axis_names=free,
        check_vma=False,
    )


def split_ways(name: str | None) -> int:
    """Returns into how many parts an axis is still split where `on_parts` would split it."""
    now = _active.get()
    if now is None:
        return 1
    over = only(spec((name,), now.rules), _free(now))[0]
    return math.prod(now.mesh.shape[axis] for axis in axes_of(over))


def _free(now: _Active) -> frozenset[str]:
    """The axes that are the compiler's; those of size 1 with them, unless all are."""
    free = frozenset(now.mesh.shape) - now.manual
    return free if any(now.mesh.shape[axis] > 1 for axis in free) else frozenset()


def only(spec: PartitionSpec, axes: frozenset[str]) -> PartitionSpec:
    """Leaves out of a spec what is not among these mesh axes."""
    parts = (tuple(axis for axis in axes_of(part) if axis in axes) for part in spec)
    return PartitionSpec(*(part if len(part) > 1 else part[0] if part else None for part in parts))


def _split(choice: str | Sequence[str] | None, mesh: Mesh) -> str | tuple[str, ...] | None:
    """Leaves out the axes of size 1."""
    kept = frozenset(axis for axis in axes_of(choice) if mesh.shape[axis] > 1)
    return only(PartitionSpec(choice), kept)[0]


def axes_of(choice: str | Sequence[str] | None) -> tuple[str, ...]:
    """The mesh axes of one entry of a rule or of a `PartitionSpec`."""
    if choice is None:
        return ()
    return (choice,) if isinstance(choice, str) else tuple(choice)


def _check_divides(parameter: str, size: int, name: str | None, over: Mapping[str, int]) -> None:
    ways = math.prod(over.values())
    if size % ways == 0:
        return
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    below = max(n for n in divisors if n < ways)
    above = min((n for n in divisors if n > ways), default=None)
    works = f"{below} or {above}" if above else f"{below}"
    mesh_axes = " x ".join(f"{axis}={count}" for axis, count in over.items())
    raise errors.ConfigError(
        f"{parameter} has {size} along {name!r}, which {mesh_axes} does not divide; mesh; "
        f"use {' x '.join(over)} = {works}, or the rule ({name!r}, None)"
    )
