"""The same step in PyTorch and transformers on the same GPU: tokens per second, MFU, memory.

python scripts/bench/gpu_peer.py [--models llama t5] [--rows 8] [--compile] [--checkpoint]

Llama 3.2 1B at 2048 and T5 1.1 large at 512/512, random weights, float32 parameters, bfloat16 by
autocast, scaled-dot-product attention, AdamW (fused) and clipping. Rows hold one example each: no
mask of segments, which is what PyTorch is fastest at. MFU by the FLOPs that gpu.py counts.
"""

import argparse
import contextlib
import json
import statistics
import time

import torch
import transformers

# FLOPs of a row, forward and backward (t5sft/models/flops.py: step_flops / rows).
FLOPS_OF_A_ROW = {"llama": 16.009893249024e12, "t5": 2.497733197824e12}
PEAK = {"H200": 989.4e12, "H100 80GB": 989.4e12}


def llama():
    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131072,
        rope_theta=500000.0,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config)


def t5():
    config = transformers.T5Config(
        vocab_size=32128,
        d_model=1024,
        d_ff=2816,
        d_kv=64,
        num_layers=24,
        num_decoder_layers=24,
        num_heads=16,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        use_cache=False,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


MODELS = {"llama": (llama, 2048), "t5": (t5, 512)}


def measure(name: str, rows: int, steps: int, repeats: int, compiled: bool, checkpoint: bool):
    """Trains on random tokens and returns the figures."""
    make, length = MODELS[name]
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = make()
    model.train()
    if checkpoint:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    ids = torch.randint(3, 259, (rows, length), device="cuda")
    batch = {"input_ids": ids, "labels": ids}
    run = torch.compile(model) if compiled else model

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = run(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    begun = time.perf_counter()
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - begun
    step()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(steps):
            loss = step()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begun) / steps)
    took = statistics.median(seconds)
    card = torch.cuda.get_device_name()
    peak = next((each for kind, each in PEAK.items() if kind in card), None)
    places = rows * length * (1 if name == "llama" else 2)
    return {
        "peer": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "card": card,
        "model": name,
        "rows": rows,
        "compile": compiled,
        "checkpoint": checkpoint,
        "first_s": round(first, 1),
        "step_ms": round(1e3 * took, 2),
        "places_s": round(places / took),
        "tflops": round(rows * FLOPS_OF_A_ROW[name] / took / 1e12, 1),
        "mfu": peak and round(rows * FLOPS_OF_A_ROW[name] / took / peak, 4),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "loss": round(loss.item(), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint", action="store_true")
    arguments = vars(parser.parse_args())
    compiled = arguments.pop("compile")
    for name in arguments.pop("models"):
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            print(json.dumps(measure(name, compiled=compiled, **arguments)), flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
