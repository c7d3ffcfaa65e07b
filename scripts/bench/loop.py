"""A whole run of t5sft.train.run.train against its bare step on one fixed batch.

python scripts/bench/loop.py [--layouts decoder encoder_decoder] [--steps 10] [--repeats 3]

The run reads, mixes, packs and places batches of the bundled village task, counts, logs a line a
window, and writes metrics; the bare step is the same compiled program with its own state. Windows
alternate: after each window of the run the loop waits while the bare step has its own. Model and
row lengths as in step.py. Goal: at least 0.93 of the bare step's speed.
"""

import argparse
import json
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import step as step_bench
import windows

from t5sft.data import prepare
from t5sft.train import loop, optim, run


class Stopwatch:
    """A last hook of the loop: times windows of it and, when `bare`, of the step alone between.

    Args:
      warmup: steps before the first window.
      steps: steps in a window.
      bare: the compiled update, or None.
    """

    def __init__(self, *, warmup: int, steps: int, bare=None):
        self.windows: list[windows.Window] = []
        self.bare_windows: list[windows.Window] = []
        self.first_step: dict[str, float] = {}
        self._warmup, self._steps, self._bare = warmup, steps, bare
        self._tokens, self._begun, self._state = 0, None, None

    def __call__(self, step: int, now, metrics, batch) -> None:
        if step == 1:
            jax.block_until_ready(now)
            begun = {"first_step_s": windows.age(), "first_step_cpu_s": windows.now().cpu}
            self.first_step = {name: round(seconds, 2) for name, seconds in begun.items()}
        self._tokens += batch.counts["tokens"]
        if step < self._warmup or (step - self._warmup) % self._steps:
            return
        jax.block_until_ready((now, metrics))
        if self._begun is not None:
            self.windows.append(windows.since(self._begun, self._steps, self._tokens))
            if self._bare is not None:
                self._run_bare(batch)
        elif self._bare is not None:
            self._state = jax.tree.map(jnp.copy, now)
        self._tokens, self._begun = 0, windows.now()

    def _run_bare(self, batch) -> None:
        begun = windows.now()
        for _ in range(self._steps):
            self._state, metrics = self._bare(self._state, batch.arrays)
        jax.block_until_ready((self._state, metrics))
        tokens = self._steps * batch.counts["tokens"]
        self.bare_windows.append(windows.since(begun, self._steps, tokens))


def timed(*, steps: int, repeats: int, warmup: int, bare: bool, **arguments) -> Stopwatch:
    """Runs `t5sft.train.run.train` with a stopwatch as its last hook."""
    plain, watches = loop.run, []

    def watched(update, *state_and_batches, hooks, **rest):
        watches.append(Stopwatch(warmup=warmup, steps=steps, bare=update if bare else None))
        return plain(update, *state_and_batches, hooks=[*hooks, *watches], **rest)

    with tempfile.TemporaryDirectory() as directory, mock.patch.object(loop, "run", watched):
        run.train(
            model_dir=f"{directory}/run",
            steps=warmup + repeats * steps,
            batch_size=step_bench.BATCH,
            log_every=steps,
            **arguments,
        )
    return watches[0]


def compare(layout: str, **arguments) -> dict:
    """Times the run and the bare step in turn and returns their results and the ratio."""
    data = prepare.Data(
        task="village",
        modules=("t5sft.tasks.village",),
        vocabulary="tasks/village/vocab.model",
        template="plain" if layout == "encoder_decoder" else "lines",
        encoder_length=step_bench.TOKENS // 2,
        decoder_length=step_bench.TOKENS // (2 if layout == "encoder_decoder" else 1),
    )
    optimizer = optim.adamw(
        learning_rate=optim.schedule(peak=1e-3, total_steps=1, shape="constant")
    )
    watch = timed(
        model=step_bench.make_model(layout),
        data=data,
        optimizer=optimizer,
        bare=True,
        **arguments,
    )
    return {
        "results": [
            windows.summary(f"bare step/{layout}", watch.bare_windows),
            windows.summary(f"whole run/{layout}", watch.windows),
        ],
        # Step for step: the batches of the run hold a few tokens more or less than the fixed one.
        "ratio": windows.ratios(watch.windows, of=watch.bare_windows),
        **watch.first_step,
    }


def main() -> None:
    layouts = ("decoder", "encoder_decoder")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layouts", nargs="+", choices=layouts, default=layouts)
    parser.add_argument("--steps", type=int, default=10, help="steps in a window")
    parser.add_argument("--repeats", type=int, default=3, help="windows of each")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the first window")
    arguments = vars(parser.parse_args())
    for layout in arguments.pop("layouts"):
        result = compare(layout, **arguments)
        print(json.dumps({"bench": "loop", "layout": layout, **result}), flush=True)
        print(windows.table(result["results"]))
        print(windows.row("whole run / bare step", **result["ratio"]))


if __name__ == "__main__":
    main()
