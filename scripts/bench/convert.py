"""Peak memory and time of t5sft convert, both ways, on a random Llama of the size of Llama 2 7B.

    python scripts/bench/convert.py --folder DIR [--layers 32] [--scale 1.0]

DIR needs three times the checkpoint (13.5 GB). Each conversion is a process of its own, whose peak
resident memory is compared with the promise: 1.3 times the largest safetensors file plus 1 GB.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

import ml_dtypes
import numpy as np

from t5sft.convert import families, huggingface

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Not getrusage: a new process inherits its parent's ru_maxrss, 2 GB under pytest.
CONVERT = """
import pathlib, re, sys
from t5sft.train import exchange
exchange.convert(source=sys.argv[1], target=sys.argv[2])
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024)
"""


def config(layers: int, scale: float) -> dict:
    """Returns config.json of Llama 2 7B, made smaller by `scale` along D, F and V."""
    heads = max(int(32 * scale), 1)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(32000 * scale),
        "hidden_size": heads * 128,
        "intermediate_size": int(11008 * scale),
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def make(path: pathlib.Path, layers: int, scale: float, shard_bytes: int) -> None:
    """Writes a random checkpoint, a tensor at a time."""
    described = config(layers, scale)
    family = families.find("llama")
    tensors = family.tensors(family.model(described))
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(1 << 24, np.float32).astype(BFLOAT16)

    def tensor(name: str) -> np.ndarray:
        shape = next(t.shape for t in tensors if t.hf_name == name)
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:3], "little")
        return np.resize(np.roll(pool, start), shape)

    specs = {t.hf_name: (BFLOAT16, t.shape) for t in tensors}
    texts = {huggingface.CONFIG: described}
    huggingface.write(
        path, texts=texts, files={}, specs=specs, make=tensor, max_shard_bytes=shard_bytes
    )


def convert(source: pathlib.Path, target: pathlib.Path) -> dict:
    """Converts in a process of its own; returns its peak memory and time."""
    begun = time.monotonic()
    command = [sys.executable, "-c", CONVERT, str(source), str(target)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"peak_bytes": int(told.splitlines()[-1]), "seconds": time.monotonic() - begun}


def digest(path: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of every tensor."""
    opened = huggingface.Directory(path)
    return {
        name: hashlib.sha256(opened.read(name).view(np.uint8).data).hexdigest()
        for name in opened.tensors
    }


def measure(folder: pathlib.Path, layers: int, scale: float, shard_bytes: int) -> dict:
    """Returns sizes, peaks, times and whether what came back is what went in."""
    source, ours, back = (folder / name for name in ("source", "ours", "back"))
    make(source, layers, scale, shard_bytes)
    files = list(source.glob("*.safetensors"))
    largest = max(file.stat().st_size for file in files)
    result = {
        "checkpoint_bytes": sum(file.stat().st_size for file in files),
        "largest_file_bytes": largest,
        "allowed_bytes": int(1.3 * largest + 1e9),
        "in": convert(source, ours),
    }
    before = digest(source)
    shutil.rmtree(source)
    result["out"] = convert(ours, back)
    result["is_same"] = digest(back) == before
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--shard_bytes", type=int, default=5_000_000_000)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True)
    try:
        result = measure(flags.folder, flags.layers, flags.scale, flags.shard_bytes)
    finally:
        shutil.rmtree(flags.folder)
    print(json.dumps(result, indent=1))
    peak = max(result[way]["peak_bytes"] for way in ("in", "out"))
    if not result["is_same"] or peak > result["allowed_bytes"]:
        sys.exit("the promise does not hold")


if __name__ == "__main__":
    main()
