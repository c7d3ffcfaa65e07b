"""Collectives of a compiled program: their kind, mesh axis and bytes on the wire.

Between TPU slices XLA writes no collective: every device sends its part to a runtime (Megascale),
and the attributes of the `send` tell what is done with it, among which slices.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t5sft.plan import hlo

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "collective-broadcast",
)
BETWEEN_SLICES = "replica"  # the mesh axis along which slices lie


class Mesh(NamedTuple):
    """Names and sizes of the mesh axes; partition n of a program is its nth device, row by row."""

    axes: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.sizes)


def kind(instruction: hlo.Instruction) -> str | None:
    """Returns which collective an instruction is, or starts."""
    name = instruction.opcode.removesuffix("-start")
    if name == "send":
        told = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"') or ""
        name = told.lower().replace("_", "-").replace("one-to-one", "collective-permute")
    return name if name in KINDS else None


def wire_bytes(instruction: hlo.Instruction, holder: hlo.Computation, mesh: Mesh) -> float:
    """Returns what every device sends, in bytes, by the ring algorithm.

    Example (4 devices, a shard or an operand of 100 bytes):
      all-gather           300    every shard but one's own passes
      reduce-scatter        75
      all-reduce           150    a reduce-scatter and an all-gather
      all-to-all            75
      collective-permute   100
    """
    sent = sum(a.bytes for operand in holder.operands(instruction) for a in operand.shapes)
    n = group_size(instruction, mesh)
    return {
        "all-gather": sent * (n - 1),
        "all-reduce": 2 * sent * (n - 1) / n,
        "collective-permute": sent,
    }.get(kind(instruction) or "", sent * (n - 1) / n)


def group_size(instruction: hlo.Instruction, mesh: Mesh) -> int:
    """Returns how many devices take part together."""
    if (slices := _slices(instruction)) is not None:
        return slices
    return len(groups(instruction, mesh)[0])


def axis(instruction: hlo.Instruction, mesh: Mesh) -> str:
    """Returns the mesh axes along which the bytes go, as "fsdp" or "data+fsdp".

    Those are the axes along which the devices of a group, or source and target, differ.
    """
    if _slices(instruction) is not None:
        return BETWEEN_SLICES
    differ: set[int] = set()
    for group in groups(instruction, mesh):
        places = np.array(np.unravel_index(group, mesh.sizes))  # [axes, devices]
        differ |= {int(a) for a in np.flatnonzero((places != places[:, :1]).any(axis=1))}
    return "+".join(mesh.axes[a] for a in sorted(differ)) or "none"


def _slices(instruction: hlo.Instruction) -> int | None:
    """Returns among how many slices something is sent; None where it stays within one.

    Example: _xla_megascale_target="{1,2}x{0:15}" or "{1:2}x{0:15}", slices 1 and 2, devices 0 to 15
    of each    2
    """
    told = instruction.attribute(r'_xla_megascale_target="\{([\d,:]+)\}')
    if told is None:
        return None
    ranges = (part.split(":") for part in told.split(","))
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)


def groups(instruction: hlo.Instruction, mesh: Mesh) -> list[Sequence[int]]:
    """Returns the groups of partitions that exchange something; of a permutation, the pairs.

    XLA writes them as lists, as a reshaped and transposed range, or by the axes of a mesh of its
    own.

    Example (8 devices):
      replica_groups={{0,1,2,3},{4,5,6,7}}        as it is written
      replica_groups=[2,4]<=[8]                   the same
      replica_groups=[4,2]<=[2,4]T(1,0)           {0,4} {1,5} {2,6} {3,7}
      replica_groups=mesh['a'=2,'b'=4] {'b'}      {0,1,2,3} {4,5,6,7}
      mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}   {0,4} {1,5} {2,6} {3,7}
      source_target_pairs={{0,1},{1,0}}           {0,1} {1,0}
    """
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", text):
        return _lists(pairs[1])
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        return _lists(found[1])
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, sizes, order = (_numbers(part) for part in found.groups())
        return list(_range(sizes, order).reshape(shape))
    if found := re.search(
        r"replica_groups=(mesh\[.*?\])(?:, device_ids=\((.*?)\) )?\s*\{(.*?)\}", text
    ):
        return _by_axes(*found.groups())
    return [range(mesh.size)]


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text or "")]


def _lists(text: str) -> list[Sequence[int]]:
    return [_numbers(group) for group in re.findall(r"\{([\d,]*)\}", text)]


def _range(sizes: list[int], order: list[int]) -> np.ndarray:
    """The numbers from 0 on, row by row, with their axes in another order."""
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(order) if order else ids


def _by_axes(mesh: str, ids: str | None, names: str) -> list[Sequence[int]]:
    """Groups along some axes of a mesh, or along a part "axis":(before)size of an axis.

    Args:
      ids: the partitions in the mesh, as a range or a list; None: in their order.
    """
    sizes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)]
    chosen = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", names)
    parts: list[tuple[str, int]] = []  # axes of the mesh, those that are split, split
    for name, size in sizes:
        cut = [(int(before), int(part)) for n, before, part in chosen if n == name and part]
        if not cut:
            parts.append((name, size))
            continue
        before, part = cut[0]
        parts += [(f"{name}<", before), (name, part), (f"{name}>", size // before // part)]
    if ids is None:
        flat = np.arange(math.prod(size for _, size in parts))
    elif found := re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", ids):
        flat = _range(_numbers(found[1]), _numbers(found[2]))
    else:
        flat = np.array(_numbers(ids))
    grid = flat.reshape([size for _, size in parts])
    inner = [i for i, (name, _) in enumerate(parts) if name in {n for n, _, _ in chosen}]
    outer = [i for i in range(len(parts)) if i not in inner]
    width = math.prod(parts[i][1] for i in inner)
    return list(grid.transpose(outer + inner).reshape(-1, width))
