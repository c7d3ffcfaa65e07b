"""How parameters lie in a TPU's memory while they decode."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental.layout import Format, Layout

_LANES = 128  # of a TPU: its last axis in memory is padded to these


def laid_out(model: Any, params: Any) -> Any:
    """Lays the parameters out as `slots.advance` reads them on TPUs, once; gives the old ones up.

    A product of few rows wants the embedding axis second to last: of queries [L, D, N, H] it lies
    as [L, N, D, H]. Otherwise XLA lays them all out anew at the beginning of every loop of steps,
    and holds both: 9 GB more for the 13.5 of Llama 2 7B. Whatever is compiled afterwards takes them
    as they lie. On other devices nothing is done.
    """

    def one(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
        order = order_of(x.shape, names)
        if order is None or platform(x) != "tpu":
            return x
        where = Format(Layout(order), x.sharding)
        return jax.jit(lambda x: x, out_shardings=where, donate_argnums=0)(x)

    return jax.tree.map(one, params, model.abstract()[1])


def order_of(shape: Sequence[int], names: Sequence[str | None]) -> tuple[int, ...] | None:
    """Axes of a parameter, slowest first; None: as they are.

    A last axis that fills no lanes is not last in a TPU's memory, and nothing is copied.

    Example (L D N H = 2 2048 32 128; 64):
      layers embed heads head_dim           0 2 1 3     None
      layers embed None kv_heads head_dim   0 2 3 1 4   None
      layers mlp embed                      None        None
    """
    if "embed" not in names[:-2] or shape[-1] % _LANES:
        return None
    axes = list(range(len(names)))
    axes.insert(-1, axes.pop(names.index("embed")))
    return tuple(axes)


def platform(x: jax.Array) -> str:
    """Platform of the devices that hold an array."""
    return next(iter(x.sharding.device_set)).platform
