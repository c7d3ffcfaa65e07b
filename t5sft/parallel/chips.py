"""What a chip can do: peak FLOP/s, memory, bandwidths. Plain facts; nothing of JAX is imported.

TPU figures: docs.cloud.google.com/tpu/docs, the page of each version (read November 2026). NVIDIA
figures: dense bfloat16 with float32 accumulation, half of what data sheets give "with sparsity".
Compared in November 2026 with what others quote of NVIDIA's data sheets: A100, H100 and B200 by
glennklockwood.com/garden/processors (it names the sheets), H200 by the same and by itkb.uw.cz,
B200's memory by NVIDIA's table of HGX B200. Not compared: H100 PCIe and NVL, H200 NVL, L4, L40S,
A10G. An H200 reached 790e12 in products of 8192 x 8192.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple


class Chip(NamedTuple):
    """One kind of chip. All figures are of a whole chip, whatever number of devices JAX sees in it.

    Args:
      name: as Google Cloud's topologies have it ("v5e"), or the card's.
      device_kinds: how `jax.Device.device_kind` begins.
      flops: bfloat16 FLOP/s.
      hbm_bytes: size of its memory; a compiler leaves a little less.
      hbm_bandwidth: bytes/s.
      link_bandwidth: bytes/s in one direction of one link to a neighbour; 0 where the chips of a
        host are no torus.
      torus_axes: of its slices; a chip has two links along each. 0: none.
      cores: devices that JAX lists for a chip where they are not one (ahead of time: v4, too).
    """

    name: str
    device_kinds: tuple[str, ...]
    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float = 0.0
    torus_axes: int = 0
    cores: int = 1


GIB = 2**30
# The pages give all links of a chip in both directions: v5e 400 GB/s = 4 links x 2 directions x 50.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", ("TPU v4",), 275e12, 32 * GIB, 1228e9, 50e9, 3, 2),
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 819e9, 50e9, 2),
        Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * GIB, 2765e9, 100e9, 3),
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, 1638e9, 100e9, 2),
        Chip("tpu7x", ("TPU7x",), 2307e12, 192 * GIB, 7380e9, 100e9, 3, 2),
        Chip("a100-40gb", ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE"), 312e12, 40 * GIB, 1555e9),
        Chip("a100-80gb", ("NVIDIA A100-SXM4-80GB",), 312e12, 80 * GIB, 2039e9),
        Chip("a100-80gb-pcie", ("NVIDIA A100 80GB",), 312e12, 80 * GIB, 1935e9),
        Chip("h100-pcie", ("NVIDIA H100 PCIe",), 756e12, 80 * GIB, 2000e9),
        Chip("h100-nvl", ("NVIDIA H100 NVL",), 835e12, 94 * GIB, 3900e9),
        Chip("h100", ("NVIDIA H100",), 989.4e12, 80 * GIB, 3350e9),
        Chip("h200-nvl", ("NVIDIA H200 NVL",), 835e12, 141 * 10**9, 4800e9),
        Chip("h200", ("NVIDIA H200",), 989.4e12, 141 * 10**9, 4800e9),
        Chip("b200", ("NVIDIA B200",), 2250e12, 180 * 10**9, 7700e9),
        Chip("l4", ("NVIDIA L4",), 121e12, 24 * GIB, 300e9),
        Chip("l40s", ("NVIDIA L40S",), 362e12, 48 * GIB, 864e9),
        Chip("a10g", ("NVIDIA A10G",), 70e12, 24 * GIB, 600e9),
    )
}


def find(device_kind: str) -> Chip | None:
    """Returns the chip of a `jax.Device.device_kind`; None where its figures are not known.

    TPUs have fixed names; of a card's, memory and socket may follow, and the longest one decides.

    Example:
      find("TPU v5 lite").name              "v5e"
      find("TPU v5").name                   "v5p"
      find("NVIDIA H100 80GB HBM3").name    "h100"
      find("cpu")                           None
    """
    known = {kind: chip for chip in CHIPS.values() for kind in chip.device_kinds}
    if device_kind in known:
        return known[device_kind]
    nvidia = [kind for kind in known if kind.startswith("NVIDIA")]
    fitting = [kind for kind in nvidia if device_kind.startswith((f"{kind} ", f"{kind}-"))]
    return known[max(fitting, key=len)] if fitting else None


def peak_flops(devices: Iterable[Any]) -> float | None:
    """Returns the bfloat16 FLOP/s of all these devices together; None where a chip is not known.

    Two devices of one chip (the cores of a TPU7x) are counted once: they have the same place.
    """
    places = set()
    total = 0.0
    for device in devices:
        chip = find(device.device_kind)
        if chip is None:
            return None
        coords = getattr(device, "coords", None)
        place = (getattr(device, "slice_index", 0), tuple(coords)) if coords else (device.id,)
        total += 0.0 if place in places else chip.flops
        places.add(place)
    return total
