"""What happens between steps: logging, evaluation on held-out data, checkpoints."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from t5sft import errors
from t5sft.data import batches
from t5sft.train import checkpoint, events, hosts, loop, metrics, position, state
from t5sft.train import guard as guard_lib
from t5sft.train import step as step_lib


@dataclasses.dataclass
class Hooks:
    """The actions of one run and what they count.

    Args:
      program: the compiled functions of the run.
      validation: the held-out data.
      identity: what the data position belongs to; saved with it, compared on resuming.
      facts: what a checkpoint says of the run.
      guard: what is done about a bad batch; skips, unlearnt: batches left out, batches undone.
      asked: whether the run was asked to stop: an evaluation is then given up.
    """

    checkpoints: checkpoint.Checkpointer
    program: step_lib.Program
    validation: batches.Batches
    writer: metrics.MetricWriter
    progress: metrics.Progress
    identity: dict
    facts: dict
    events: events.Events
    guard: guard_lib.Guard = guard_lib.Guard()
    skips: list = dataclasses.field(default_factory=list)
    unlearnt: list = dataclasses.field(default_factory=list)
    asked: Callable[[], bool] = lambda: False
    batch: batches.Placed | None = None  # the last one that was learnt
    counts: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"examples": 0, "tokens": 0, "places": 0}
    )
    times: hosts.Times = dataclasses.field(default_factory=hosts.Times)
    validated: dict[int, dict] = dataclasses.field(default_factory=dict)  # step -> last metrics

    def __post_init__(self):
        self.progress.on_skip = self._skipped

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
        self.times.step(step)  # before a line is written, with which its period ends
        self._read(self.progress.update, step, sums, batch.counts)  # of the batch before
        self.batch = batch
        for name, value in batch.counts.items():
            self.counts[name] += value
        self.events.step(step)

    def validate(self, step: int, now: state.State, *_):
        """Measures the loss on every held-out example once; not if the run is to stop."""
        total: dict = {}
        with self.events.span("evaluate", step=step):
            for rows in self.validation.once():
                if self.asked():
                    return
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
        self._read(self.progress.flush)
        assert self.batch is not None
        values = self.validated.get(step, {})
        where = position.Position(
            rows=self.batch.position,
            batch=self.batch.number + 1,
            identity=self.identity,
            skips=self.skips,
            unlearnt=self.unlearnt,
            guard=guard_lib.to_json(now.guard),
            period=self.progress.period(),
        )
        with self.events.span("save", step=step):
            self.checkpoints.save(
                step,
                params=now.params,
                opt_state=now.opt_state,
                position=position.to_json(where),
                run=self.facts,
                metrics={f"validation/{name}": value for name, value in values.items()},
            )

    def finish(self, now: state.State):
        """Evaluates and saves the last step, and waits until it is on the disk."""
        self._read(self.progress.flush)
        if self.counts["places"]:  # a step was made
            step = int(now.step)
            if step not in self.validated:
                self.validate(step, now)
            self.save(step, now)
        with self.events.span("save", step=int(now.step)):
            self.checkpoints.wait()

    def _read(self, read: Callable, *arguments):
        try:
            with self.times.waiting():
                values = read(*arguments)
        except errors.NonFiniteError as error:
            raise self._trouble(str(error)) from None
        self._write(values)

    def _skipped(self, step: int, values: dict):
        """Tells of a batch that the step undid; raises where that is not to be borne."""
        bad = [f"{name} is {values[name]:.4g}" for name in ("loss", "gradient_norm")]
        message = f"{', '.join(bad)}; step {step}"
        if self.guard.action != "skip" or values["skipped"] > self.guard.most_in_row:
            raise self._trouble(message)
        assert self.batch is not None
        self.unlearnt.append(self.batch.number)
        metrics.say(f"{message}: batch {self.batch.number} left no trace ({self._examples()})")

    def _trouble(self, message: str) -> Exception:
        """Returns what to raise for the batch that was learnt last."""
        assert self.batch is not None
        number = self.batch.number
        if self.guard.action == "rewind":
            around = self.guard.around
            return guard_lib.Rewind(message, (max(number - around, 0), number + around + 1))
        try:
            self.checkpoints.wait()
        except errors.StorageError as error:
            message += f" (and {error})"
        good = self.checkpoints.latest_step()
        last = "nothing was saved" if good is None else f"the last good step is {good}"
        return errors.NonFiniteError(
            f"{message}, batch {number}: {self._examples()}; nothing of it is saved, {last}; look "
            f"at these examples, lower the learning rate, or leave the batch out "
            f"(--gin.train.skip_batches='(({number}, {number + 1}),)' or "
            "--gin.Guard.action='\"skip\"')"
        )

    def _examples(self) -> str:
        rows = self.batch.rows if self.batch is not None else ()
        named = [f"{task} {index}" for row in rows for task, index in row]
        more = f" and {len(named) - 8} more" if len(named) > 8 else ""
        return f"examples {', '.join(named[:8])}{more}"

    def _write(self, values: dict | None):
        if values is None:
            return
        step = values.pop("step")
        if each := self.times.each():
            self.events.write("hosts", step=step, own_seconds=each)
        self.writer.write(step, "train", values | self.times.figures(self.program.peak_seconds))
