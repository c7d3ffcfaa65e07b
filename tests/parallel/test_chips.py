"""Chips are told by JAX's names, and two cores of one chip are one chip."""

import types

import pytest

from t5sft.parallel import chips


@pytest.mark.parametrize(
    "kind, name",
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
    ],
)
def test_a_chip_is_found_by_its_kind(kind, name):
    assert chips.find(kind).name == name


@pytest.mark.parametrize("kind", ["cpu", "TPU v4 lite", "TPU v50", "NVIDIA L40", "NVIDIA GB200"])
def test_another_chip_is_not_taken_for_a_known_one(kind):
    assert chips.find(kind) is None


@pytest.mark.parametrize("kind", [k for c in chips.CHIPS.values() for k in c.device_kinds])
def test_tpus_agree_with_the_table_of_jax(kind):
    # Inside JAX: another release may keep it elsewhere.
    tpu_info = pytest.importorskip("jax._src.pallas.mosaic.tpu_info")
    version = tpu_info.chip_version_from_device_kind(kind)
    if version is None:
        assert kind.startswith("NVIDIA")
        return
    ours, theirs = chips.find(kind), tpu_info.get_tpu_info_for_chip(version, 1)
    cores = version.num_physical_tensor_cores_per_chip
    assert theirs.bf16_ops_per_second * cores == pytest.approx(ours.flops, rel=0.01)
    assert theirs.hbm_capacity_bytes * cores == pytest.approx(ours.hbm_bytes, rel=0.02)
    # Theirs is 11 % below the page of v5p.
    assert theirs.mem_bw_bytes_per_second * cores == pytest.approx(ours.hbm_bandwidth, rel=0.12)


def device(number, kind, coords=None):
    place = {"coords": coords} if coords else {}
    return types.SimpleNamespace(id=number, device_kind=kind, **place)


def test_the_peak_is_that_of_chips():
    assert chips.peak_flops([device(i, "TPU v5 lite", (i, 0, 0)) for i in range(4)]) == 4 * 197e12
    cores = [device(i, "TPU7x", (i // 2, 0, 0)) for i in range(4)]
    assert chips.peak_flops(cores) == 2 * 2307e12
    assert chips.peak_flops([device(i, "NVIDIA H200") for i in range(2)]) == 2 * 989.4e12
    assert chips.peak_flops([device(0, "cpu")]) is None
