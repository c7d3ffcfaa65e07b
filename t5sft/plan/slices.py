"""Slices of TPUs that can be had, and how Google Cloud's names count them.

docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read in November 2026.
"""

import itertools
import math
from typing import NamedTuple

from t5sft.parallel import chips


class Product(NamedTuple):
    """How one generation of TPU is sold.

    Args:
      counted: what the number in a name counts per chip: its TensorCores, or 1 for the chip.
      max_chips: of the largest slice.
      network_bandwidth: bytes/s per chip to other slices, over the data center's network.
      host_bandwidth: bytes/s per chip and direction to the memory of its host (PCIe).
      devices: that JAX sees per chip.
      options: for the compiler's description of its topologies. JAX joins the two cores of a v4
        chip to one device; libtpu has to be told.
    """

    chip: chips.Chip
    counted: int
    max_chips: int
    network_bandwidth: float
    host_bandwidth: float
    devices: int = 1
    options: tuple[tuple[str, str], ...] = ()

    def shapes(self) -> list[tuple[int, ...]]:
        """Returns the slices that exist, smallest first; of one size the most compact first."""
        if self.chip.torus_axes == 2:
            return [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
        small: list[tuple[int, ...]] = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)]
        if self.chip.name == "tpu7x":
            small.insert(0, (1, 1, 1))
        sides = range(4, self.max_chips // 16 + 1, 4)  # larger ones are made of cubes 4 x 4 x 4
        cubes = [
            (a, b, c)
            for a, b in itertools.combinations_with_replacement(sides, 2)
            if a * b * b <= self.max_chips
            for c in range(b, self.max_chips // (a * b) + 1, 4)
        ]
        return small + sorted(cubes, key=lambda shape: (math.prod(shape), sum(shape)))


# Network: v5p 50, v6e and tpu7x 100 Gb/s per chip; v5e 6.4 Tb/s per 256 chips. For v4 the page has
# no figure, and v5p's is taken. Host: jax-ml.github.io/scaling-book/tpus, 16 GB/s, of v6e 32; for
# tpu7x it has no figure, and v6e's is taken.
PRODUCTS = {
    product.chip.name: product
    for product in (
        Product(chips.CHIPS["v4"], 2, 4096, 6.25e9, 16e9, 1, (("chip_config_name", "megacore"),)),
        Product(chips.CHIPS["v5e"], 1, 256, 3.125e9, 16e9),
        Product(chips.CHIPS["v5p"], 2, 6144, 6.25e9, 16e9),
        Product(chips.CHIPS["v6e"], 1, 256, 12.5e9, 32e9),
        Product(chips.CHIPS["tpu7x"], 2, 9216, 12.5e9, 32e9, 2),
    )
}
# Fake devices of this machine, to try a plan where nothing of TPUs is installed; rates made up.
CPU = Product(chips.Chip("cpu", (), 1e11, 16 * chips.GIB, 2e10, 1e9, 1), 1, 4096, 1e8, 1e9)
