"""How long a step takes at least: the slowest of what runs beside one another.

Williams et al. 2009 (doi:10.1145/1498765.1498785), with the interconnect and the ways out of a
slice as more roofs. The prediction takes all as overlapping perfectly, and every matrix product as
reaching the peak.
"""

import dataclasses

from t5sft.plan import collectives, count, topology

ROOFS = ("compute", "hbm", "ici", "dcn", "host")


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """Seconds of one step.

    Args:
      compute: FLOPs over the peak; hbm: bytes over HBM's bandwidth.
      ici: bytes on the wire over one ring in both directions, two links of a chip: a mesh axis that
        lies along several axes of the torus may be faster.
      dcn: bytes between slices, over the network of the data center.
      host: bytes to the memory of the host or back, whichever is more.
    """

    compute: float
    hbm: float
    ici: float
    dcn: float
    host: float = 0.0

    @property
    def predicted(self) -> float:
        return max(getattr(self, name) for name in ROOFS)

    @property
    def bound(self) -> str:
        """Which of them it is."""
        return max(ROOFS, key=lambda name: getattr(self, name))


def to_json(seconds: StepSeconds) -> dict[str, float]:
    """Returns the terms and the prediction as plain data."""
    return {**dataclasses.asdict(seconds), "predicted": seconds.predicted}


def step_seconds(
    place: topology.Topology,
    *,
    flops: float,
    hbm_bytes: float,
    ici: float,
    dcn: float = 0.0,
    host: float = 0.0,
) -> StepSeconds:
    """Divides what a device does by what it can do; a device may be half a chip.

    Args:
      flops, hbm_bytes, ici, dcn, host: per device and step; the last three in bytes sent.
    """
    chip, share = place.chip, place.product.devices
    return StepSeconds(
        compute=flops * share / chip.flops,
        hbm=hbm_bytes * share / chip.hbm_bandwidth,
        ici=ici * share / (2 * chip.link_bandwidth),
        dcn=dcn * share / place.product.network_bandwidth,
        host=host * share / place.product.host_bandwidth,
    )


def of_counts(place: topology.Topology, counts: count.Counts) -> StepSeconds:
    """Returns the roofline of a counted program; between slices only replicas talk."""
    crosses = place.num_slices > 1
    between = collectives.BETWEEN_SLICES
    dcn = sum(c.wire_bytes_per_chip for c in counts.collectives if crosses and between in c.axis)
    return step_seconds(
        place,
        flops=counts.matmul_flops + counts.kernel_flops,
        hbm_bytes=counts.hbm_bytes,
        ici=counts.wire_bytes - dcn,
        dcn=dcn,
        host=counts.host_bytes,
    )
