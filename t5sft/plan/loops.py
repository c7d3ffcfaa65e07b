"""How often a loop of a compiled program runs.

The CPU's compiler writes it down (`known_trip_count`), the TPU's does not: there it is found from
the condition (a counter compared with a constant), the counter's start and its step.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from t5sft.plan import hlo

_SWAPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE"}
_SAME = ("copy", "bitcast", "convert", "copy-start", "copy-done", "reshape", "opt-barrier")
_DEPTH = 12  # of what is followed; counters are simple


class Slot(NamedTuple):
    """An element of the loop's state, plus a constant."""

    place: int
    plus: int = 0


Value = int | Slot | None  # None: anything else


def trip_count(module: hlo.Module, around: hlo.Computation, loop: hlo.Instruction) -> int | None:
    """Returns how often the body of a while runs, or None if the text does not tell.

    Args:
      around: the computation that holds the loop.
    """
    if (known := loop.attribute(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')) is not None:
        return int(known)
    condition = module.computations[loop.attribute(r"condition=%?([\w.\-]+)") or ""]
    body = module.computations[loop.attribute(r"body=%?([\w.\-]+)") or ""]
    compared = _comparison(module, condition)
    if compared is None:
        return None
    counter, direction, limit = compared
    first = _element(module, around, loop.operands[0], counter.place)
    step = _step(module, body, counter.place)
    if isinstance(limit, Slot):  # a limit that the loop carries along unchanged
        if _step(module, body, limit.place) != 0:
            return None
        limit = _element(module, around, loop.operands[0], limit.place)
    if not isinstance(first, int) or not isinstance(limit, int) or not step:
        return None
    first += counter.plus
    distance = {
        "LT": limit - first,
        "LE": limit - first + 1,
        "NE": abs(limit - first),
        "GT": first - limit,
        "GE": first - limit + 1,
    }[direction]
    return max(0, math.ceil(distance / abs(step)))


def _comparison(module, condition) -> tuple[Slot, str, Value] | None:
    """Returns (counter, direction, limit) of a loop's condition."""
    holder, root = condition, condition.root
    given: dict[int, Value] | None = None
    while root.opcode in ("fusion", "call") and (inner := module.called(root)) is not None:
        values = [value(module, holder, name, given) for name in root.operands]
        holder, root, given = inner, inner.root, dict(enumerate(values))
    if root.opcode != "compare":
        return None
    left, right = (value(module, holder, name, given) for name in root.operands)
    direction = root.attribute(r"direction=(\w+)") or ""
    if isinstance(left, Slot) and right is not None and direction in _SWAPPED:
        return left, direction, right
    if isinstance(right, Slot) and left is not None and direction in _SWAPPED:
        return right, _SWAPPED[direction], left
    return None


def _step(module, body, index: int) -> int | None:
    """Returns what the body adds to an element of the state."""
    after = _element(module, body, body.root.name, index)
    return after.plus if isinstance(after, Slot) and after.place == index else None


def _element(module, holder, name: str, index: int) -> Value:
    """Returns the value of one element of a tuple."""
    made = holder.instructions[name]
    if made.opcode == "tuple":
        return value(module, holder, made.operands[index])
    if made.opcode in _SAME:
        return _element(module, holder, made.operands[0], index)
    return None


def value(
    module: hlo.Module,
    holder: hlo.Computation,
    name: str,
    given: Mapping[int, Value] | None = None,
    depth: int = 0,
) -> Value:
    """Follows a scalar back to a constant or to an element of the loop's state.

    Args:
      given: values of the parameters, if `holder` is the computation of a fusion; else its
        parameter is the state.
    """
    made = holder.instructions.get(name)
    if made is None or depth > _DEPTH:
        return None
    follow = lambda name: value(module, holder, name, given, depth + 1)  # noqa: E731
    if made.opcode == "constant":
        return int(made.inside) if re.fullmatch(r"-?\d+", made.inside) else None
    if made.opcode == "parameter":
        return given.get(int(made.inside)) if given is not None else None
    if made.opcode in _SAME:
        return follow(made.operands[0])
    if made.opcode in ("add", "subtract"):
        return _sum(*map(follow, made.operands), sign=1 if made.opcode == "add" else -1)
    if made.opcode in ("fusion", "call") and (inner := module.called(made)) is not None:
        arguments = {place: follow(operand) for place, operand in enumerate(made.operands)}
        return value(module, inner, inner.root.name, arguments, depth + 1)
    if made.opcode == "get-tuple-element":
        return _got(module, holder, made, given, depth)
    return None


def _got(module, holder, made, given, depth) -> Value:
    """Returns what a get-tuple-element reads: of the state, of a tuple or of a fusion's result."""
    index = int(made.attribute(r"index=(\d+)") or 0)
    source = holder.instructions[made.operands[0]]
    if source.opcode == "parameter" and given is None:
        return Slot(index)
    if source.opcode == "tuple":
        return value(module, holder, source.operands[index], given, depth + 1)
    inner = module.called(source) if source.opcode in ("fusion", "call") else None
    if inner is not None and inner.root.opcode == "tuple":
        follow = lambda name: value(module, holder, name, given, depth + 1)  # noqa: E731
        arguments = {place: follow(operand) for place, operand in enumerate(source.operands)}
        return value(module, inner, inner.root.operands[index], arguments, depth + 1)
    return None


def _sum(left: Value, right: Value, *, sign: int) -> Value:
    if isinstance(right, int) and isinstance(left, Slot):
        return Slot(left.place, left.plus + sign * right)
    if isinstance(left, int) and isinstance(right, Slot) and sign == 1:
        return Slot(right.place, right.plus + left)
    if isinstance(left, int) and isinstance(right, int):
        return left + sign * right
    return None
