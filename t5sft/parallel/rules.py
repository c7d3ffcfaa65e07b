"""Logical axis names to mesh axes: the shardings of parameters and activations.

Models name the axes of their arrays ("embed", "heads", ...); a rule list from gin says which mesh
axis each name is split over (the idea of T5X, arXiv:2203.17189, section 2.3).
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
    ("relpos_buckets", None),
)

_active: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar(
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
        choices = (axes for rule, axes in rules if rule == name and not used & {*_axes(axes)})
        choice = next(choices, None)
        used |= {*_axes(choice)}
        out.append(choice if choice is None or isinstance(choice, str) else tuple(choice))
    return PartitionSpec(*out)


def sharding(names: Names, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
    """Returns how an array with these logical names lies on the mesh.

    Axes of size 1 split nothing and are left out.

    Raises:
      ConfigError: a rule names an axis that the mesh does not have.
    """
    out = spec(names, rules)
    for axis in (axis for axes in out for axis in _axes(axes)):
        if axis not in mesh.shape:
            raise errors.ConfigError(
                f"the mesh has no axis {axis!r}; sharding rules; "
                f"use one of {', '.join(mesh.shape)}{errors.suggest(axis, mesh.shape)}"
            )
    return NamedSharding(mesh, PartitionSpec(*(_split(axes, mesh) for axes in out)))


def ways(name: str, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> int:
    """Returns into how many parts the mesh splits an axis: what must divide a batch size."""
    over = sharding((name,), mesh, rules).spec[0]
    return math.prod(mesh.shape[axis] for axis in _axes(over))


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
            _check_divides(parameter, size, name, {axis: mesh.shape[axis] for axis in _axes(over)})
        return result

    return jax.tree_util.tree_map_with_path(one, shapes, axes)


@contextlib.contextmanager
def using(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Iterator[None]:
    """Makes `constrain` act while a model is traced inside the block.

    Enter it inside the function given to `jax.jit`: the context is no part of jit's cache key.
    """
    token = _active.set((mesh, rules))
    try:
        yield
    finally:
        _active.reset(token)


def active() -> tuple[Mesh, Rules] | None:
    """The mesh and the rules of the innermost `using`, None outside."""
    return _active.get()


def constrain(x: jax.Array, names: Names) -> jax.Array:
    """Tells the compiler how an activation lies on the mesh; identity outside `using`."""
    if len(names) != x.ndim:
        raise ValueError(f"{len(names)} axis names {tuple(names)} for an array of shape {x.shape}")
    active = _active.get()
    if active is None:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(names, *active))


def _split(choice: str | Sequence[str] | None, mesh: Mesh) -> str | tuple[str, ...] | None:
    """Leaves out the axes of size 1."""
    axes = tuple(axis for axis in _axes(choice) if mesh.shape[axis] > 1)
    return axes if len(axes) > 1 else axes[0] if axes else None


def _axes(choice: str | Sequence[str] | None) -> tuple[str, ...]:
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
