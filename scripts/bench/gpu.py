"""The training step of a recipe on one GPU: tokens per second, MFU, memory, the slowest kernels.

python scripts/bench/gpu.py RECIPE [--data FILE] [--try "NAME=VALUE NAME=VALUE" ...] [--profile]

RECIPE is a gin file; each --try is one setting of it, as of --gin.NAME=VALUE, "" the recipe itself.
The very step that `t5sft train` compiles runs on real packed batches (of one process; the run's
own loop is in its log). MFU counts the model's FLOPs of whole rows (t5sft/models/flops.py) against
the card's data sheet (t5sft/parallel/chips.py). Settings compile at the same time.
"""

import argparse
import collections
import concurrent.futures
import glob
import json
import statistics
import tempfile
import time

import jax

from t5sft import launch
from t5sft.data import batches as batches_lib
from t5sft.data import converters, prepare
from t5sft.models import flops
from t5sft.objectives import sft
from t5sft.parallel import chips, rules
from t5sft.parallel import mesh as mesh_lib
from t5sft.train import inputs, state
from t5sft.train import step as step_lib


def bound(recipe: str, data: str | None, text: str) -> dict:
    """Returns what a setting binds of `t5sft.train.run.train`."""
    macros = {"MODEL_DIR": "unused"} | ({} if data is None else {"DATA": data})
    configuration = launch.resolve("train", [recipe], text.split(), macros)
    return launch.bind(configuration)[1]


def build(values: dict):
    """Compiles the step; returns it with its batch shapes and the seconds that it took."""
    begun = time.perf_counter()
    data = values["data"]
    shapes = converters.shapes(
        values["model"].layout,
        values["batch_size"],
        encoder_length=data.encoder_length,
        decoder_length=data.decoder_length,
    )
    program = step_lib.build(
        values["model"],
        values.get("objective", sft.sft),
        values["optimizer"],
        batch_shapes=shapes,
        microbatches=values.get("microbatches", 1),
        seed=0,
        mesh=mesh_lib.make_mesh(data=1, devices=jax.devices()[:1]),
        rules=rules.DEFAULT_RULES,
        guard=values.get("guard"),
        compiler_options=values.get("compiler_options"),
    )
    return program, shapes, time.perf_counter() - begun


def measure(values: dict, program, shapes, *, steps: int, repeats: int, profile: bool) -> dict:
    """Runs the step and returns its figures."""
    model, data = values["model"], values["data"]
    (split,) = prepare.Preparation(data, model.layout, ["train"]).result()
    vocabulary = inputs.vocabulary(model, data, 1)
    source = batches_lib.Batches(
        split,
        layout=model.layout,
        batch_size=values["batch_size"],
        encoder_length=data.encoder_length,
        decoder_length=data.decoder_length,
        start_id=vocabulary.pad_id,
        seed=0,
    )
    position, placed, counts = batches_lib.Position(), [], collections.Counter()
    for _ in range(steps):
        rows, position = source.batch_rows(position)
        placed.append(batches_lib.place(source, rows, program.shardings))
        counts.update(source.count(rows))
    now = state.create(model, values["optimizer"], program.like, seed=0)
    losses, seconds = [], []
    for repeat in range(repeats + 1):
        begun = time.perf_counter()
        for batch in placed:
            now, metrics = program.update(now, batch)
        jax.block_until_ready((now, metrics))
        if repeat:  # the first window warms up
            seconds.append((time.perf_counter() - begun) / steps)
        loss, weight = metrics["loss"]
        losses.append(round(float(loss / weight), 4))
    step = statistics.median(seconds)
    device = jax.devices()[0]
    work, peak = flops.step_flops(model, shapes), chips.peak_flops([device])
    memory = program.update.memory_analysis()
    found = {
        "step_ms": round(1e3 * step, 2),
        "spread": round(max(seconds) / min(seconds) - 1, 4),
        "places_s": round(counts["places"] / steps / step),
        "tokens_s": round(counts["tokens"] / steps / step),
        "padding": round(1 - counts["tokens"] / counts["places"], 4),
        "examples_a_row": round(counts["examples"] / steps / values["batch_size"], 2),
        "tflop": round(work / 1e12, 2),
        "tflops": round(work / step / 1e12, 1),
        "mfu": peak and round(work / step / peak, 4),
        "planned_gb": memory
        and round((memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9, 2),
        "losses": losses,
    }
    if profile:
        print(json.dumps(found), flush=True)
        profiled(program.update, now, placed[:3])
    return found


def profiled(update, now, batches):
    """Prints where the time of some steps goes, kernel by kernel."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for batch in batches:
                now, metrics = update(now, batch)
            jax.block_until_ready((now, metrics))
        (path,) = glob.glob(f"{directory}/**/*.xplane.pb", recursive=True)
        planes = jax.profiler.ProfileData.from_file(path).planes
        totals: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
        for plane in planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    stats = dict(event.stats)
                    name = f"{event.name[:60]}  {str(stats.get('hlo_op', ''))[:40]}"
                    totals[name][0] += event.duration_ns / 1e6 / len(batches)
                    totals[name][1] += 1
        whole = sum(each for each, _ in totals.values())
        print(f"{whole:9.2f} ms of kernels a step")
        for name, (each, count) in sorted(totals.items(), key=lambda x: -x[1][0])[:45]:
            print(f"{each:9.2f} ms {count / len(batches):6.0f} x  {name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--data")
    parser.add_argument("--try", action="append", dest="settings", metavar="NAME=VALUE ...")
    parser.add_argument("--steps", type=int, default=8, help="steps in a window")
    parser.add_argument("--repeats", type=int, default=3, help="windows")
    parser.add_argument("--profile", action="store_true", help="of the first setting")
    arguments = parser.parse_args()
    settings = arguments.settings or [""]
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}", flush=True)
    values = [bound(arguments.recipe, arguments.data, text) for text in settings]
    with concurrent.futures.ThreadPoolExecutor(len(settings)) as pool:
        futures = [pool.submit(build, each) for each in values]
        for i, (text, each, future) in enumerate(zip(settings, values, futures, strict=True)):
            try:
                program, shapes, seconds = future.result()
                concurrent.futures.wait(futures)  # a compilation would share the device
                found = measure(
                    each,
                    program,
                    shapes,
                    steps=arguments.steps,
                    repeats=arguments.repeats,
                    profile=arguments.profile and i == 0,
                )
            except Exception as error:  # out of memory, say: the other settings still run
                print(json.dumps({"setting": text, "error": str(error)[:600]}), flush=True)
                continue
            result = {"setting": text, "compile_s": round(seconds, 1), **found}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
