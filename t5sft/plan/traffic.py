"""Bytes that an instruction of a compiled program moves through HBM: an estimate.

Counted are operands read and results written by instructions outside fusions, as far as they lie in
HBM. A slice reads its slice and an update writes its update, also inside a fusion; what a kernel
declares of itself counts instead of its operands. What the compiler keeps on chip between two
instructions is marked in the text, and free.
"""

from t5sft.plan import collectives, hlo, kernels

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "call-start", "after-all", "partition-id", "replica-id", "iota", "opt-barrier",
    "domain", "async-start", "async-update", "custom-call-start", "custom-call-update",
}  # fmt: skip


def hbm_bytes(module: hlo.Module, holder: hlo.Computation, instruction: hlo.Instruction) -> int:
    """Returns the bytes of one execution of an instruction that is in no fusion."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if any(ways := host_bytes(holder, instruction)):
        return sum(ways)
    operands = holder.operands(instruction)
    written = _in_hbm(instruction.shapes)
    if opcode in ("dynamic-slice", "slice", "gather"):
        sliced = sum(shape.bytes for shape in instruction.shapes)
        return written + (sliced if _in_hbm(operands[0].shapes) else 0)
    if opcode == "dynamic-update-slice":
        update = operands[1].shapes
        return _in_hbm(update) + (sum(a.bytes for a in update) if written else 0)
    if opcode in ("copy-start", "slice-start"):
        return _started(instruction)
    if opcode == "custom-call" and (declared := kernels.declared_bytes(instruction)):
        return declared
    if opcode == "fusion" and (inner := module.called(instruction)) is not None:
        return _of_fusion(module, inner, instruction, operands)
    read = sum(_in_hbm(operand.shapes) for operand in operands)
    if opcode == "send":
        return read  # its result is the operand
    if collectives.kind(instruction) and opcode.endswith("-start"):
        return read + _in_hbm(instruction.shapes[len(instruction.shapes) // 2 :])
    return read + written


def host_bytes(holder: hlo.Computation, instruction: hlo.Instruction) -> tuple[int, int]:
    """Returns the bytes that one execution moves to the memory of the host, and from it.

    Such arrays are only copied, sliced and updated, in an instruction of their own.
    """
    name, is_start = instruction.opcode.removesuffix("-start"), "-start" in instruction.opcode
    if name not in ("copy", "dynamic-slice", "slice", "dynamic-update-slice"):
        return 0, 0
    first, *others = [operand.shapes[0] for operand in holder.operands(instruction)]
    if name == "dynamic-update-slice":
        return (others[0].bytes if first.space == hlo.HOST else 0), 0
    if name == "copy":
        target = instruction.shapes[0]
        if (target.space == hlo.HOST) == (first.space == hlo.HOST):
            return 0, 0
        return (first.bytes, 0) if target.space == hlo.HOST else (0, first.bytes)
    # A start's result is ((its operands), the slice, a context).
    part = instruction.shapes[-2 if is_start else 0]
    return 0, (part.bytes if first.space == hlo.HOST else 0)


def _in_hbm(shapes) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == hlo.HBM)


def _started(instruction: hlo.Instruction) -> int:
    """A copy to or from the chip's memory: its result is (target, source, context)."""
    moved = min(shape.bytes for shape in instruction.shapes[:2])
    return moved * sum(shape.space == hlo.HBM for shape in instruction.shapes[:2])


def _of_fusion(module, inner, instruction, operands) -> int:
    read = 0
    for place, operand in enumerate(operands):
        if whole := _in_hbm(operand.shapes):
            read += min(whole, _read(module, inner, place, whole))
    return read + _written(module, inner, instruction) + _of_started_collective(inner, instruction)


def _of_started_collective(inner, instruction) -> int:
    """What a collective moves that runs beside its neighbours, from its start fusion on."""
    if not instruction.name.startswith("async-collective-start"):
        return 0
    found = [i for i in inner.instructions.values() if collectives.kind(i)]
    read = sum(s.bytes for i in found for operand in inner.operands(i) for s in operand.shapes)
    return read + sum(shape.bytes for i in found for shape in i.shapes)


def _read(module: hlo.Module, inner: hlo.Computation, place: int, whole: int) -> int:
    """Returns what a fusion reads of an operand: of a stacked array perhaps one layer's slice."""
    if place not in inner.parameters:
        return whole
    read, todo = 0, [inner.parameters[place].name]
    while todo:
        name = todo.pop()
        for user, at in inner.users.get(name, []):
            if user.opcode == "bitcast" and not user.is_root:
                todo.append(user.name)
            elif user.opcode in ("dynamic-slice", "gather") and at == 0:
                read += user.shapes[0].bytes
            elif user.opcode == "dynamic-update-slice" and at == 0:
                pass  # in place: what is not updated is not touched
            elif collectives.kind(user) or (user.is_root and user.opcode == "tuple"):
                pass  # carried through for a collective that runs beside the fusion
            elif user.opcode == "fusion" and (nested := module.called(user)) is not None:
                read += _read(module, nested, at, whole)
            else:
                read += whole
    return read


def _written(module, inner, instruction) -> int:
    """Returns what a fusion writes, element by element of its result."""
    root = inner.root
    names = root.operands if root.opcode == "tuple" else (root.name,)
    if len(names) != len(instruction.shapes):
        return _in_hbm(instruction.shapes)
    return sum(
        min(shape.bytes, _written_by(module, inner, name, shape.bytes))
        for name, shape in zip(names, instruction.shapes, strict=True)
        if shape.space == hlo.HBM
    )


def _written_by(module, inner, name: str, whole: int) -> int:
    made = inner.instructions[name]
    while made.opcode in ("bitcast", "get-tuple-element"):
        made = inner.instructions[made.operands[0]]
    if made.opcode == "dynamic-update-slice":
        return sum(a.bytes for a in inner.instructions[made.operands[1]].shapes)
    if collectives.kind(made) or made.opcode == "custom-call":
        return 0  # its buffer, carried through
    if made.opcode == "parameter":
        is_carried = any(collectives.kind(i) for i in inner.instructions.values())
        return 0 if is_carried else whole
    if made.opcode == "fusion" and (nested := module.called(made)) is not None:
        if nested.root.opcode != "tuple":
            return _written_by(module, nested, nested.root.name, whole)
    return whole
