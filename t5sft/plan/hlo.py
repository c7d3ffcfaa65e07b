"""Reads the text of a compiled program (optimised HLO) into computations and instructions.

Only what counting needs: shapes with their memory space, operands, attributes, and who calls whom.
The text is what `jax.stages.Compiled.as_text()` gives; the grammar is XLA's `hlo_parser.cc`.
"""

import dataclasses
import functools
import math
import re
from typing import NamedTuple

HBM = 0  # memory space of an array whose layout names none; S(1) is on chip
HOST = 5

_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "tf32": 32}
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")


class Array(NamedTuple):
    """One array of a shape."""

    dtype: str
    dims: tuple[int, ...]
    space: int = HBM

    @property
    def bytes(self) -> int:
        """Bytes without the padding of tiles; 4-bit numbers are packed."""
        return math.prod(self.dims) * bits(self.dtype) // 8


def bits(dtype: str) -> int:
    """Returns the width of an XLA type: f32, bf16, s4, f8e4m3fn, c64, pred, ..."""
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.fullmatch(r"[a-z]+(\d+)\w*", dtype)
    return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Args:
      shapes: the arrays of its result, of a tuple all, depth first.
      operands: names of instructions of the same computation.
      inside: the text in its parentheses: a constant's value, a parameter's number.
      attributes: the text behind them.
    """

    name: str
    opcode: str
    shapes: tuple[Array, ...]
    operands: tuple[str, ...]
    inside: str
    attributes: str
    is_root: bool

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a regular expression found in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    @functools.cached_property
    def called(self) -> str | None:
        """The computation of a fusion, call, or asynchronous start."""
        found = _CALLED.search(self.attributes)
        return found[1] if found else None

    @property
    def branches(self) -> list[str]:
        """The computations of a conditional."""
        found = _BRANCHES.findall(self.attributes)
        return [name for many, one in found for name in re.findall(r"[\w.\-]+", many or one)]


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in their order."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        return next(i for i in reversed(self.instructions.values()) if i.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return {int(i.inside): i for i in found}

    @functools.cached_property
    def users(self) -> dict[str, list[tuple[Instruction, int]]]:
        """Name -> the instructions that read it, each with the place among its operands."""
        users: dict[str, list[tuple[Instruction, int]]] = {}
        for instruction in self.instructions.values():
            for place, operand in enumerate(instruction.operands):
                users.setdefault(operand, []).append((instruction, place))
        return users

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in instruction.operands]


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program."""

    computations: dict[str, Computation]
    entry: Computation

    def called(self, instruction: Instruction) -> Computation | None:
        return self.computations.get(instruction.called or "")


def parse(text: str) -> Module:
    """Reads a program.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in _joined(text):
        if header := _HEADER.match(line):
            current = computations[header[2]] = Computation(header[2], {})
            entry = current if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], bool(found[1]), line[found.end() :])
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("no ENTRY computation: this is not the text of a compiled program")
    return Module(computations, entry)


def _joined(text: str) -> list[str]:
    """Splits into lines; the metadata of a kernel may hold line breaks, which are taken out."""
    lines: list[str] = []
    is_inside = False
    for line in text.splitlines():
        # "}, execution_thread=..." ends a computation of another core.
        is_end = line == "}" or line.startswith("}, ")
        if is_inside and not is_end and not _INSTRUCTION.match(line):
            lines[-1] += " " + line
            continue
        lines.append(line)
        if is_end:
            is_inside = False
        elif _HEADER.match(line):
            is_inside = True
    return lines


def _instruction(name: str, is_root: bool, text: str) -> Instruction:
    """Reads what stands behind "name = ": shape opcode(inside), attributes."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opens = rest.index("(")
    closes = _closing(rest, opens)
    inside = rest[opens + 1 : closes]
    return Instruction(
        name=name,
        opcode=rest[:opens],
        shapes=tuple(arrays(shape)),
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        inside=inside,
        attributes=rest[closes + 1 :],
        is_root=is_root,
    )


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"a parenthesis does not close: {text[start : start + 80]}")


def arrays(shape: str) -> list[Array]:
    """Reads a shape, also of a tuple.

    Example:
      bf16[4096,128]{1,0:T(8,128)(2,1)S(1)}   [Array("bf16", (4096, 128), 1)]
      (s32[], f32[8]{0})                      [Array("s32", ()), Array("f32", (8,))]
    """
    out = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        out.append(Array(dtype, sizes, int(space[1]) if space else HBM))
    return out
