"""Names of tensors in the checkpoints of Hugging Face, and what they are in our parameter tree.

A table per family, of rows that families share. Layouts are those of `modeling_*.py` of
transformers 5.23.
"""

from t5sft.convert.tensors import Layers, Row, Table

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


T5 = {gated: _t5_table(gated=gated) for gated in (True, False)}
LLAMA = _decoder_table(*_NORMS, *_QKV, *_OUT, *_MLP)
QWEN3 = _decoder_table(*_NORMS, *_QKV, *_HEAD_NORMS, *_OUT, *_MLP)
GEMMA2 = _decoder_table(*_SANDWICH, *_QKV, *_OUT, *_MLP)
_GEMMA3_ROWS = (*_SANDWICH, *_QKV, *_HEAD_NORMS, *_OUT, *_MLP)
GEMMA3 = _decoder_table(*_GEMMA3_ROWS)
GEMMA3_WITH_IMAGES = _decoder_table(
    *_GEMMA3_ROWS, prefix="language_model.model.", head="language_model.lm_head.weight"
)
PHI3 = _decoder_table(*_NORMS, *_FUSED, _OUT[0])
