"""Units: what is drawn and packed as one, an example or the examples of one preference."""

from collections.abc import Iterable, Mapping

import numpy as np

from t5sft import errors
from t5sft.data import cache

Named = tuple[str, int]  # (task, example number)


class Units:
    """The units of all tasks of a split, numbered one task after the other.

    Args:
      tasks: task -> its examples.
      layout: a decoder's example of n tokens takes n - 1 places, each predicts its successor.
    """

    def __init__(self, tasks: Mapping[str, cache.Examples], layout: str):
        self._names = list(tasks)
        every = list(tasks.values())
        self._bounds = _bounds([len(examples) for examples in every])  # examples before a task
        self._bound_of = dict(zip(tasks, self._bounds.tolist(), strict=False))
        lengths = np.concatenate([examples.lengths() for examples in every])
        self._costs = lengths - (0, 1) if layout == "decoder" else lengths
        offsets = [np.arange(len(e)) if e.units is None else e.units[:-1] for e in every]
        self._unit_bounds = _bounds([len(part) for part in offsets])
        firsts = [part + bound for part, bound in zip(offsets, self._bounds, strict=False)]
        self._firsts = np.append(np.concatenate(firsts), self._bounds[-1])  # [units + 1]
        self.sizes = dict(zip(tasks, np.diff(self._unit_bounds).tolist(), strict=True))
        self.costs = np.add.reduceat(self._costs, self._firsts[:-1], axis=0)  # [units, 2] places

    def __len__(self):
        return len(self.costs)

    def check(self, capacity: tuple[int, int]):
        """Raises DataError when a unit is longer than a row."""
        over = np.flatnonzero((self.costs > capacity).any(axis=1))
        if len(over):
            task, example = self.examples(over[:1])[0][0]
            have, want = self.costs[over[0]].tolist(), list(capacity)
            raise errors.DataError(
                f"{len(over)} units do not fit a row: the first has {have} encoder and decoder "
                f"places of {want}; task {task!r}, example {example}; raise encoder_length or "
                "decoder_length"
            )

    def number(self, tasks: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Returns the numbers of units that are told by their task and their number within it."""
        return self._unit_bounds[tasks] + units

    def examples(self, units: np.ndarray) -> list[list[Named]]:
        """Returns the examples of each unit."""
        firsts, ends = self._firsts[units], self._firsts[np.asarray(units) + 1]
        tasks = np.searchsorted(self._bounds, firsts, side="right") - 1
        names = [self._names[task] for task in tasks.tolist()]
        start, stop = (firsts - self._bounds[tasks]).tolist(), (ends - self._bounds[tasks]).tolist()
        return [
            [(name, i) for i in range(a, b)] for name, a, b in zip(names, start, stop, strict=True)
        ]

    def places(self, examples: Iterable[Named]) -> np.ndarray:
        """Returns [2]: how many places these examples take, in encoder and decoder."""
        numbers = [self._bound_of[task] + i for task, i in examples]
        return self._costs[numbers].sum(axis=0)


def _bounds(counts: list[int]) -> np.ndarray:
    return np.cumsum([0, *counts])
