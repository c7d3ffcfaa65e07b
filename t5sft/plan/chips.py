"""What a TPU chip can do, from Google's documentation, and which slices of it can be had."""

import dataclasses
import itertools
import math

GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU; all rates are per chip and per second.

    Args:
      name: as in v5e-256.
      hbm_bytes: what a program may use; the compiler's own limit, which lies under the capacity.
      flops: peak of bfloat16 matrix products.
      hbm_bandwidth: bytes between HBM and chip.
      ici_bandwidth: bytes one link carries in one direction; a chip has two links per torus axis.
      dcn_bandwidth: bytes between slices, through the host's network card.
      dimensions: axes of the torus.
      cores: what the number in a product's name counts: TensorCores of a chip, or 1 for chips.
      devices: devices that JAX sees per chip.
      max_chips: of the largest slice.
    """

    name: str
    hbm_bytes: int
    flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    dimensions: int
    cores: int
    devices: int
    max_chips: int

    def shapes(self) -> list[tuple[int, ...]]:
        """Returns the slices that exist, smallest first; of one size the most compact first."""
        if self.dimensions == 2:
            return [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
        small = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)]
        if self.name == "tpu7x":
            small.insert(0, (1, 1, 1))
        sides = range(4, self.max_chips // 16 + 1, 4)  # larger ones are made of cubes 4 x 4 x 4
        cubes = [
            (a, b, c)
            for a, b in itertools.combinations_with_replacement(sides, 2)
            if a * b * b <= self.max_chips
            for c in range(b, self.max_chips // (a * b) + 1, 4)
        ]
        return small + sorted(cubes, key=lambda shape: (math.prod(shape), sum(shape)))


# docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read in November 2026: peak in bf16, HBM
# bandwidth, chips of the largest slice, ICI bandwidth in both directions of all links (v4 300, v5e
# 200 in one direction as "1600 Gbps", v5p and tpu7x 1200, v6e 800 GB/s) and DCN bandwidth per chip
# (v5p 50, v6e and tpu7x 100 Gb/s; v5e 6.4 Tb/s per 256 chips; for v4 v5p's is taken). Usable HBM
# and devices per chip are what libtpu 0.0.52 says when a program does not fit.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 0, 275e12, 1200e9, 50e9, 6.25e9, 3, 2, 2, 4096),
        Chip("v5e", 0, 197e12, 819e9, 50e9, 3.125e9, 2, 1, 1, 256),
        Chip("v5p", 0, 459e12, 2765e9, 100e9, 6.25e9, 3, 2, 1, 6144),
        Chip("v6e", 0, 918e12, 1638e9, 100e9, 12.5e9, 2, 1, 1, 256),
        Chip("tpu7x", 0, 2307e12, 7380e9, 100e9, 12.5e9, 3, 2, 2, 9216),
    )
}
# Fake devices of this machine, to try a plan where nothing of TPUs is installed; the rates are
# made up.
CPU = Chip("cpu", 16 * GiB, 1e11, 2e10, 1e9, 1e8, 1, 1, 1, 4096)
