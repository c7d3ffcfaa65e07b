"""Rotation in config.json: `rope_theta` and `rope_scaling` of 4.x, `rope_parameters` of 5.x."""

import math
from typing import Any

from t5sft.convert.reader import Reader
from t5sft.models import decoder, rotary


def read(config: Reader) -> dict[str, Any]:
    """Fields of a decoder whose layers all turn alike."""
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    config = config.with_(written)
    return dict(
        rope_theta=config.number("rope_theta"),
        rope_fraction=config.number("partial_rotary_factor", 1.0),
        rope_scaling=_read_scaling(config),
    )


def read_two(config: Reader) -> dict[str, Any]:
    """Fields of a decoder whose sliding layers turn by a theta of their own (Gemma 3)."""
    parts = config.get("rope_parameters") or {}
    if "full_attention" not in parts:  # 4.x
        local = config.number("rope_local_base_freq")
        return {"rope_theta_local": local, **read(config)}
    near, far = (config.with_(parts.get(f"{kind}_attention") or {}) for kind in ("sliding", "full"))
    if _read_scaling(near) is not None:
        raise config.error("the rotation of sliding layers is scaled", "convert another model")
    return dict(
        rope_theta=far.number("rope_theta"),
        rope_theta_local=near.number("rope_theta"),
        rope_scaling=_read_scaling(far),
    )


def _read_scaling(config: Reader) -> rotary.Scaling | None:
    kind = config.get("rope_type") or config.get("type")
    if kind in (None, "default"):
        return None
    names = dict(linear=_linear, llama3=_llama3, longrope=_longrope, su=_longrope)
    return config.known("rope_type", kind, names)(config)


def _linear(config: Reader) -> rotary.Linear:
    return rotary.Linear(factor=config.number("factor"))


def _llama3(config: Reader) -> rotary.Llama3:
    return rotary.Llama3(
        factor=config.number("factor"),
        low_freq_factor=config.number("low_freq_factor"),
        high_freq_factor=config.number("high_freq_factor"),
        original_length=config.size("original_max_position_embeddings"),
    )


def _longrope(config: Reader) -> rotary.LongRope:
    original = config.size("original_max_position_embeddings")
    factor = config.number("factor", None) or config.size("max_position_embeddings") / original
    magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return rotary.LongRope(
        short_factors=config.numbers("short_factor"),
        long_factors=config.numbers("long_factor"),
        original_length=original,
        magnitude=config.number("attention_factor", magnitude),
    )


def write(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of `read` and `read_two`, in the spelling of 4.x, which 5.x reads too."""
    fraction = {} if model.rope_fraction == 1 else {"partial_rotary_factor": model.rope_fraction}
    local = (
        {} if model.rope_theta_local is None else {"rope_local_base_freq": model.rope_theta_local}
    )
    return {"rope_theta": model.rope_theta, **local, **fraction, **_scaling(model.rope_scaling)}


def _scaling(scaling: rotary.Scaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_scaling": None}
    if isinstance(scaling, rotary.Linear):
        return {"rope_scaling": {"rope_type": "linear", "factor": scaling.factor}}
    if isinstance(scaling, rotary.Llama3):
        return {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_length,
            }
        }
    assert isinstance(scaling, rotary.LongRope)
    return {
        # 4.x refuses a fourth key here, and computes the magnitude from the two lengths.
        "rope_scaling": {
            "type": "longrope",
            "short_factor": list(scaling.short_factors),
            "long_factor": list(scaling.long_factors),
        },
        "original_max_position_embeddings": scaling.original_length,
    }
