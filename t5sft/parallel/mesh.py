"""The device mesh: axis sizes in, `jax.sharding.Mesh` out."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from t5sft import errors

AXES = ("replica", "data", "fsdp", "fsdp_inner", "tensor", "context")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """The sizes of a mesh; `make` arranges devices in it, whichever machine has them.

    Neighbours on the last axes are neighbours in hardware, so the axes that talk most come last.

    Args:
      replica: whole copies of the model, one or more per TPU slice; talks once a step.
      data: copies of the parameters that share a slice.
      fsdp: parameters are split over it and gathered layer by layer (ZeRO-3, arXiv:1910.02054).
      fsdp_inner: a second axis for the same. Weights are gathered over one axis after the other:
        the TPU compiler turns the gradients of a single axis into whole all-reduces, 30 % more
        bytes at 256 chips. Two axes of the sizes of the torus suit a pod: 16 and 16 on v5e-256.
      tensor: heads, feed-forward and vocabulary are split over it (Megatron, arXiv:1909.08053).
      context: the sequence is split over it.

    At most one size may be -1: it takes the devices that are left.

    Example (8 devices):
      MeshSpec(tensor=2).make()           (1, 4, 1, 1, 2, 1)
      MeshSpec(fsdp=4, tensor=2).make()   (1, 1, 4, 1, 2, 1)
      MeshSpec(tensor=3).make()           ConfigError: ... use data=-1, tensor=2
    """

    replica: int = 1
    data: int = -1
    fsdp: int = 1
    fsdp_inner: int = 1
    tensor: int = 1
    context: int = 1

    def make(self, devices: Sequence[Any] | None = None) -> Mesh:
        """Returns the mesh of these devices: all devices of all processes if None.

        Args:
          devices: also those of a TPU topology that is only described.

        Raises:
          ConfigError: the sizes do not multiply to the number of devices.
        """
        devices = jax.devices() if devices is None else list(devices)
        shape = _resolve(dataclasses.asdict(self), len(devices))
        kinds = (AxisType.Auto,) * len(AXES)
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        if slices == 1:
            return jax.make_mesh(shape, AXES, kinds, devices=devices)
        if shape[0] % slices:
            raise errors.ConfigError(
                f"replica={shape[0]} does not divide over {slices} TPU slices; mesh; "
                f"use replica={slices} or a multiple of it"
            )
        within = (shape[0] // slices, *shape[1:])
        across = (slices, *(1 for _ in shape[1:]))
        grid = mesh_utils.create_hybrid_device_mesh(within, across, devices)
        return Mesh(grid, AXES, axis_types=kinds)


def make_mesh(*, devices: Sequence[Any] | None = None, **sizes: int) -> Mesh:
    """Returns `MeshSpec(**sizes).make(devices)`."""
    return MeshSpec(**sizes).make(devices)


def resolve(mesh: MeshSpec | Mesh | None, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes the mesh of a run out of what its configuration gives; None is all devices as data.

    A mesh that is made already passes as it is.
    """
    spec = MeshSpec() if mesh is None else mesh
    return spec.make(devices) if isinstance(spec, MeshSpec) else spec


def _resolve(wanted: dict[str, int], num_devices: int) -> tuple[int, ...]:
    """Replaces -1 by the devices that are left; raises ConfigError if they do not come out."""
    said = ", ".join(f"{axis}={size}" for axis, size in wanted.items() if size != 1) or "all 1"
    bad = [axis for axis, size in wanted.items() if size < 1 and size != -1]
    if bad:
        raise errors.ConfigError(
            f"{bad[0]}={wanted[bad[0]]} is no axis size; mesh; use a positive number or -1"
        )
    free = [axis for axis, size in wanted.items() if size == -1]
    if len(free) > 1:
        raise errors.ConfigError(
            f"{' and '.join(free)} are all -1; mesh; only one axis can take what is left"
        )
    product = math.prod(size for size in wanted.values() if size != -1)
    if num_devices % product or (not free and num_devices != product):
        raise errors.ConfigError(
            f"{said} needs {'a multiple of ' if free else ''}{product} devices, "
            f"but there are {num_devices}; mesh; use {_alternative(wanted, num_devices)}"
        )
    return tuple(num_devices // product if size == -1 else size for size in wanted.values())


def _alternative(wanted: dict[str, int], num_devices: int) -> str:
    """Names sizes near the wanted ones that do come out; data takes what is left."""
    left, sizes = num_devices, []
    for axis in reversed(AXES):  # the tightest axes first: they are the hardest to replace
        if axis == "data" or wanted[axis] in (1, -1):
            continue
        size = max(n for n in range(1, min(wanted[axis], left) + 1) if left % n == 0)
        left //= size
        sizes.append(f"{axis}={size}")
    return ", ".join(["data=-1", *reversed(sizes)])
