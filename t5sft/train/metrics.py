"""Metrics of a run: on the terminal, in metrics.jsonl and for TensorBoard.

Nothing here waits for the devices while they work: figures are read one step late.
"""

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

import jax

from t5sft import errors
from t5sft.train import tensorboard as board

NAME = "metrics.jsonl"


def summarise(sums: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """Divides (sum, weight) pairs; a weight of 0 gives nan.

    Example:
      {"loss": (6.0, 4.0), "accuracy": (0.0, 0.0)}   {"loss": 1.5, "accuracy": nan}
    """
    pairs = ((name, float(total), float(weight)) for name, (total, weight) in sums.items())
    return {name: total / weight if weight else math.nan for name, total, weight in pairs}


class MetricWriter:
    """Writes MODEL_DIR/metrics.jsonl and MODEL_DIR/tensorboard; a context manager.

    A line: {"step": 200, "split": "train", "values": {"loss": 1.25, "accuracy": null}}, where null
    stands for what is not finite.

    Args:
      directory: MODEL_DIR. Only the first process writes.
      resume_at: the step that the run goes on from; lines of later steps belong to a run that was
        cut short and are removed, so that the file reads as one uninterrupted run.
      tensorboard: write TensorBoard's files too.

    Raises:
      StorageError: the directory cannot be written.
    """

    def __init__(self, directory, *, resume_at: int = 0, tensorboard: bool = True):
        self._file: IO | None = None
        self._board: board.Board | None = None
        if jax.process_index() != 0:
            return
        path = pathlib.Path(directory).expanduser() / NAME
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _truncate(path, resume_at)
            self._file = path.open("a", encoding="utf-8")
            if tensorboard:
                folder = path.parent / "tensorboard"
                self._board = board.Board(folder, purge_step=resume_at + 1)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Adds one line and flushes it.

        Raises:
          StorageError: the disk is full or gone.
        """
        if self._file is None:
            return
        values = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": int(step), "split": split, "values": finite}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            if self._board is not None:
                self._board.add(int(step), {f"{split}/{k}": v for k, v in values.items()})
        except OSError as error:
            raise _cannot_write(self._file.name, error) from error

    def close(self) -> None:
        """Writes what is still in memory; StorageError where that cannot be."""
        file, board, self._file, self._board = self._file, self._board, None, None
        if file is None:
            return
        try:
            file.close()
            if board is not None:
                board.close()
        except OSError as error:
            raise _cannot_write(file.name, error) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def read(directory) -> list[dict]:
    """The lines of MODEL_DIR/metrics.jsonl; null is nan. Without the file: no lines."""
    path = pathlib.Path(directory).expanduser() / NAME
    if not path.exists():
        return []
    return [
        line | {"values": {k: math.nan if v is None else v for k, v in line["values"].items()}}
        for line in _whole_lines(path)
    ]


def say(line: str) -> None:
    """Prints a line on stderr, on the first process only."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def _whole_lines(path: pathlib.Path) -> list[dict]:
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # the process was killed while it wrote this line
            continue
    return lines


def _truncate(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in _whole_lines(path) if line["step"] <= step]
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("".join(kept), encoding="utf-8")
    unfinished.replace(path)


def _cannot_write(path, error: OSError) -> errors.StorageError:
    return errors.StorageError(f"cannot write ({error}); {path}; free or mend the storage")


class Progress:
    """Adds up the metrics of steps and shows them: a bar on a terminal, else one line a period.

    The figures of a step are read when the next one is under way, so that the devices always have
    work. Only the first process shows anything. A context manager.

      step 200/1500  loss 1.234  accuracy 0.71  12.3k tokens/s  padding 3.1 %  eta 1:05

    Args:
      total_steps: where the run ends.
      start: steps done before.
      every: steps in a period; a line also comes when nothing was shown for 30 seconds.
      period: what `period` gave when the run was saved; the means go on from there.
      stream: where to show it; None: stderr.
      clock: seconds.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start: int = 0,
        every: int = 50,
        period: Mapping[str, Any] | None = None,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._start, self._every = total_steps, start, max(every, 1)
        self._stream = (stream or sys.stderr) if jax.process_index() == 0 else None
        self._clock = clock
        self.on_skip: Callable[[int, dict], None] = lambda step, values: None  # see `flush`
        self._late: tuple | None = None  # (step, metrics on the devices, counts)
        self._begun = self._period_begun = self._shown = clock()
        period = period or {}
        pairs = period.get("sums", {})
        self._sums: dict[str, tuple[float, float]] = {k: (s, w) for k, (s, w) in pairs.items()}
        self._counts: dict[str, int] = dict(period.get("counts", {}))
        self._earlier = self._counts.get("tokens", 0)  # of another process: not of this speed
        self._bar: Any = None
        if self._stream is not None and self._stream.isatty():
            import tqdm

            layout = "{n_fmt}/{total_fmt} |{bar:20}| {postfix}"
            self._bar = tqdm.tqdm(
                total=total_steps, initial=start, file=self._stream, bar_format=layout, leave=False
            )

    def update(self, step: int, sums: Mapping, counts: Mapping[str, int]) -> dict | None:
        """Takes in one step and reads the one before.

        Args:
          step: steps done.
          sums: name -> (sum, weight), arrays on the devices that nothing will donate.
          counts: of this batch: "tokens" that are not padding, "places" for tokens.

        Returns:
          One call after the end of a period: means by name, with "step", "tokens_per_second" and
          "padding"; else None.

        Raises:
          NonFiniteError: the step before had a figure that is NaN or infinite.
        """
        for array in jax.tree.leaves(sums):
            if isinstance(array, jax.Array):
                array.copy_to_host_async()
        values = self.flush()
        self._late = (step, sums, dict(counts))
        return values

    def flush(self) -> dict | None:
        """Waits for the last step; returns and raises as `update` does.

        The figures of a step that the guard undid ("skipped") are told to `on_skip`, not added.
        """
        if self._late is None:
            return None
        (step, sums, counts), self._late = self._late, None
        pairs = jax.device_get(dict(sums))
        if pairs.get("skipped", (0.0, 1.0))[0] > 0:
            self.on_skip(step, summarise(pairs))
            pairs = {"skipped": (1.0, 1.0)}
        _check_finite(step, pairs)
        for name, (total, weight) in pairs.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + float(total), before[1] + float(weight))
        for name, count in counts.items():
            self._counts[name] = self._counts.get(name, 0) + int(count)
        is_end = step % self._every == 0 or step == self._total
        quiet_seconds = self._clock() - self._shown
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if not is_end and quiet_seconds < (0.5 if self._bar is not None else 30.0):
            return None
        values = self._means(step)
        self._show(step, values)
        if not is_end:
            return None
        self._sums, self._counts, self._period_begun = {}, {}, self._clock()
        self._earlier = 0
        return values

    def period(self) -> dict:
        """Returns what is added up of the period so far, as JSON can hold it, exactly."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def note(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Shows the means of another split on a line of their own."""
        shown = [f"{name} {values[name]:.4g}" for name in ("loss", "accuracy") if name in values]
        self._print("  ".join([f"step {step}/{self._total}  {split}", *shown]))

    def is_done(self, step: int) -> bool:
        """Whether the run ends at this step; a run that was stopped before goes on another time."""
        return step >= self._total

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _means(self, step: int) -> dict:
        seconds = max(self._clock() - self._period_begun, 1e-9)
        tokens, places = (self._counts.get(name, 0) for name in ("tokens", "places"))
        speed = {"tokens_per_second": (tokens - self._earlier) / seconds} if tokens else {}
        padding = {"padding": 1 - tokens / places} if places else {}
        return {"step": step, **summarise(self._sums), **speed, **padding}

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        self._shown = self._clock()
        each = (self._shown - self._begun) / max(step - self._start, 1)
        line = _line(values, each * (self._total - step))
        if self._bar is not None:
            self._bar.set_postfix_str(line)
        else:
            self._print(f"step {step}/{self._total}  {line}")

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        elif self._stream is not None:
            print(line, file=self._stream, flush=True)


def _check_finite(step: int, sums: Mapping[str, tuple]) -> None:
    for name, (total, _) in sums.items():
        if not math.isfinite(total):
            raise errors.NonFiniteError(f"{name} is {float(total)}; step {step}")


def _line(values: Mapping[str, float], remaining_seconds: float) -> str:
    parts = [f"loss {values['loss']:#.4g}"] if "loss" in values else []
    if "accuracy" in values:
        parts.append(f"accuracy {values['accuracy']:.2f}")
    if "tokens_per_second" in values:
        parts.append(f"{_short(values['tokens_per_second'])} tokens/s")
    if "padding" in values:
        parts.append(f"padding {100 * values['padding']:.1f} %")
    minutes, seconds = divmod(round(remaining_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    eta = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return "  ".join([*parts, f"eta {eta}"])


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"
