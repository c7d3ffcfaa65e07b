"""config.json of transformers -> fields of our models, and back, a pair of functions per family.

Files are read in the spelling of transformers 4.x (`rope_theta`, `rope_scaling`, `torch_dtype`) and
of 5.x (`rope_parameters`, `layer_types`), and written so that both read them. What a file lacks has
the value of its configuration class (`Family.defaults`): transformers leaves out what equals it.
"""

from typing import Any

from t5sft.convert import rope
from t5sft.convert.reader import Reader, activation
from t5sft.models import decoder, t5

KINDS = {"full_attention": "full", "sliding_attention": "sliding"}


def read_t5(config: Reader) -> dict[str, Any]:
    """T5 1.0, 1.1, Flan-T5 and kin."""
    if not config.flag("is_encoder_decoder", True):
        raise config.error("is_encoder_decoder = False", "t5sft has the encoder-decoder only")
    form = config.get("feed_forward_proj", "relu")
    gate, _, name = form.rpartition("-")
    name = {"gated-gelu": "gelu_new"}.get(form, name)  # what T5 1.1 means by it
    tied = config.flag("tie_word_embeddings", True)
    return dict(
        vocab_size=config.size("vocab_size"),
        emb_dim=config.size("d_model"),
        mlp_dim=config.size("d_ff"),
        num_heads=config.size("num_heads"),
        head_dim=config.size("d_kv"),
        num_encoder_layers=config.size("num_layers"),
        num_decoder_layers=config.size("num_decoder_layers", config.size("num_layers")),
        relative_attention_num_buckets=config.size("relative_attention_num_buckets"),
        relative_attention_max_distance=config.size("relative_attention_max_distance"),
        norm_epsilon=config.number("layer_norm_epsilon"),
        dropout_rate=config.get("dropout_rate"),
        activation=config.with_({"feed_forward_proj": name}).activation("feed_forward_proj"),
        gated=config.known("feed_forward_proj", gate, {"": False, "gated": True}),
        logits_via_embedding=tied,
        scale_decoder_outputs=config.flag("scale_decoder_outputs", tied),
    )


def read_mt5(config: Reader) -> dict[str, Any]:
    """mT5: as T5, but its head is never scaled.

    transformers 5 writes `tie_word_embeddings` as true into every file of this family, where T5's
    file would mean a scaled head by it; its code scales none. Released weights have their own head.
    """
    return read_t5(config) | dict(scale_decoder_outputs=False)


def write_t5(model: t5.T5) -> dict[str, Any]:
    """The inverse of read_t5; transformers 4.x takes the scaling from `tie_word_embeddings`."""
    name = activation(model.activation)
    if model.gated:
        name = {"gelu_new": "gated-gelu"}.get(name, f"gated-{name}")
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
        feed_forward_proj=name,
        is_encoder_decoder=True,
        tie_word_embeddings=scales,
        scale_decoder_outputs=scales,
    )


