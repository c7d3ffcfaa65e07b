"""Which implementation of attention runs where: the platform of the mesh, lengths, features."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from t5sft import errors
from t5sft.models.attention import bias, fused, views
from t5sft.parallel import rules

SHORT = {"cpu": 1024, "tpu": 128, "gpu": 128}  # up to here all scores at once are fastest


class Case(NamedTuple):
    """What decides."""

    platform: str  # "cpu", "tpu", "gpu"
    num_queries: int  # T
    num_keys: int  # S
    head_dim: int = 64
    dtype: str = "bfloat16"
    soft_cap: float | None = None
    is_biased: bool = False  # T5's relative bias
    is_split: bool = False  # the mesh splits rows (context)
    capability: float = 8.0  # of an NVIDIA GPU: 8.0 is an A100; 0: another maker's


def _nvidia(case: Case) -> str | None:
    if case.platform != "gpu":
        return f"runs on NVIDIA GPUs, not on {case.platform}"
    if case.capability < 8:
        return f"needs an NVIDIA GPU of compute capability 8.0 or later, not {case.capability}"
    if case.dtype != "bfloat16":
        return f"computes in bfloat16, not in {case.dtype}"
    return None


def _anything(case: Case) -> str | None:
    return None


def _splash(case: Case) -> str | None:
    if case.platform != "tpu":
        return f"runs on TPUs, not on {case.platform}"
    if case.is_biased:
        return "has no relative bias"
    if case.is_split:
        return "takes whole rows, and the mesh splits them over context"
    return None


def _fused(case: Case) -> str | None:
    if case.platform != "tpu":
        return f"runs on TPUs, not on {case.platform}"
    if case.head_dim % 16:
        return f"wants heads of a multiple of 16 features, not {case.head_dim}"
    longest = fused.KEPT_BYTES // (4 * case.head_dim)
    if case.num_queries > longest:
        return f"takes rows up to {longest} with heads of {case.head_dim}, not {case.num_queries}"
    return None


def _cudnn(case: Case) -> str | None:
    if case.is_biased:
        return "has no relative bias by blocks"
    if case.soft_cap is not None:
        return "has no soft cap"
    if case.head_dim % 8 or case.head_dim > 128:
        return f"wants heads of up to 128 features, a multiple of 8, not {case.head_dim}"
    if case.num_queries % 2 or case.num_keys % 2:
        return f"wants rows of even length, not {case.num_queries} and {case.num_keys}"
    return _nvidia(case)


def _triton(case: Case) -> str | None:
    if case.head_dim not in (16, 32, 64, 128):
        return f"wants heads of 16, 32, 64 or 128 features, not {case.head_dim}"
    return _nvidia(case)


# Fastest first: auto takes the first that has no reason against.
REASONS: dict[str, Callable[[Case], str | None]] = {
    "splash": _splash,
    "fused": _fused,
    "triton": _triton,
    "cudnn": _cudnn,
    "blockwise": _anything,
    "reference": _anything,
}
NAMES = ("auto", *REASONS)


def capability(device: Any) -> float:
    """Returns the compute capability of an NVIDIA GPU; 0.0 of what has none, as AMD's gfx942."""
    try:
        return float(getattr(device, "compute_capability", 0.0))
    except ValueError:
        return 0.0


def resolve(name: str, case: Case) -> str:
    """Returns the implementation that runs.

    Raises:
      ConfigError: the one asked for cannot compute this case.
    """
    able = [each for each, reason in REASONS.items() if reason(case) is None]
    if name == "auto":
        short = max(case.num_queries, case.num_keys) <= SHORT.get(case.platform, 0)
        return "reference" if short else able[0]
    reason = REASONS[name](case)
    if reason is not None:
        raise errors.ConfigError(
            f"attention = {name!r} {reason}; model; use 'auto' or {' or '.join(map(repr, able))}"
        )
    return name


def view(
    module: Any,
    query_segments: jax.Array,
    key_segments: jax.Array,
    *,
    causal: bool,
    window: int | None = None,
    table: jax.Array | None = None,
    bucket_of=None,
    rotation=None,
) -> views.View | views.Packed:
    """What the queries of packed rows see, in the form that the model's implementation reads.

    Args:
      module: a Flax module with the model as its `config`.
      query_segments, key_segments: [B, T] and [B, S] int, 0 is padding.
      table: [buckets, N], T5's relative bias; bucket_of tells the bucket of a distance.

    Raises:
      ConfigError: the model's implementation cannot compute this.
    """
    c = module.config
    case = Case(
        platform=rules.platform(),
        num_queries=query_segments.shape[1],
        num_keys=key_segments.shape[1],
        head_dim=c.head_dim,
        dtype=c.dtype,
        soft_cap=c.attention_soft_cap,
        is_biased=table is not None,
        is_split=rules.split_ways("length") > 1,
        capability=capability(rules.device()),
    )
    # Parameters do not depend on it, and they are declared on one token, maybe without a mesh.
    name = "reference" if module.is_initializing() else resolve(c.attention, case)
    if name == "reference":
        mask = views.packed_mask(query_segments, key_segments, causal=causal, window=window)
        rows = None
        if table is not None:
            rows = bias.row_bias(table, bucket_of, query_segments.shape[1])
        return views.View(mask, rows, rotation)
    line = None if table is None else bias.line(table, bucket_of, query_segments.shape[1])
    return views.Packed(
        query_segments=query_segments,
        key_segments=key_segments,
        line=line,
        rotation=rotation,
        implementation=name,
        causal=causal,
        window=window,
    )
