"""MODEL_DIR/events.jsonl: what a run did when, over all its restarts; `t5sft goodput` adds it up.

    {"t": 1790000000.123, "attempt": "host-4711-1790000000", "event": "save", "step": 200,
     "seconds": 1.25}

Events: start, compile, restart (what is restored), step (a period of them), wait (for data), stall,
save, evaluate, stop, lost (lines, on a full disk), hosts (seconds of a step that each spent by
itself). A line is appended whole; nothing is ever taken back.
"""

import contextlib
import json
import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from t5sft import errors
from t5sft.train.metrics import say

NAME = "events.jsonl"
_PERIOD_SECONDS = 10.0  # steps of so long share a line: as much is unknown of a killed run
_STALL_SECONDS = 5.0  # a step of so long, and ten times the usual, is told apart


class Events:
    """Appends events; a context manager. Only the first process writes.

    Args:
      directory: MODEL_DIR.
      clock: seconds since 1970.
    """

    def __init__(self, directory, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._path = pathlib.Path(directory).expanduser() / NAME
        self._attempt = f"{socket.gethostname()}-{os.getpid()}-{int(clock())}"
        self._lost = 0  # lines that could not be written
        self._begun = clock()
        self._last = clock()  # up to when time is accounted for
        self._first: int | None = None  # of the steps not written yet
        self._step = 0
        self._seconds = self._waited = 0.0
        self._usual = 0.0  # seconds of a step
        self._seen = 0
        self.write("start", age=round(_age_seconds(), 3))

    def write(self, event: str, **values: Any) -> None:
        """Appends one event. Where that fails it says so, once, and the run goes on."""
        if jax.process_index() != 0:
            return
        line = {"t": round(self._clock(), 3), "attempt": self._attempt, "event": event, **values}
        text = json.dumps(line) + "\n"
        if self._lost:
            text = f"{json.dumps({**line, 'event': 'lost', 'lines': self._lost})}\n{text}"
        try:
            with open(self._path, "a+b") as file:
                # A kill or a full disk may have cut the last line short, of this run or one before.
                file.seek(-1 if file.tell() else 0, os.SEEK_END)
                torn = file.read(1) not in (b"", b"\n")
                file.write(("\n" if torn else "").encode() + text.encode())
            self._lost = 0
        except OSError as error:
            if not self._lost:
                say(f"cannot write {self._path} ({error}): t5sft goodput will lack what happens")
            self._lost += 1

    @contextlib.contextmanager
    def span(self, event: str, **values: Any) -> Iterator[None]:
        """Times a block that is not part of a step, and writes it when it ends."""
        self.flush()
        begun = self._clock()
        yield
        self._last = self._clock()
        self.write(event, **values, seconds=round(self._last - begun, 3))

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Times what `resume` tells of."""
        self.flush()
        self._begun = self._clock()
        yield
        self._last = self._clock()

    def resume(self, step: int, *, again: bool = False) -> None:
        """Tells the step that this process goes on from; `again`: it was further already."""
        seconds = round(self._clock() - self._begun, 3)
        if step or again:
            self.write("restart", step=step, seconds=seconds)

    def batches(self, stream: Iterable) -> Iterator:
        """Yields what `stream` does and counts the seconds that it lets wait."""
        iterator = iter(stream)
        while True:
            begun = self._clock()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += self._clock() - begun
            yield batch

    def step(self, step: int) -> None:
        """Takes in that a step is done."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        self._seen += 1
        if self._seen > 5 and seconds > max(_STALL_SECONDS, 10 * self._usual):
            self.flush()
            self.write("stall", step=step, seconds=round(seconds - self._usual, 3))
            seconds = self._usual
        elif self._seen > 1:  # the first has to load programs
            self._usual += (seconds - self._usual) / min(self._seen - 1, 50)
        if self._first is None:
            self._first = step
        self._step, self._seconds = step, self._seconds + seconds
        if self._seconds >= _PERIOD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the steps since the last line."""
        if self._first is None:
            return
        waited = min(self._waited, self._seconds)
        self.write(
            "step",
            first=self._first,
            last=self._step,
            seconds=round(self._seconds - waited, 3),
            waited=round(waited, 3),
        )
        self._first, self._seconds, self._waited = None, 0.0, 0.0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        self.flush()
        why = "done" if kind is None else getattr(error, "name", kind.__name__)
        self.write("stop", why=why)


def read(directory) -> list[dict]:
    """Returns the events of MODEL_DIR in the order they came; a torn line is left out.

    Raises:
      ConfigError: there are none.
    """
    path = pathlib.Path(directory).expanduser() / NAME
    if not path.is_file():
        raise errors.ConfigError(f"no {NAME}; {path.parent}; name the model_dir of a run")
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            found.append({"t": float(line["t"]), "attempt": line["attempt"], **line})
        except (ValueError, KeyError, TypeError):  # the process was killed while it wrote this line
            continue
    return found


def _age_seconds() -> float:
    """Returns how long this process has lived; 0 where there is no /proc."""
    try:
        ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        alive = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(alive - ticks / os.sysconf("SC_CLK_TCK"), 0.0)
