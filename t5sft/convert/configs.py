"""config.json of transformers -> fields of our models, and back.

Files are read in the spelling of transformers 4.x (`rope_theta`, `rope_scaling`, `torch_dtype`) and
of 5.x (`rope_parameters`, `layer_types`), and written so that both read them. A key that a file
lacks has the value of its configuration class, because transformers leaves out what equals it.
"""

import math
from collections.abc import Mapping
from typing import Any

from t5sft import errors
from t5sft.models import decoder, rotary, t5

# Their name of an activation -> ours.
ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_REQUIRED = object()
_KINDS = {"full_attention": "full", "sliding_attention": "sliding"}


class Reader:
    """A config.json that names what is missing or unknown."""

    def __init__(self, config: Mapping[str, Any], family: str):
        self.config = config
        self.family = family
        if config.get("quantization_config"):
            method = config["quantization_config"].get("quant_method", "?")
            raise self.error(f"its weights are quantised ({method})", "take the plain weights")

    def __call__(self, key: str, default: Any = _REQUIRED) -> Any:
        """Returns a value; `default` also where the file says null."""
        value = self.config.get(key)
        if value is None:
            if default is _REQUIRED:
                raise self.error(f"{key} is missing", "take the config.json of the weights")
            return default
        return value

    def error(self, what: str, todo: str) -> errors.ConfigError:
        """Returns the error of this file."""
        return errors.ConfigError(f"{what}; config.json, model_type {self.family!r}; {todo}")

    def refuse(self, key: str) -> None:
        """Raises where a feature is on that we lack."""
        if self.config.get(key):
            what = f"{key} = {self.config[key]!r} is a feature that t5sft lacks"
            raise self.error(what, "use a model without it")

    def activation(self, name: str) -> str:
        """Returns our name of an activation."""
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise self.error(f"the activation {name!r} is unknown", f"known are {known}")
        return ACTIVATIONS[name]


