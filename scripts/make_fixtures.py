"""Makes the small checkpoints and reference logits under tests/convert/fixtures.

python scripts/make_fixtures.py [NAME ...]      in an environment with torch and transformers 5.23

Each is a random model of one family as transformers saves it (config.json, model.safetensors in
bfloat16), and logits.npz of two rows in float32: "default" of the weights as saved (standard
deviation 0.02), "hot" of the same with every matrix times 16, where a wrong rotation, GELU or cap
shows. Times 16 is exact, so one file serves both. Sizes are such that head_dim is not D / N, N is
not K, and rows are longer than a window.
"""

import json
import pathlib
import sys

import numpy as np
import safetensors.torch
import torch
import transformers

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/convert/fixtures"
HOT = 16
LENGTHS = (24, 11)  # tokens of the two rows
V = 64
DECODER = dict(
    vocab_size=V,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
)
T5 = dict(vocab_size=V, d_model=24, d_ff=40, d_kv=8, num_heads=4, num_layers=2)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
LONG = dict(
    rope_type="longrope",
    rope_theta=10_000.0,
    partial_rotary_factor=0.75,
    short_factor=[1.0, 1.25, 1.5],
    long_factor=[1.5, 2.5, 4.0],
    original_max_position_embeddings=8,
)
PHI3 = DECODER | dict(hidden_size=32, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MODELS = {
    "t5": ("T5", T5 | dict(num_decoder_layers=3)),
    "t5_1_1": ("T5", T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "llama": ("Llama", DECODER | dict(rms_norm_eps=1e-5)),
    "llama_biases": (
        "Llama",
        DECODER
        | dict(attention_bias=True, mlp_bias=True, hidden_act="gelu")
        | dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    ),
    "llama3": ("Llama", DECODER | dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "mistral": ("Mistral", DECODER | dict(sliding_window=8, num_key_value_heads=1)),
    "qwen2": (
        "Qwen2",
        DECODER
        | dict(tie_word_embeddings=True, use_sliding_window=True, sliding_window=8)
        | dict(max_window_layers=1),
    ),
    "qwen3": ("Qwen3", DECODER),
    "gemma": ("Gemma", DECODER | dict(num_key_value_heads=1, head_dim=16)),
    "gemma2": ("Gemma2", DECODER | dict(sliding_window=8, query_pre_attn_scalar=12)),
    "gemma3": (
        "Gemma3Text",
        DECODER
        | dict(num_hidden_layers=4, sliding_window=8, sliding_window_pattern=3)
        | dict(query_pre_attn_scalar=12, num_key_value_heads=1)
        | dict(
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0),
                sliding_attention=dict(rope_type="default", rope_theta=1e4),
            )
        ),
    ),
    "phi3": ("Phi3", PHI3 | dict(sliding_window=8)),
    "phi3_long": ("Phi3", PHI3 | dict(original_max_position_embeddings=8, rope_parameters=LONG)),
}


def build(kind, fields):
    """A model with random weights that bfloat16 holds exactly."""
    config = getattr(transformers, f"{kind}Config")(**fields, attn_implementation="eager")
    config.dtype = torch.bfloat16
    head = "ForConditionalGeneration" if kind == "T5" else "ForCausalLM"
    name = kind.removesuffix("Text") + head
    model = getattr(transformers, name)(config).float().eval()
    if kind == "T5" and fields.get("tie_word_embeddings") is False:
        # transformers 5 ties T5 always, but the heads of T5 1.1 are their own.
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(V, config.d_model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                noise = 0.02 * noise
            else:
                is_scale = "norm" in name and "Gemma" not in kind
                noise = 0.3 * noise + float(is_scale)
            weight.copy_(noise.bfloat16().float())
    return model


def logits(model, rows):
    """[sum of lengths, V]: each row alone, without padding."""
    found = []
    with torch.no_grad():
        for source, target in rows:
            inputs = dict(input_ids=torch.tensor(target)[None], use_cache=False)
            if model.config.is_encoder_decoder:
                inputs = dict(
                    input_ids=torch.tensor(source)[None],
                    decoder_input_ids=torch.tensor(target)[None],
                )
            found.append(model(**inputs).logits[0].numpy())
    return np.concatenate(found)


def save(model, kind, fields, folder):
    """config.json as transformers writes it, and the weights in bfloat16."""
    weights = {name: weight.bfloat16().contiguous() for name, weight in model.named_parameters()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads(model.config.to_json_string())
    config["architectures"] = [type(model).__name__]
    if fields.get("tie_word_embeddings") is False:  # as on the hub: see `build`
        config["tie_word_embeddings"] = False
        config.pop("scale_decoder_outputs", None)
    text = json.dumps(config, indent=1, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def main(names):
    rng = np.random.default_rng(0)
    rows = [tuple(rng.integers(1, V, length) for _ in range(2)) for length in LENGTHS]
    rows = [(source[: len(source) * 3 // 4], target) for source, target in rows]
    for name in names or MODELS:
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        model = build(*MODELS[name])
        save(model, *MODELS[name], folder)
        default = logits(model, rows)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(HOT if weight.ndim > 1 else 1)
        arrays = {f"source_{i}": source for i, (source, _) in enumerate(rows)}
        arrays |= {f"target_{i}": target for i, (_, target) in enumerate(rows)}
        np.savez(folder / "logits.npz", default=default, hot=logits(model, rows), **arrays)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: {size} bytes, std {default.std():.3g}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
