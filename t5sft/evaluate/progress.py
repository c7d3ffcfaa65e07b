"""How far a long verb is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Any

import jax

SECONDS = 10.0  # between two lines


class Progress:
    """Counts finished rows; a context manager.

    Args:
      total: rows in all.
      done: of them before this run.
      is_wanted: False: says nothing.
    """

    def __init__(self, total: int, done: int = 0, *, is_wanted: bool = True, clock=time.monotonic):
        self._total, self._done, self._before = total, done, done
        self._clock, self._begun = clock, clock()
        self._told = self._begun
        self._is_wanted = is_wanted and jax.process_index() == 0
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._is_wanted and self._before:
            self._say(f"{self._before} of {self._total} were answered already")
        if self._is_wanted and sys.stderr.isatty():
            import tqdm

            self._bar = tqdm.tqdm(total=self._total, initial=self._before, unit="row")
        return self

    def add(self) -> None:
        """One more row is finished."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
            return
        now = self._clock()
        if self._is_wanted and (now - self._told >= SECONDS or self._done == self._total):
            self._told = now
            rate = (self._done - self._before) / max(now - self._begun, 1e-9)
            left = (self._total - self._done) / rate
            self._say(f"{self._done} of {self._total} rows, {rate:.2f} a second, {left:.0f} s left")

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
