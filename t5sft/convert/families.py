"""The model families of Hugging Face: names of tensors, config.json to model and back.

Adding a family is a table of names and a pair of functions in `configs`. Layouts are those of the
modules `modeling_*.py` of transformers 5.23.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from t5sft import errors
from t5sft.convert import configs
from t5sft.convert.tensors import Layers, Row, Table, Tensor
from t5sft.models import decoder, t5
from t5sft.models.model import Model

# What changes how a model is trained or computed, not what its weights mean.
FREE = ("dtype", "remat", "scan_unroll", "dropout_rate", "init_stddev", "max_position_embeddings")

_QKV = (
    Row("self_attn.q_proj.weight", "self_attention/q", "heads_out"),
    Row("self_attn.q_proj.bias", "self_attention/q_bias", "flat"),
    Row("self_attn.k_proj.weight", "self_attention/kv", "heads_out", 0),
    Row("self_attn.k_proj.bias", "self_attention/kv_bias", "flat", 0),
    Row("self_attn.v_proj.weight", "self_attention/kv", "heads_out", 1),
    Row("self_attn.v_proj.bias", "self_attention/kv_bias", "flat", 1),
)
_OUT = (
    Row("self_attn.o_proj.weight", "self_attention/out", "heads_in"),
    Row("self_attn.o_proj.bias", "self_attention/out_bias"),
)
_HEAD_NORMS = (
    Row("self_attn.q_norm.weight", "self_attention/q_norm"),
    Row("self_attn.k_norm.weight", "self_attention/k_norm"),
)
_MLP = (
    Row("mlp.gate_proj.weight", "mlp/wi", "transpose", 0),
    Row("mlp.gate_proj.bias", "mlp/wi_bias", "keep", 0),
    Row("mlp.up_proj.weight", "mlp/wi", "transpose", 1),
    Row("mlp.up_proj.bias", "mlp/wi_bias", "keep", 1),
    Row("mlp.down_proj.weight", "mlp/wo", "transpose"),
    Row("mlp.down_proj.bias", "mlp/wo_bias"),
)
_NORMS = (
    Row("input_layernorm.weight", "self_attention/norm"),
    Row("post_attention_layernorm.weight", "mlp/norm"),
)
_SANDWICH = (
    Row("input_layernorm.weight", "self_attention/norm"),
    Row("post_attention_layernorm.weight", "self_attention/post_norm"),
    Row("pre_feedforward_layernorm.weight", "mlp/norm"),
    Row("post_feedforward_layernorm.weight", "mlp/post_norm"),
)
_FUSED = (
    Row("self_attn.qkv_proj.weight", "self_attention/q", "heads_out"),
    Row("self_attn.qkv_proj.weight", "self_attention/kv", "heads_out", 0),
    Row("self_attn.qkv_proj.weight", "self_attention/kv", "heads_out", 1),
    Row("mlp.gate_up_proj.weight", "mlp/wi", "transpose", 0),
    Row("mlp.gate_up_proj.weight", "mlp/wi", "transpose", 1),
    Row("mlp.down_proj.weight", "mlp/wo", "transpose"),
)


def _decoder_table(*rows: Row, prefix: str = "model.", head: str = "lm_head.weight") -> Table:
    around = (
        Row(f"{prefix}embed_tokens.weight", "embedding"),
        Row(f"{prefix}norm.weight", "decoder/norm"),
        Row(head, "head", "transpose"),
    )
    return Table(around, (Layers(f"{prefix}layers.{{}}.", "decoder/layers", rows),))


def _t5_attention(number: int, name: str, path: str) -> tuple[Row, ...]:
    prefix = f"layer.{number}.{name}"
    return (
        Row(f"layer.{number}.layer_norm.weight", f"{path}/norm"),
        Row(f"{prefix}.q.weight", f"{path}/q", "heads_out"),
        Row(f"{prefix}.k.weight", f"{path}/kv", "heads_out", 0),
        Row(f"{prefix}.v.weight", f"{path}/kv", "heads_out", 1),
        Row(f"{prefix}.o.weight", f"{path}/out", "heads_in"),
    )


def _t5_mlp(number: int, *, gated: bool) -> tuple[Row, ...]:
    prefix = f"layer.{number}.DenseReluDense"
    gates = (
        Row(f"{prefix}.wi_0.weight", "mlp/wi", "transpose", 0),
        Row(f"{prefix}.wi_1.weight", "mlp/wi", "transpose", 1),
    )
    return (
        Row(f"layer.{number}.layer_norm.weight", "mlp/norm"),
        *(gates if gated else [Row(f"{prefix}.wi.weight", "mlp/wi", "transpose")]),
        Row(f"{prefix}.wo.weight", "mlp/wo", "transpose"),
    )


def _t5_table(*, gated: bool) -> Table:
    own = _t5_attention(0, "SelfAttention", "self_attention")
    cross = _t5_attention(1, "EncDecAttention", "cross_attention")
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    around = (
        Row("shared.weight", "embedding"),
        Row(f"encoder.{bias}", "encoder/relative_bias"),
        Row(f"decoder.{bias}", "decoder/relative_bias"),
        Row("encoder.final_layer_norm.weight", "encoder/norm"),
        Row("decoder.final_layer_norm.weight", "decoder/norm"),
        Row("lm_head.weight", "head", "transpose"),
    )
    encoder = (*own, *_t5_mlp(1, gated=gated))
    decoder = (*own, *cross, *_t5_mlp(2, gated=gated))
    return Table(
        around,
        (
            Layers("encoder.block.{}.", "encoder/layers", encoder),
            Layers("decoder.block.{}.", "decoder/layers", decoder),
        ),
    )


_T5 = {gated: _t5_table(gated=gated) for gated in (True, False)}
_LLAMA = _decoder_table(*_NORMS, *_QKV, *_OUT, *_MLP)


@dataclasses.dataclass(frozen=True)
class Family:
    """A `model_type` of config.json.

    Args:
      name: the model_type.
      architecture: the class of transformers that a file is exported for.
      table: all names of a model.
      read: config.json (with a `configs.Reader`) -> fields of `makes`.
      write: model -> config.json, without what is the same for all.
      makes: the class of the model.
      copies: names that may repeat the embedding where the head is tied.
      ignored: regular expressions of names in old or larger files that hold none of our weights.
    """

    name: str
    architecture: str
    table: Callable[[Any], Table]
    read: Callable[[configs.Reader], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]
    makes: type[Model] = decoder.Decoder
    copies: tuple[str, ...] = ()
    ignored: tuple[str, ...] = (r".*\.rotary_emb\.inv_freq",)

    def model(self, config: Mapping[str, Any], *, has_head: bool | None = None) -> Model:
        """Returns the model that a config.json describes, in either spelling (4.x, 5.x).

        Args:
          config: the parsed file.
          has_head: whether the checkpoint has a head (lm_head.weight) that differs from its
            embedding, if known: the config of a T5 1.1 may say that it is tied when it is not.

        Raises:
          ConfigError: a size is missing, or the model has a feature that we lack.
        """
        reader = configs.Reader(config, self.name)
        fields = self.read(reader)
        if self.makes is t5.T5 and has_head is not None:
            fields["logits_via_embedding"] = not has_head
        return self.makes(**fields)

    def config(self, model: Model, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns config.json for a model, in the spelling that 4.x and 5.x of transformers read.

        Args:
          facts: what the model does not know: `torch_dtype`, `bos_token_id` and the like.

        Raises:
          ConfigError: a model of this family cannot be what this one is.
        """
        written = self.write(model) if isinstance(model, self.makes) else {}
        same = written and self.model(written, has_head=not model.logits_via_embedding)
        if not same or differences(model, same):
            found = (
                ", ".join(differences(model, same)) if same else f"it is a {type(model).__name__}"
            )
            raise errors.ConfigError(
                f"model_type {self.name!r} cannot express this model ({found}); "
                f"{type(model).__name__}; choose another family"
            )
        about = {"architectures": [self.architecture], "model_type": self.name}
        return about | written | dict(facts or {})

    def tensors(self, model: Model) -> list[Tensor]:
        """Returns all tensors of a model, with the pieces of our parameter tree that they are."""
        return self.table(model).tensors(model.abstract()[0], self.name)

    def aliases(self, model: Model) -> dict[str, str]:
        """Names that a file may hold as copies of another tensor: copy -> original."""
        names = {row.path: row.hf_name for row in self.table(model).rows}
        tied = (names["head"],) if model.logits_via_embedding else ()
        return dict.fromkeys((*self.copies, *tied), names["embedding"])


