"""What happens between steps: logging, evaluation on held-out data, checkpoints."""

import dataclasses

import jax
import numpy as np

from t5sft.data import batches
from t5sft.train import checkpoint, hosts, loop, metrics, state
from t5sft.train import step as step_lib


@dataclasses.dataclass
class Hooks:
    """The actions of one run and what they count.

    Args:
      program: the compiled functions of the run.
      validation: the held-out data.
      identity: what the data position belongs to; saved with it, compared on resuming.
      facts: what a checkpoint says of the run.
    """

    checkpoints: checkpoint.Checkpointer
    program: step_lib.Program
    validation: batches.Batches
    writer: metrics.MetricWriter
    progress: metrics.Progress
    identity: dict
    facts: dict
    position: batches.Position = batches.Position()
    counts: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"examples": 0, "tokens": 0, "places": 0}
    )
    times: hosts.Times = dataclasses.field(default_factory=hosts.Times)
    validated: dict[int, dict] = dataclasses.field(default_factory=dict)  # step -> last metrics

    def actions(self, eval_every: int, save_every: int) -> list:
        """Returns what is done after each step, in order: a step is judged before it is saved."""
        return [
            self.log,
            loop.every(eval_every, self.validate),
            loop.every(save_every, self.save),
        ]

    def log(self, step: int, now: state.State, sums, batch: batches.Placed):
        """Counts the batch; writes metrics one step late: the devices are never waited for."""
        del now
        self.position = batch.position
        for name, value in batch.counts.items():
            self.counts[name] += value
        self.times.step(step)
        with self.times.waiting():
            values = self.progress.update(step, sums, batch.counts)
        self._write(values)

    def validate(self, step: int, now: state.State, *_):
        """Measures the loss on every held-out example once."""
        total: dict = {}
        for rows in self.validation.once():
            arrays = batches.place(self.validation, rows, self.program.shardings)
            for name, pair in self.program.evaluate(now.params, arrays).items():
                total[name] = np.add(total.get(name, (0.0, 0.0)), jax.device_get(pair))
        values = metrics.summarise(total)
        self.validated = {step: values}
        self.writer.write(step, "validation", values)
        self.progress.note(step, "validation", values)

    def save(self, step: int, now: state.State, *_):
        """Starts a checkpoint of this step, unless a figure of it is not finite."""
        # First, so that a run killed after the save has the figures of the step; this waits for it.
        self._write(self.progress.flush())
        values = self.validated.get(step, {})
        self.checkpoints.save(
            step,
            params=now.params,
            opt_state=now.opt_state,
            position={**self.position._asdict(), **self.identity},
            run=self.facts,
            metrics={f"validation/{name}": value for name, value in values.items()},
        )

    def finish(self, now: state.State):
        """Evaluates and saves the last step, and waits until it is on the disk."""
        self._write(self.progress.flush())
        if self.counts["places"]:  # a step was made
            step = int(now.step)
            if step not in self.validated:
                self.validate(step, now)
            self.save(step, now)
        self.checkpoints.wait()

    def _write(self, values: dict | None):
        if values is not None:
            self.writer.write(values.pop("step"), "train", values | self.times.figures())
