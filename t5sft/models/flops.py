"""FLOPs that a model's definition asks for, whatever a compiler makes of it: what MFU counts.

Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B): three times the matrix products of the
forward pass; what is computed again (remat) is no work done. Of attention only the pairs that the
mask leaves count, with rows taken as one example each.
"""

import math
from typing import Any

import jax


def step_flops(model: Any, shapes: dict[str, jax.ShapeDtypeStruct]) -> int:
    """Returns the model's FLOPs of one step on a whole global batch.

    Args:
      model: a ModelDef.
      shapes: SeqIO's feature name -> global shape, as of `data.converters.shapes`.

    Example (a matrix [D, F] that T tokens pass): 2 D F T forward, 4 D F T backward.
    """
    return 3 * (_of_kernels(model, shapes) + _of_attention(model, shapes))


def tokens(shapes: dict[str, jax.ShapeDtypeStruct]) -> int:
    """Returns the places of a global batch: decoder's, and encoder's where there is one."""
    names = ("encoder_input_tokens", "decoder_input_tokens")
    return sum(math.prod(shapes[name].shape) for name in names if name in shapes)


def _of_kernels(model, shapes) -> int:
    """Forward products with parameters: two operations per number and token."""
    target = math.prod(shapes["decoder_input_tokens"].shape)
    source = math.prod(shapes.get("encoder_input_tokens", shapes["decoder_input_tokens"]).shape)
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.abstract()[0]):
        names = [str(getattr(part, "key", part)) for part in path]
        if names[-1].endswith(("norm", "scale", "bias")):
            continue
        if names[-1] == "embedding" and not model.logits_via_embedding:
            continue  # looked up; as a head it would be multiplied
        reads_encoder = names[0] == "encoder" or names[-2:] == ["cross_attention", "kv"]
        total += 2 * leaf.size * (source if reads_encoder else target)
    return total


def _of_attention(model, shapes) -> int:
    """Forward products of queries with keys, and of weights with values: 4 N H per pair."""
    rows, target = shapes["decoder_input_tokens"].shape
    causal = target * (target + 1) // 2
    if model.layout == "encoder_decoder":
        source = shapes["encoder_input_tokens"].shape[1]
        pairs = model.num_encoder_layers * source**2
        pairs += model.num_decoder_layers * (causal + target * source)
    else:
        reach = min(model.sliding_window or target, target)
        sliding = causal - (target - reach) * (target - reach + 1) // 2
        kinds = model.layer_types
        pairs = sum(sliding if kind == "sliding" else causal for kind in kinds)
    return 4 * rows * model.num_heads * model.head_dim * pairs
