"""How fast packed batches come from a cache, without a model: tokens per CPU second.

python scripts/bench/serve.py [--examples 200000] [--tasks 10] [--seconds 5] [--prepared DIR ...]

Each line is one layout: a decoder with rows of 2048, an encoder-decoder with rows of 512 + 512,
8 rows a batch, from a generated cache (lengths as in Alpaca: about 35 tokens of prompt and 80 of
answer) or from directories that `t5sft prepare` has made. Planning (mixture and packing), reading
and conversion to arrays are timed, on one thread; tokens that are padding do not count. Also told:
seconds until the first batch of a late step. Goal: 1,000,000 tokens per CPU second.
"""

import argparse
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from t5sft.data import batches, cache

LAYOUTS = {"decoder": (0, 2048), "encoder_decoder": (512, 512)}
BATCH = 8
LATE = batches.Position(block=1_000_000, row=17)


def generate(directory: pathlib.Path, layout: str, num_examples: int, num_tasks: int) -> None:
    """Writes a prepared split of random tokens."""
    random = np.random.default_rng(0)
    tasks = {}
    for number in range(num_tasks):
        size = num_examples // num_tasks
        prompts = np.clip(random.lognormal(3.4, 0.5, size), 8, 300).astype(int)
        answers = np.clip(random.lognormal(3.95, 0.95, size), 2, 500).astype(int)
        task = f"task{number}"
        tasks[task] = {"rate": 1.0 + number, "read": size, "kept": size}
        (directory / task).mkdir(parents=True)
        alone = layout == "decoder"
        sides = {
            "inputs": (0 * prompts if alone else prompts, np.zeros),
            "targets": (prompts + answers if alone else answers, np.ones),
        }
        for side, (lengths, weights) in sides.items():
            offsets = np.cumsum([0, *lengths])
            arrays = {
                "offsets": offsets,
                "ids": random.integers(3, 32_000, offsets[-1], dtype=np.int32),
                "weights": weights(offsets[-1], np.float32),
                "roles": np.zeros(offsets[-1], np.int8),
            }
            for name, array in arrays.items():
                np.save(directory / task / f"{side}.{name}.npy", array)
        np.save(directory / task / "numbers.npy", np.arange(size))
    (directory / "card.json").write_text(json.dumps({"tasks": tasks}))


def serve(directory: pathlib.Path, layout: str, seconds: float) -> dict:
    """Makes batches for some seconds; opening and the first batch are timed apart."""
    lengths = dict(zip(("encoder_length", "decoder_length"), LAYOUTS[layout], strict=True))
    begun = time.process_time(), time.perf_counter()
    made = batches.Batches(
        cache.read_split(directory), layout=layout, batch_size=BATCH, start_id=0, seed=0, **lengths
    )
    made.convert(made.batch_rows(LATE)[0])
    first = time.process_time() - begun[0], time.perf_counter() - begun[1]
    counts = {"examples": 0, "tokens": 0, "places": 0}
    position, steps, begun_cpu = batches.Position(), 0, time.process_time()
    while (spent := time.process_time() - begun_cpu) < seconds:
        rows, position = made.batch_rows(position)
        made.convert(rows)
        for name, value in made.count(rows).items():
            counts[name] += value
        steps += 1
    return {
        "tok_per_cpu_s": round(counts["tokens"] / spent),
        "examples_per_cpu_s": round(counts["examples"] / spent),
        "ms_per_batch": round(1000 * spent / steps, 2),
        "full": round(counts["tokens"] / counts["places"], 4),
        "first_late_batch_cpu_s": round(first[0], 3),
        "first_late_batch_s": round(first[1], 3),
        "steps": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=200_000, help="of the generated cache")
    parser.add_argument("--tasks", type=int, default=10, help="of the generated cache")
    parser.add_argument("--seconds", type=float, default=5.0, help="of CPU time for each line")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--prepared", nargs="*", type=pathlib.Path, help="prepared splits instead")
    arguments = parser.parse_args()
    for layout in arguments.layouts:
        with tempfile.TemporaryDirectory() as made:
            if not arguments.prepared:
                generate(pathlib.Path(made), layout, arguments.examples, arguments.tasks)
            for directory in arguments.prepared or [pathlib.Path(made)]:
                result = serve(directory, layout, arguments.seconds)
                name = directory.name if arguments.prepared else "generated"
                print(json.dumps({"bench": "serve", "layout": layout, "of": name, **result}))


if __name__ == "__main__":
    main()
