"""A step takes as long as the slowest of compute, HBM and interconnect."""

import pytest

from t5sft.plan import count, roofline, topology


def counts(**changed):
    gathers = (
        count.Collective("all-gather", "fsdp", 3, 10**9),
        count.Collective("all-reduce", "replica", 1, 5 * 10**9),
    )
    told = dict(
        matmul_flops=197 * 10**12,
        kernel_flops=0,
        kernels=0,
        undeclared_kernels=0,
        hbm_bytes=819 * 10**9,
        host_bytes=0,
        collectives=gathers,
        unknown_loops=(),
    )
    return count.Counts(**{**told, **changed})


def test_three_terms():
    """v5e: 197 TFLOP/s, 819 GB/s, a ring of two links at 50 GB/s."""
    got = roofline.of_counts(topology.parse("v5e-16"), counts(kernel_flops=197 * 10**12))
    assert (got.compute, got.hbm) == (2.0, 1.0)
    assert got.ici == pytest.approx(6e9 / 100e9)
    assert (got.predicted, got.bound, got.dcn) == (2.0, "compute", 0.0)


def test_between_slices_only_replicas_talk():
    got = roofline.of_counts(topology.parse("2xv5e-16"), counts())
    assert got.ici == pytest.approx(1e9 / 100e9)
    assert got.dcn == pytest.approx(5e9 / 3.125e9)
    assert got.bound == "dcn"


def test_half_a_chip_has_half_its_rates():
    """JAX sees two devices per tpu7x chip: 2307 TFLOP/s, 7380 GB/s for both."""
    got = roofline.of_counts(topology.parse("tpu7x-8"), counts())
    assert got.compute == pytest.approx(2 * 197 / 2307)
    assert got.hbm == pytest.approx(2 * 819 / 7380)


def test_the_memory_of_the_host_is_a_roof_of_its_own():
    """v5e: 16 GB/s each way."""
    got = roofline.of_counts(topology.parse("v5e-16"), counts(host_bytes=32 * 10**9))
    assert got.host == pytest.approx(2.0) == got.predicted
    assert got.bound == "host"
    assert roofline.to_json(got).keys() == {"compute", "hbm", "ici", "dcn", "host", "predicted"}
