"""Replica groups of every notation, mesh axes and bytes on the wire."""

import numpy as np
import pytest

from t5sft.plan import collectives, count, hlo

MESH = collectives.Mesh(("data", "fsdp", "tensor"), (2, 4, 2))


def made(opcode, attributes, shape="f32[25]"):
    text = f"""\
ENTRY %main (x: {shape}) -> {shape} {{
  %x = {shape} parameter(0)
  ROOT %c = {shape} {opcode}(%x), {attributes}
}}
"""
    module = hlo.parse(text)
    return module.entry.root, module.entry


@pytest.mark.parametrize(
    "written, expected",
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        (
            "replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'c'}",
            [[0, 4], [1, 5], [2, 6], [3, 7]],
        ),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("channel_id=1", [list(range(16))]),
    ],
)
def test_groups(written, expected):
    found = collectives.groups(made("all-reduce", written)[0], MESH)
    assert [[*map(int, group)] for group in found] == expected


@pytest.mark.parametrize("chosen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_axis_is_the_one_the_groups_differ_along(chosen):
    ids = np.arange(16).reshape(MESH.sizes)
    rest = [a for a in range(3) if a not in chosen]
    groups = ids.transpose(*rest, *chosen).reshape(-1, np.prod([MESH.sizes[a] for a in chosen]))
    text = ",".join("{" + ",".join(map(str, group)) + "}" for group in groups)
    found = collectives.axis(made("all-gather", f"replica_groups={{{text}}}")[0], MESH)
    assert found == "+".join(MESH.axes[a] for a in chosen)


@pytest.mark.parametrize(
    "opcode, expected",
    [
        ("all-gather", 300),
        ("all-gather-start", 300),
        ("reduce-scatter", 75),
        ("all-reduce", 150),
        ("all-to-all", 75),
        ("collective-permute", 100),
    ],
)
def test_wire_bytes_of_a_ring_of_four(opcode, expected):
    groups = "replica_groups={{0,1,2,3}}"
    assert collectives.wire_bytes(*made(opcode, groups), MESH) == expected


@pytest.mark.parametrize(
    "target, kind, expected, sent",
    [
        ("{1,2}x{0:15}", "ALL_REDUCE", "all-reduce", 2 * 100 / 2),
        ("{1:4}x{0:15}", "ALL_REDUCE", "all-reduce", 2 * 100 * 3 / 4),
        ("{1,2}x{0:15}", "ALL_GATHER", "all-gather", 100),
        ("{1,2}x{0:15}", "REDUCE_SCATTER", "reduce-scatter", 100 / 2),
    ],
)
def test_between_slices_a_send_tells_what_it_is(target, kind, expected, sent):
    """As libtpu 0.0.52 writes a sum over the replicas of two v5e slices: no all-reduce at all."""
    text = f"""\
ENTRY %main (x: f32[25]) -> f32[25] {{
  %x = f32[25]{{0}} parameter(0)
  %t = token[] after-all(), frontend_attributes={{MegascaleRendezvousKeyName="psum.1_0"}}
  %s = (f32[25]{{0}}, u32[]{{:S(2)}}, token[]) send(%x, %t), channel_id=1, is_host_transfer=true, frontend_attributes={{_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{target}",_xla_megascale_transfer_type="{kind}"}}
  %sd = token[] send-done(%s), channel_id=1, is_host_transfer=true
  %r = (f32[25]{{0}}, u32[]{{:S(2)}}, token[]) recv(%t), channel_id=2, is_host_transfer=true, frontend_attributes={{_xla_megascale_target="{target}",_xla_megascale_transfer_type="{kind}"}}
  %rd = (f32[25]{{0}}, token[]) recv-done(%r), channel_id=2, is_host_transfer=true
  ROOT %y = f32[25]{{0}} get-tuple-element(%rd), index=0
}}
"""  # noqa: E501
    mesh = collectives.Mesh(("replica", "fsdp"), (4, 4))
    (found,) = count.count(text, mesh).collectives
    assert (found.kind, found.axis, found.count) == (expected, "replica", 1)
    assert found.wire_bytes_per_chip == sent
