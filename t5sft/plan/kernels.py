"""What a Pallas kernel of a compiled program costs: XLA cannot look into it.

A kernel may declare a cost estimate, and ours do. JAX's splash attention takes none: its calls are
known by name, and the pairs of tokens that one head computes by the scope that
`models.attention.splash` puts around them.
"""

import math
import re

from t5sft.models.attention import splash
from t5sft.plan import hlo

# Matrix products of splash's kernels over the pairs. Forward: scores, and weights times values.
# Backward: the scores and the gradient of the weights again, then one gradient or two.
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def is_call(instruction: hlo.Instruction) -> bool:
    """Tells whether an instruction calls a kernel."""
    return instruction.attribute(r'custom_call_target="(tpu_custom_call)"') is not None


def flops(instruction: hlo.Instruction, holder: hlo.Computation) -> int:
    """Returns the operations of one call; 0 where nothing tells them, and of what is no call."""
    if not is_call(instruction):
        return 0
    return _declared(instruction, "flops") or _of_splash(instruction, holder)


def declared_bytes(instruction: hlo.Instruction) -> int:
    """Returns the bytes that a kernel's `cost_estimate` declares; 0: none."""
    return _declared(instruction, "bytes_accessed")


def _declared(instruction: hlo.Instruction, name: str) -> int:
    estimate = instruction.attribute(r'"?cost_estimate"?:\s*\{([^}]*)\}') or ""
    found = re.search(rf'{name}"?:\s*"?(\d+)', estimate)
    return int(found[1]) if found else 0


def _of_splash(instruction: hlo.Instruction, holder: hlo.Computation) -> int:
    """Two operations for each product, pair, head of the queries, and feature.

    Queries are the kernel's first array of three or more axes in a floating type: [N, T, H], or
    [B, N, T, H].
    """
    kind = instruction.attribute(r'op_name="[^"]*/splash_m[hq]a_(fwd|dq|dkv)')
    pairs = instruction.attribute(rf'op_name="[^"]*{splash.SCOPE}(\d+)')
    if kind is None or pairs is None:
        return 0
    arrays = [operand.shapes[0] for operand in holder.operands(instruction)]
    query = next(a for a in arrays if len(a.dims) >= 3 and a.dtype in ("bf16", "f16", "f32"))
    *rows, _, features = query.dims
    return 2 * _PRODUCTS[kind] * int(pairs) * math.prod(rows) * features
