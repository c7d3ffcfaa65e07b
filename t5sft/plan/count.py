"""What one step of a compiled program does on one device: FLOPs, collectives, HBM traffic.

XLA's own `cost_analysis` counts the body of a loop once, and nothing of a kernel; here every
instruction counts as often as the loops around it run. Traps of the text: an asynchronous
collective is printed in its start fusion, again in every fusion it overlaps with, and in its done
fusion; of a conditional the costliest branch counts; a loop whose number of turns depends on data
counts once and is listed.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from t5sft.plan import collectives, hlo, kernels, loops, matmuls, traffic


class Visit(NamedTuple):
    """An instruction, and how often it runs."""

    holder: hlo.Computation
    instruction: hlo.Instruction
    times: int
    fusion: hlo.Instruction | None  # the outermost fusion around it


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind along one mesh axis, per device and step."""

    kind: str
    axis: str
    count: int
    wire_bytes_per_chip: int


@dataclasses.dataclass(frozen=True)
class Counts:
    """Per device and step.

    Args:
      matmul_flops: of dots and convolutions, two per multiplication and addition.
      kernel_flops: of Pallas kernels, as `kernels` knows them.
      kernels: number of calls of kernels; undeclared_kernels: those of which nothing is known.
      host_bytes: to the memory of the host, or back: whichever is more.
      unknown_loops: names of the loops that count once, because their turns are not told.
    """

    matmul_flops: int
    kernel_flops: int
    kernels: int
    undeclared_kernels: int
    hbm_bytes: int
    host_bytes: int
    collectives: tuple[Collective, ...]
    unknown_loops: tuple[str, ...]

    @property
    def wire_bytes(self) -> int:
        return sum(c.wire_bytes_per_chip for c in self.collectives)


def count(text: str, mesh: collectives.Mesh) -> Counts:
    """Counts a program, given as text, that runs on the devices of a mesh."""
    module = hlo.parse(text)
    unknown: list[str] = []
    matmul = kernel = hbm = to_host = from_host = calls = silent = 0
    found: dict[tuple[str, str], list[float]] = {}
    started = _started_channels(module)
    for visit in walk(module, unknown):
        instruction, times = visit.instruction, visit.times
        matmul += times * _of_products(visit)
        if kernels.is_call(instruction):
            told = kernels.flops(instruction, visit.holder)
            kernel, calls = kernel + times * told, calls + times
            silent += 0 if told else times
        if (kind := collectives.kind(instruction)) and _counts(visit, started):
            key = (kind, collectives.axis(instruction, mesh))
            total = found.setdefault(key, [0, 0])
            total[0] += times
            total[1] += times * collectives.wire_bytes(instruction, visit.holder, mesh)
        if visit.fusion is None:
            sent, received = traffic.host_bytes(visit.holder, instruction)
            to_host, from_host = to_host + times * sent, from_host + times * received
            hbm += times * traffic.hbm_bytes(module, visit.holder, instruction)
    listed = [Collective(*key, int(n), round(size)) for key, (n, size) in sorted(found.items())]
    return Counts(
        matmul_flops=matmul,
        kernel_flops=kernel,
        kernels=calls,
        undeclared_kernels=silent,
        hbm_bytes=hbm,
        host_bytes=max(to_host, from_host),
        collectives=tuple(listed),
        unknown_loops=tuple(unknown),
    )


def walk(module: hlo.Module, unknown: list[str]) -> Iterator[Visit]:
    """Yields every instruction that runs, with the number of times; notes loops not understood."""

    yield from _inside(module, module.entry, 1, None, unknown)


def _inside(module, computation, times, fusion, unknown) -> Iterator[Visit]:
    for instruction in computation.instructions.values():
        yield Visit(computation, instruction, times, fusion)
        for called, turns in _called(module, computation, instruction, unknown):
            is_fusion = instruction.opcode == "fusion" and fusion is None
            outermost = instruction if is_fusion else fusion
            yield from _inside(module, called, times * turns, outermost, unknown)


def _weight(module: hlo.Module, branch: hlo.Computation) -> tuple[int, int]:
    """Orders the branches of a conditional: by operations, else by instructions."""
    visits = list(_inside(module, branch, 1, None, []))
    work = [
        visit.times * (_of_products(visit) + kernels.flops(visit.instruction, visit.holder))
        for visit in visits
    ]
    return sum(work), len(visits)


def _of_products(visit: Visit) -> int:
    is_product = visit.instruction.opcode in ("dot", "convolution")
    return matmuls.flops(visit.instruction, visit.holder) if is_product else 0


def _called(module, computation, instruction, unknown):
    """Returns the computations an instruction runs, each with its number of turns."""
    opcode = instruction.opcode
    if opcode == "while":
        turns = loops.trip_count(module, computation, instruction)
        if turns is None:
            unknown.append(instruction.name)
        body = instruction.attribute(r"body=%?([\w.\-]+)")
        return [(module.computations[body], 1 if turns is None else turns)]
    if opcode == "conditional":
        branches = [module.computations[name] for name in instruction.branches]
        return [(max(branches, key=lambda branch: _weight(module, branch)), 1)]
    if opcode == "custom-call-start":  # a collective that the sparse cores of a TPU work on
        called = instruction.attribute(r"called_computations=\{%?([\w.\-]+)\}")
        return [] if called is None else [(module.computations[called], 1)]
    if opcode in ("fusion", "call", "call-start", "async-start"):
        called = module.called(instruction)
        return [] if called is None else [(called, 1)]
    return []


def _channel(instruction: hlo.Instruction) -> str | None:
    return instruction.attribute(r"channel_id=(\d+)")


def _started_channels(module: hlo.Module) -> set[str | None]:
    """Returns the channels of collectives that are started in a fusion of their own."""
    return {
        _channel(inner)
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
        if _is_start(instruction) and (called := module.called(instruction)) is not None
        for inner in called.instructions.values()
        if collectives.kind(inner)
    }


def _is_start(instruction: hlo.Instruction | None) -> bool:
    return instruction is not None and instruction.name.startswith("async-collective-start")


def _counts(visit: Visit, started: set[str | None]) -> bool:
    """Tells whether this print of a collective is the one to count."""
    if visit.fusion is None or _is_start(visit.fusion):
        return True
    is_done = visit.fusion.name.startswith("async-collective-done")
    return not is_done and _channel(visit.instruction) not in started
