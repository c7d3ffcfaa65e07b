"""The model families of Hugging Face: names of tensors, config.json to model and back.

Adding a family is a table of names in `tables` and a pair of functions in `configs`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from t5sft import errors
from t5sft.convert import configs, tables
from t5sft.convert.reader import Reader
from t5sft.convert.tensors import Table, Tensor
from t5sft.models import decoder, rotary, t5
from t5sft.models.model import Model

# What changes how a model is trained or computed, not what its weights mean.
FREE = (
    *("dtype", "remat", "scan_unroll", "attention"),
    *("dropout_rate", "init_stddev", "max_position_embeddings"),
)


@dataclasses.dataclass(frozen=True)
class Family:
    """A `model_type` of config.json.

    Args:
      name: the model_type.
      architecture: the class of transformers that a file is exported for.
      table: all names of a model.
      read: config.json -> fields of `makes`.
      write: model -> config.json, without what is the same for all; None: nothing can be written,
        because a part is missing in ours.
      defaults: values of the keys that a config.json may lack.
      makes: the class of the model.
      copies: names that may repeat the embedding where the head is tied.
      ignored: regular expressions of names in old or larger files that hold none of our weights.
    """

    name: str
    architecture: str
    table: Callable[[Any], Table]
    read: Callable[[Reader], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]] | None
    defaults: Mapping[str, Any]
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
        fields = self.read(Reader(config, self.name, self.defaults))
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
        if not isinstance(model, self.makes) or self.write is None:
            found = ["layout" if self.write else "images"]
        else:
            written = self.write(model)
            found = differences(model, self.model(written, has_head=not model.logits_via_embedding))
        if found:
            raise errors.ConfigError(
                f"model_type {self.name!r} cannot express this model ({', '.join(found)}); "
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
    value = getattr(model, name)
    if isinstance(value, rotary.LongRope):  # which factors are in use is a setting of the run
        return dataclasses.replace(value, is_long=False)
    return value


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


_T5_DEFAULTS = dict(
    relative_attention_num_buckets=32,
    relative_attention_max_distance=128,
    layer_norm_epsilon=1e-6,
    dropout_rate=0.1,
)
_DECODER = dict(rope_theta=10_000.0, rms_norm_eps=1e-6, hidden_act="silu")
_GEMMA = _DECODER | dict(tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh", head_dim=256)
_GEMMA2_DEFAULTS = _GEMMA | dict(
    hidden_activation="gelu_pytorch_tanh",
    sliding_window=4096,
    query_pre_attn_scalar=256,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
)
# Released files of Gemma 3 name only what differs from this.
_GEMMA3_DEFAULTS = _GEMMA | dict(
    hidden_activation="gelu_pytorch_tanh",
    sliding_window=4096,
    vocab_size=262_208,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=131_072,
    rope_theta=1_000_000.0,
    rope_local_base_freq=10_000.0,
    sliding_window_pattern=6,
    query_pre_attn_scalar=256,
)


def _t5(name: str, architecture: str, read) -> Family:
    return Family(
        name,
        architecture,
        lambda model: tables.T5[model.gated],
        read,
        configs.write_t5,
        _T5_DEFAULTS,
        makes=t5.T5,
        copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


def _decoder(name: str, architecture: str, table: Table, read, write, **defaults) -> Family:
    return Family(name, architecture, lambda model: table, read, write, defaults)


_FAMILIES = [
    _t5("t5", "T5ForConditionalGeneration", configs.read_t5),
    _t5("mt5", "MT5ForConditionalGeneration", configs.read_mt5),
    _decoder(
        "llama",
        "LlamaForCausalLM",
        tables.LLAMA,
        configs.read_llama,
        configs.write_llama,
        **_DECODER,
    ),
    _decoder(
        "mistral",
        "MistralForCausalLM",
        tables.LLAMA,
        configs.read_mistral,
        configs.write_mistral,
        **_DECODER | dict(sliding_window=4096, num_key_value_heads=8),
    ),
    _decoder(
        "qwen2",
        "Qwen2ForCausalLM",
        tables.LLAMA,
        configs.read_qwen2,
        configs.write_qwen2,
        **_DECODER | dict(sliding_window=4096, max_window_layers=28),
    ),
    _decoder(
        "qwen3",
        "Qwen3ForCausalLM",
        tables.QWEN3,
        configs.read_qwen3,
        configs.write_qwen3,
        **_DECODER | dict(sliding_window=4096, max_window_layers=28, head_dim=128),
    ),
    _decoder(
        "gemma", "GemmaForCausalLM", tables.LLAMA, configs.read_gemma, configs.write_gemma, **_GEMMA
    ),
    _decoder(
        "gemma2",
        "Gemma2ForCausalLM",
        tables.GEMMA2,
        configs.read_gemma2,
        configs.write_gemma2,
        **_GEMMA2_DEFAULTS,
    ),
    _decoder(
        "gemma3_text",
        "Gemma3ForCausalLM",
        tables.GEMMA3,
        configs.read_gemma3,
        configs.write_gemma3,
        **_GEMMA3_DEFAULTS,
    ),
    Family(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        lambda model: tables.GEMMA3_WITH_IMAGES,
        configs.read_gemma3_with_images,
        None,
        _GEMMA3_DEFAULTS,
        ignored=(r"(vision_tower|multi_modal_projector)\..*",),
    ),
    _decoder(
        "phi3",
        "Phi3ForCausalLM",
        tables.PHI3,
        configs.read_mistral,
        configs.write_mistral,
        **_DECODER | dict(rms_norm_eps=1e-5),
    ),
]
FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in _FAMILIES})
