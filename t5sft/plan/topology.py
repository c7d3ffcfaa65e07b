"""Names of TPU slices, as Google Cloud users write them, and the devices they stand for.

A name counts what the product counts: chips of v5e and v6e, TensorCores (two per chip) of v4, v5p
and tpu7x. So v5e-256 has 256 chips and v5p-128 has 64.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from t5sft import errors
from t5sft.parallel import chips
from t5sft.plan import slices

ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e", "v7x": "tpu7x", "v7": "tpu7x"}
EXAMPLES = "v5e-16, v5p-128, 2xv5e-256 (two slices), v5e:4x4 (a shape), cpu-8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Equal slices of one product.

    Args:
      product: its generation.
      shape: chips of a slice along the axes of its torus.
      num_slices: slices, joined by the data center's network.
    """

    product: slices.Product
    shape: tuple[int, ...]
    num_slices: int = 1

    @property
    def chip(self) -> chips.Chip:
        return self.product.chip

    @property
    def is_fake(self) -> bool:
        """Whether it is made of CPU devices, which stand for chips."""
        return self.product is slices.CPU

    @property
    def num_chips(self) -> int:
        return math.prod(self.shape) * self.num_slices

    @property
    def num_devices(self) -> int:
        return self.num_chips * self.product.devices

    @property
    def name(self) -> str:
        size = f"{self.chip.name}-{math.prod(self.shape) * self.product.counted}"
        return size if self.num_slices == 1 else f"{self.num_slices}x{size}"

    def __str__(self) -> str:
        if self.is_fake:
            return f"{self.num_chips} CPU devices"
        several = f"{self.num_slices} slices of " if self.num_slices > 1 else ""
        shape = "x".join(map(str, self.shape))
        return f"{self.name}: {several}{math.prod(self.shape)} {self.chip.name} chips ({shape})"


def parse(name: str) -> Topology:
    """Reads a name.

    Raises:
      ConfigError: no such chip or slice; it names the nearest that exists.

    Example:
      v5e-256       16 x 16 chips
      v5p-128       4 x 4 x 4 chips, 128 TensorCores
      v5p:4x4x4     the same, by its shape
      2xv5e-256     two slices of 16 x 16
      cpu-8         8 devices of this machine, for trying
    """
    found = re.fullmatch(r"(?:(\d+)x)?([a-z][a-z0-9]*)(?:-(\d+)|:(\d+(?:x\d+)*))", name.lower())
    if not found:
        raise errors.ConfigError(f"{name!r} is no topology; --topology; use one as {EXAMPLES}")
    number, generation, count, shape = found.groups()
    if number == "0":
        raise errors.ConfigError(f"{name!r} has no slice; --topology; use 2xv5e-256 for two")
    num_slices = int(number or 1)
    if generation == "cpu":
        return _cpu(name, count, num_slices)
    product = slices.PRODUCTS.get(ALIASES.get(generation, generation))
    if product is None:
        known = ", ".join(slices.PRODUCTS)
        raise errors.ConfigError(
            f"no chip {generation!r}{errors.suggest(generation, [*slices.PRODUCTS, *ALIASES])}; "
            f"--topology; use one of {known}"
        )
    if shape:
        wanted = tuple(int(side) for side in shape.split("x"))
        matches = [s for s in product.shapes() if sorted(s) == sorted(wanted)]
        size = math.prod(wanted) * product.counted
    else:
        size = int(count)
        matches = [s for s in product.shapes() if math.prod(s) * product.counted == size]
    if not matches:
        raise errors.ConfigError(
            f"no slice {name.removeprefix(f'{number}x')}; --topology; "
            f"{_counts(product)}: use {_near(product, size)}"
        )
    return Topology(product, matches[0], num_slices)


def _cpu(name: str, count: str | None, num_slices: int) -> Topology:
    if not count or int(count) < 1 or num_slices > 1:
        raise errors.ConfigError(f"{name!r} is no topology; --topology; use cpu-8 for 8 devices")
    return Topology(slices.CPU, (int(count),))


def _counts(product: slices.Product) -> str:
    return (
        "the number counts TensorCores, two per chip" if product.counted == 2 else "it counts chips"
    )


def _near(product: slices.Product, size: int) -> str:
    """Names the slices next below and above a size."""
    sizes = sorted({math.prod(shape) * product.counted for shape in product.shapes()})
    below = [n for n in sizes if n < size][-1:]
    above = [n for n in sizes if n >= size][:1]
    return " or ".join(f"{product.chip.name}-{n}" for n in (*below, *above))


def devices(topology: Topology) -> list:
    """Returns the devices to compile for; a TPU's are described, not there.

    Raises:
      ConfigError: libtpu is not installed, or this JAX has too few CPU devices.
    """
    if topology.is_fake:
        return _cpu_devices(topology.num_chips)
    return list(_described(topology))


def prepare() -> None:
    """Makes JAX compile here and ask no machine about TPUs; to be called before its first use."""
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        # Told, libtpu does not complain on stderr that it can not find them out.
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second plan on this machine is refused
        "TPU_LOG_DIR": "disabled",
    }.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def _cpu_devices(count: int) -> list:
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has begun, with the devices it has
            jax.config.update("jax_num_cpu_devices", max(count, jax.config.jax_num_cpu_devices))
    found = jax.devices("cpu")
    if len(found) < count:
        raise errors.ConfigError(
            f"cpu-{count} needs {count} devices, this JAX has {len(found)}; --topology; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return found[:count]


@functools.cache
def _described(topology: Topology) -> tuple:
    if importlib.util.find_spec("libtpu") is None:
        raise errors.ConfigError(
            f"libtpu, the compiler for TPUs, is not installed; plan for {topology.name}; "
            "run pip install 't5sft[tpu]' (no TPU is needed)"
        )
    shape = "x".join(map(str, topology.shape))
    name = f"{topology.chip.name}:{shape}"
    options: dict = dict(topology.product.options)
    if topology.num_slices > 1:
        options["num_slices"] = topology.num_slices
    described = topologies.get_topology_desc(name, "tpu", **options)
    if len(described.devices) != topology.num_devices:
        raise RuntimeError(f"{name} has {len(described.devices)} devices, not as we know it")
    return tuple(described.devices)
