"""Generation against transformers, and rows that make room against whole batches.

python scripts/bench/generate.py --peer_python PYTHON [--repeats 5] [--layouts decoder ...]

Peer: the same random model and prompts through transformers' `generate` (generate_peer.py, run by
PYTHON, an environment with torch and transformers, its own process). Greedy, 8 rows, 128 new
tokens; prompts of 64 tokens, or encoder inputs of 256. Windows alternate: one of ours, one of the
peer's. Goal: 2.0 times its new tokens per second.

Continuous batching: 64 prompts of 16 tokens, 8 rows; a random model of which 3 % of the vocabulary
end an answer, sampled: of 1 to 185 tokens, half of them within 20 (decoder). Both ways decode the
same tokens. Goal: 1.5 times the rate of whole batches.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import step
import windows

from t5sft.generate import decode, sampling

BATCH, NEW = 8, 128
PEER = pathlib.Path(__file__).with_name("generate_peer.py")


def compare(layout: str, python: str, repeats: int) -> dict:
    """Times ours and the peer's in turn."""
    model = step.make_model(layout, scan_unroll=1)
    params = jax.jit(model.init)(jax.random.key(0))
    length = 64 if layout == "decoder" else 256
    prompts = np.random.default_rng(0).integers(4, 8192, (BATCH, length)).tolist()

    def ours():
        options = {"max_new_tokens": NEW, "eos_id": -1, "batch_size": BATCH}
        answers = decode.generate(model, params, prompts, **options)
        assert all(len(one.tokens) == NEW for one in answers)

    with Peer(python, layout, prompts) as peer:
        ours()
        peer.window()
        found: dict[str, list[windows.Window]] = {"transformers": [], "t5sft": []}
        for _ in range(repeats):
            begun = windows.now()
            ours()
            found["t5sft"].append(windows.since(begun, NEW, BATCH * NEW))
            found["transformers"].append(peer.window())
    return {
        "results": [windows.summary(f"{name}/{layout}", found[name]) for name in found],
        "ratio": windows.ratios(found["t5sft"], of=found["transformers"]),
    }


class Peer:
    """The peer's process: generates once for every line it is sent."""

    def __init__(self, python: str, layout: str, prompts):
        self._folder = tempfile.TemporaryDirectory()
        asked = pathlib.Path(self._folder.name, "asked.json")
        asked.write_text(json.dumps({"layout": layout, "prompts": prompts, "num": NEW}))
        # Waiting threads that spin would burn the CPU time that is compared.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, str(PEER), str(asked)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def window(self) -> windows.Window:
        """Lets it generate once; the CPU time is its own."""
        begun = windows.now()
        print("go", file=self._process.stdin, flush=True)
        told = json.loads(self._process.stdout.readline())
        busy = windows.now().busy - begun.busy
        other = max(busy - told["cpu"], 0.0) / told["wall"]
        return windows.Window(NEW, BATCH * NEW, told["wall"], told["cpu"], other)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


def unequal(layout: str, repeats: int) -> dict:
    """Times whole batches and rows that make room, on answers of very unequal lengths."""
    model = step.make_model(layout, scan_unroll=1)
    params = jax.jit(model.init)(jax.random.key(0))
    prompts = np.random.default_rng(1).integers(4, 8192, (64, 16)).tolist()
    ends = list(range(4, 4 + 8192 * 3 // 100))
    options = {
        "max_new_tokens": 252, "eos_id": ends, "batch_size": BATCH,
        "sampler": sampling.Sampler(temperature=1.0),
    }  # fmt: skip

    def run(refill: int) -> list[int]:
        answers = decode.generate(model, params, prompts, refill=refill, **options)
        return [len(one.tokens) + one.finished for one in answers]

    ways = {"whole batches": BATCH, "rows make room": 2}
    lengths = [run(refill) for refill in ways.values()]
    assert lengths[0] == lengths[1], "the answers differ"
    found: dict[str, list[windows.Window]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, refill in ways.items():
            begun = windows.now()
            run(refill)
            found[name].append(windows.since(begun, 1, sum(lengths[0])))
    return {
        "results": [windows.summary(f"{name}/{layout}", found[name]) for name in ways],
        "ratio": windows.ratios(found["rows make room"], of=found["whole batches"]),
        "lengths": sorted(lengths[0]),
    }


def main() -> None:
    layouts = ("decoder", "encoder_decoder")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer_python", help="Python with torch and transformers; none: no peer")
    parser.add_argument("--layouts", nargs="+", choices=layouts, default=layouts)
    parser.add_argument("--repeats", type=int, default=5, help="windows of each program")
    arguments = parser.parse_args()
    for layout in arguments.layouts:
        made = {}
        if arguments.peer_python:
            made["t5sft / transformers"] = compare(layout, arguments.peer_python, arguments.repeats)
        made["rows make room / whole batches"] = unequal(layout, arguments.repeats)
        for name, result in made.items():
            print(json.dumps({"bench": "generate", "of": name, "layout": layout, **result}))
            print(windows.table(result["results"]))
            print(windows.row(name, **result["ratio"]), flush=True)


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
