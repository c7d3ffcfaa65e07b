"""Floating-point operations of matrix products in a compiled program."""

import math
import re

import numpy as np

from t5sft.plan import hlo


def flops(instruction: hlo.Instruction, holder: hlo.Computation) -> int:
    """Returns the operations of a dot or convolution, two per multiplication and addition.

    The compiler for TPUs turns every dot into a convolution, with batch axes as dilated windows:
    what falls on padding or between the dilated elements is no work and does not count.
    """
    left, right = (operand.shapes[0].dims for operand in holder.operands(instruction)[:2])
    out = instruction.shapes[0].dims
    if instruction.opcode == "dot":
        dims = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        return 2 * math.prod(out) * math.prod(left[int(d)] for d in dims.split(",") if d)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise ValueError(f"convolution without dim_labels: {instruction.attributes[:200]}")
    of_left, of_right, of_out = labels.groups()
    window = _window(instruction)
    pairs = 1
    for axis in (label for label in of_out if label.isdigit()):
        at = lambda name, axis=axis: window[name][int(axis)] if name in window else None  # noqa: E731
        pairs *= _pairs(
            left[of_left.index(axis)],
            right[of_right.index(axis)],
            out[of_out.index(axis)],
            stride=int(at("stride") or 1),
            padding_low=int((at("pad") or "0_0").split("_")[0]),
            left_dilation=int(at("lhs_dilate") or 1),
            right_dilation=int(at("rhs_dilate") or 1),
        )
    channels = out[of_out.index("b")] * out[of_out.index("f")] * right[of_right.index("i")]
    return 2 * channels * pairs


def _window(instruction: hlo.Instruction) -> dict[str, list[str]]:
    """Returns the window's settings, a text per spatial axis."""
    found = instruction.attribute(r"window=\{([^}]*)\}") or ""
    return {name: text.split("x") for name, text in re.findall(r"(\w+)=([\w\-]+)", found)}


def _pairs(size, kernel, out, *, stride, padding_low, left_dilation, right_dilation) -> int:
    """Counts, along one axis, the pairs of output and kernel places that meet an element."""
    place = np.arange(out)[:, None] * stride + np.arange(kernel) * right_dilation - padding_low
    is_inside = (place >= 0) & (place <= (size - 1) * left_dilation)
    return int((is_inside & (place % left_dilation == 0)).sum())