def read_decoder(config: Reader, *, activation_key: str = "hidden_act") -> dict[str, Any]:
    """What all decoders have, but for the rotation."""
    config.refuse("use_bidirectional_attention", "mlp_only_layers", "num_experts")
    emb_dim, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    return dict(
        vocab_size=config.size("vocab_size"),
        emb_dim=emb_dim,
        mlp_dim=config.size("intermediate_size"),
        num_heads=num_heads,
        head_dim=config.size("head_dim", max(1, emb_dim // num_heads)),
        num_layers=config.size("num_hidden_layers"),
        num_kv_heads=config.size("num_key_value_heads", num_heads),
        norm_epsilon=config.number("rms_norm_eps"),
        logits_via_embedding=config.flag("tie_word_embeddings"),
        max_position_embeddings=config.size("max_position_embeddings", None),
        activation=config.activation(activation_key),
    )


def write_decoder(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_decoder, with the rotation."""
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
        hidden_act=activation(model.activation),
        **({} if length is None else {"max_position_embeddings": length}),
        **rope.write(model),
    )


def read_llama(config: Reader) -> dict[str, Any]:
    """Llama 2 and 3."""
    bias = config.flag("attention_bias")
    return dict(
        **read_decoder(config),
        **rope.read(config),
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias"),
    )


def write_llama(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_llama."""
    return write_decoder(model) | dict(attention_bias=model.attention_bias, mlp_bias=model.mlp_bias)


def read_mistral(config: Reader) -> dict[str, Any]:
    """Mistral 7B and Phi-3: all layers slide, or none."""
    window = config.size("sliding_window", None)
    return dict(
        **read_decoder(config),
        **rope.read(config),
        layer_pattern=("full",) if window is None else ("sliding",),
        sliding_window=window,
    )


def write_mistral(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_mistral."""
    return write_decoder(model) | dict(sliding_window=model.sliding_window)


def read_qwen2(config: Reader) -> dict[str, Any]:
    """Qwen 2 and 2.5: biases on queries, keys and values."""
    return dict(
        **read_decoder(config), **rope.read(config), **_qwen_windows(config), attention_bias=True
    )


def read_qwen3(config: Reader) -> dict[str, Any]:
    """Qwen 3: no biases, queries and keys normed."""
    bias = config.flag("attention_bias")
    return dict(
        **read_decoder(config),
        **rope.read(config),
        **_qwen_windows(config),
        attention_bias=bias,
        output_bias=bias,
        qk_norm=True,
    )


def _qwen_windows(config: Reader) -> dict[str, Any]:
    """A window counts only with `use_sliding_window`, and from `max_window_layers` on."""
    num_layers = config.size("num_hidden_layers")
    if not config.flag("use_sliding_window"):
        return {}
    first = config.get("max_window_layers")
    kinds = ["full" if layer < first else "sliding" for layer in range(num_layers)]
    return _windows(config, kinds)


def write_qwen2(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_qwen2; 4.x before `layer_types` reads `max_window_layers`."""
    kinds = [*model.layer_types, "sliding"]
    return write_decoder(model) | dict(
        use_sliding_window=model.sliding_window is not None,
        sliding_window=model.sliding_window,
        max_window_layers=kinds.index("sliding"),
        layer_types=_layer_types(model),
    )


def write_qwen3(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_qwen3."""
    return write_qwen2(model) | dict(attention_bias=model.attention_bias)


def _windows(config: Reader, kinds: list[str]) -> dict[str, Any]:
    """The kinds of layers that a file names, or else `kinds`, as the shortest pattern."""
    named = config.get("layer_types")
    if named is not None:
        kinds = [config.known("layer_types", kind, KINDS) for kind in named]
    if len(kinds) != config.size("num_hidden_layers"):
        what = f"layer_types has {len(kinds)} entries, but num_hidden_layers = "
        raise config.error(f"{what}{config.size('num_hidden_layers')}", "correct the file")
    window = config.size("sliding_window", None)
    if window is None or "sliding" not in kinds:
        return {}
    repeats = (
        p for p in range(1, len(kinds) + 1) if kinds == (kinds[:p] * len(kinds))[: len(kinds)]
    )
    return dict(layer_pattern=tuple(kinds[: next(repeats)]), sliding_window=window)


def _layer_types(model: decoder.Decoder) -> list[str]:
    names = {ours: theirs for theirs, ours in KINDS.items()}
    return [names[kind] for kind in model.layer_types]


def read_gemma(config: Reader) -> dict[str, Any]:
    """Gemma 1."""
    # Released files say hidden_act "gelu" and mean the tanh form, as Google's code computes it.
    name = config.get("hidden_activation") or config.get("hidden_act")
    name = {"gelu": "gelu_pytorch_tanh"}.get(name, name)
    return _gemma(config.with_({"hidden_activation": name})) | rope.read(config)


def read_gemma2(config: Reader) -> dict[str, Any]:
    """Gemma 2: every second layer slides, from the first on."""
    num_layers = config.size("num_hidden_layers")
    kinds = ["full" if layer % 2 else "sliding" for layer in range(num_layers)]
    return _gemma(config) | rope.read(config) | _sandwich(config, kinds)


def read_gemma3(config: Reader) -> dict[str, Any]:
    """Gemma 3, the text model: five of six layers slide, with a rotation of their own."""
    period = config.size("sliding_window_pattern")
    num_layers = config.size("num_hidden_layers")
    kinds = ["sliding" if (layer + 1) % period else "full" for layer in range(num_layers)]
    fields = _gemma(config) | rope.read_two(config) | _sandwich(config, kinds)
    if fields.get("sliding_window") is None:
        fields["rope_theta_local"] = None
    return fields | dict(qk_norm=True)


def read_gemma3_with_images(config: Reader) -> dict[str, Any]:
    """The text model of a Gemma 3 that also sees images."""
    return read_gemma3(config.with_(config.get("text_config", {})))


def _gemma(config: Reader) -> dict[str, Any]:
    bias = config.flag("attention_bias")
    return read_decoder(config, activation_key="hidden_activation") | dict(
        attention_bias=bias, output_bias=bias, norm_offset=1.0, scale_embedding=True
    )


def _sandwich(config: Reader, kinds: list[str]) -> dict[str, Any]:
    return dict(
        **_windows(config, kinds),
        sandwich_norms=True,
        query_pre_attn_scalar=config.number("query_pre_attn_scalar"),
        attention_soft_cap=config.number("attn_logit_softcapping", None),
        final_soft_cap=config.number("final_logit_softcapping", None),
    )


def write_gemma(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_gemma."""
    fields = write_decoder(model) | dict(attention_bias=model.attention_bias)
    name = {"gelu": "gelu_pytorch_tanh"}.get(model.activation, fields["hidden_act"])
    return fields | dict(hidden_act=name, hidden_activation=name)


def write_gemma2(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_gemma2."""
    scalar = model.query_pre_attn_scalar or model.head_dim
    return write_gemma(model) | dict(
        query_pre_attn_scalar=int(scalar) if scalar == int(scalar) else scalar,
        attn_logit_softcapping=model.attention_soft_cap,
        final_logit_softcapping=model.final_soft_cap,
        sliding_window=model.sliding_window,
        layer_types=_layer_types(model),
    )


def write_gemma3(model: decoder.Decoder) -> dict[str, Any]:
    """The inverse of read_gemma3; 4.x before `layer_types` reads `sliding_window_pattern`."""
    kinds = model.layer_types
    period = kinds.index("full") + 1 if "full" in kinds else len(kinds) + 1
    return write_gemma2(model) | dict(sliding_window_pattern=period)