def _activation(name: str) -> str:
    """Their name of our activation."""
    return {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[name]


def read_t5(config: Reader) -> dict[str, Any]:
    """T5 1.0, 1.1, Flan-T5 and kin."""
    if config("is_encoder_decoder", True) is not True:
        raise config.error("is_encoder_decoder = False", "t5sft has the encoder-decoder only")
    gate, _, activation = config("feed_forward_proj", "relu").rpartition("-")
    if gate not in ("", "gated"):
        raise config.error(f"feed_forward_proj = {gate}-{activation}", "known is gated-...")
    if (gate, activation) == ("gated", "gelu"):
        activation = "gelu_new"  # what T5 1.1 means by it
    tied = config("tie_word_embeddings", True) is not False
    num_layers = config("num_layers")
    return dict(
        vocab_size=config("vocab_size"),
        emb_dim=config("d_model"),
        mlp_dim=config("d_ff"),
        num_heads=config("num_heads"),
        head_dim=config("d_kv"),
        num_encoder_layers=num_layers,
        num_decoder_layers=config("num_decoder_layers", num_layers),
        relative_attention_num_buckets=config("relative_attention_num_buckets", 32),
        relative_attention_max_distance=config("relative_attention_max_distance", 128),
        norm_epsilon=config("layer_norm_epsilon", 1e-6),
        dropout_rate=config("dropout_rate", 0.1),
        activation=config.activation(activation),
        gated=gate == "gated",
        logits_via_embedding=tied,
        scale_decoder_outputs=config("scale_decoder_outputs", tied),
    )


def write_t5(model: t5.T5) -> dict[str, Any]:
    """The inverse of read_t5; transformers 4.x takes the scaling from `tie_word_embeddings`."""
    activation = _activation(model.activation)
    if model.gated:
        activation = {"gelu_new": "gated-gelu"}.get(activation, f"gated-{activation}")
    scales = model.head_scale != 1.0
    return dict(
        vocab_size=model.vocab_size,
        d_model=model.emb_dim,
        d_ff=model.mlp_dim,
        num_heads=model.num_heads,
        d_kv=model.head_dim,
        num_layers=model.num_encoder_layers,
        num_decoder_layers=model.num_decoder_layers,
        relative_attention_num_buckets=model.relative_attention_num_buckets,
        relative_attention_max_distance=model.relative_attention_max_distance,
        layer_norm_epsilon=model.norm_epsilon,
        dropout_rate=model.dropout_rate,
        feed_forward_proj=activation,
        is_encoder_decoder=True,
        tie_word_embeddings=scales,
        scale_decoder_outputs=scales,
    )


def read_decoder(
    config: Reader, *, theta: float = 10_000.0, epsilon: float = 1e-6, tied: bool = False
) -> dict[str, Any]:
    """What all decoders have; the arguments are the values of keys that a file lacks."""
    emb_dim, num_heads = config("hidden_size"), config("num_attention_heads")
    return dict(
        vocab_size=config("vocab_size"),
        emb_dim=emb_dim,
        mlp_dim=config("intermediate_size"),
        num_heads=num_heads,
        head_dim=config("head_dim", emb_dim // num_heads),
        num_layers=config("num_hidden_layers"),
        num_kv_heads=config("num_key_value_heads", num_heads),
        norm_epsilon=config("rms_norm_eps", epsilon),
        logits_via_embedding=config("tie_word_embeddings", tied),
        max_position_embeddings=config("max_position_embeddings", None),
        activation=config.activation(config("hidden_act", "silu")),
        **read_rope(config, theta),
    )


def write_decoder(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_decoder."""
    length = model.max_position_embeddings
    return dict(
        vocab_size=model.vocab_size,
        hidden_size=model.emb_dim,
        intermediate_size=model.mlp_dim,
        num_attention_heads=model.num_heads,
        head_dim=model.head_dim,
        num_hidden_layers=model.num_layers,
        num_key_value_heads=model.num_kv_heads,
        rms_norm_eps=model.norm_epsilon,
        tie_word_embeddings=model.logits_via_embedding,
        hidden_act=_activation(model.activation),
        **({} if length is None else {"max_position_embeddings": length}),
        **write_rope(model),
    )


def read_rope(config: Reader, theta: float) -> dict[str, Any]:
    """Rotation of a model whose layers all turn alike."""
    written = config("rope_parameters", None) or config("rope_scaling", None) or {}
    return dict(
        rope_theta=float(written.get("rope_theta") or config("rope_theta", theta)),
        rope_fraction=float(
            written.get("partial_rotary_factor") or config("partial_rotary_factor", 1.0)
        ),
        rope_scaling=read_scaling(config, written),
    )


def read_scaling(config: Reader, written: Mapping[str, Any]) -> rotary.Scaling | None:
    """`rope_scaling` of 4.x, or a layer kind's part of `rope_parameters` of 5.x."""
    kind = written.get("rope_type") or written.get("type") or "default"
    if kind == "default":
        return None
    length = written.get("original_max_position_embeddings")
    if kind == "linear":
        return rotary.Linear(factor=float(written["factor"]))
    if kind == "llama3":
        return rotary.Llama3(
            factor=float(written["factor"]),
            low_freq_factor=float(written["low_freq_factor"]),
            high_freq_factor=float(written["high_freq_factor"]),
            original_length=length or config("max_position_embeddings"),
        )
    if kind in ("longrope", "su"):
        original = config("original_max_position_embeddings", length)
        if original is None:
            raise config.error("original_max_position_embeddings is missing", "add it")
        factor = written.get("factor") or config("max_position_embeddings") / original
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        return rotary.LongRope(
            short_factors=tuple(map(float, written["short_factor"])),
            long_factors=tuple(map(float, written["long_factor"])),
            original_length=original,
            magnitude=float(written.get("attention_factor") or magnitude),
        )
    raise config.error(
        f"the rotation is of the unknown type {kind!r}", "known are linear, llama3, longrope"
    )


def write_rope(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_rope."""
    fraction = {} if model.rope_fraction == 1 else {"partial_rotary_factor": model.rope_fraction}
    return {"rope_theta": model.rope_theta, **fraction, **write_scaling(model.rope_scaling)}


def write_scaling(scaling: rotary.Scaling | None) -> dict[str, Any]:
    """The inverse of read_scaling."""
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


def read_llama(config: Reader) -> dict[str, Any]:
    """Llama 2 and 3."""
    bias = config("attention_bias", False)
    return read_decoder(config) | dict(
        attention_bias=bias, output_bias=bias, mlp_bias=config("mlp_bias", False)
    )


def write_llama(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_llama."""
    return write_decoder(model) | dict(attention_bias=model.attention_bias, mlp_bias=model.mlp_bias)