def differences(one: Model, other: Model) -> list[str]:
    """Names the fields in which two models of one class differ, so that weights do not fit.

    Fields of FREE do not count, and a pattern counts by the layers that it makes.
    """
    if type(one) is not type(other):
        return ["layout"]
    names = {field.name for field in dataclasses.fields(one)} - {*FREE, "layer_pattern"}
    names |= {"layer_types"} if isinstance(one, decoder.Decoder) else set()
    return sorted(name for name in names if _value(one, name) != _value(other, name))


def _value(model: Model, name: str) -> Any:
    if name == "query_pre_attn_scalar":
        return getattr(model, name) or model.head_dim
    if name == "scale_decoder_outputs":
        return model.head_scale != 1.0  # type: ignore[attr-defined]
    return getattr(model, name)


def find(model_type: str) -> Family:
    """Returns the family of a config.json's `model_type`; raises ConfigError naming the known."""
    if model_type not in FAMILIES:
        raise errors.ConfigError(
            f"model_type {model_type!r} is unknown{errors.suggest(model_type, FAMILIES)}; "
            f"config.json; convertible are {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def of(model: Model) -> Family:
    """Returns the first family that can express a model; raises ConfigError if none can."""
    for family in FAMILIES.values():
        try:
            family.config(model)
        except errors.ConfigError:
            continue
        return family
    raise errors.ConfigError(
        f"no family of transformers has these features; {type(model).__name__}; "
        f"a model for export must be one of {', '.join(FAMILIES)}"
    )


def _t5(name: str, architecture: str) -> Family:
    return Family(
        name,
        architecture,
        lambda model: _T5[model.gated],
        configs.read_t5,
        configs.write_t5,
        makes=t5.T5,
        copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


_FAMILIES = [
    _t5("t5", "T5ForConditionalGeneration"),
    _t5("mt5", "MT5ForConditionalGeneration"),
    Family(
        "llama", "LlamaForCausalLM", lambda model: _LLAMA, configs.read_llama, configs.write_llama
    ),
]
FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in _FAMILIES})
