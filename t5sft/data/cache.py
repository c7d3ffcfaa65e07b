"""The cache: tokenised examples of one split, index-addressable, the same on every host.

A directory per split, with a subdirectory per task of flat NumPy arrays (memory-mapped on reading)
and a `card.json` that counts what was read, dropped and cut. It appears whole or not at all.

  inputs.ids int32, inputs.weights float32, inputs.roles int8, and the same of targets: flat
  inputs.offsets, targets.offsets [n + 1]: where example i begins and ends
  numbers [n]: the record an example came from, by its place in the task's split
  units [u + 1]: examples of a unit that must share a row (pairs, ranked answers); absent: each one
  labels [n] float32: of preferences and rankings; absent: none
"""

import hashlib
import json
import os
import pathlib
import shutil
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from t5sft import errors, paths
from t5sft.data import preprocess

# What reading a file of a stranger raises; a shape of 2^60 in its header, MemoryError.
_DAMAGE = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError
)  # fmt: skip
COLUMNS = (("ids", np.int32), ("weights", np.float32), ("roles", np.int8))


class Examples(NamedTuple):
    """The examples of one task: example i is `values[offsets[i]:offsets[i + 1]]` of each column."""

    columns: Mapping[str, np.ndarray]  # "inputs.ids", "targets.weights", ...: flat
    inputs_offsets: np.ndarray  # [n + 1]
    targets_offsets: np.ndarray  # [n + 1]
    numbers: np.ndarray  # [n] position in the task's split
    units: np.ndarray | None = None  # [u + 1] offsets into examples; None: every example is one
    labels: np.ndarray | None = None  # [n] float32

    def __len__(self):
        return len(self.numbers)

    def lengths(self) -> np.ndarray:
        """Returns [n, 2]: tokens of inputs and of targets."""
        return np.stack([np.diff(self.inputs_offsets), np.diff(self.targets_offsets)], axis=1)

    def get(self, i: int) -> preprocess.Example:
        """Returns example i with NumPy arrays for columns."""
        parts = []
        for side, offsets in (("inputs", self.inputs_offsets), ("targets", self.targets_offsets)):
            part = slice(offsets[i], offsets[i + 1])
            columns = (self.columns[f"{side}.{name}"][part] for name, _ in COLUMNS)
            parts.append(preprocess.Tokens(*columns))
        return preprocess.Example(*parts)


class Split(NamedTuple):
    """One prepared split: task -> examples, the mixing rates, and the card."""

    tasks: Mapping[str, Examples]
    rates: Mapping[str, float]
    card: dict
    digest: str  # of the examples themselves: what a run's position belongs to
    directory: pathlib.Path = pathlib.Path()


def write_task(directory: pathlib.Path, examples: list[preprocess.Example], numbers: list[int]):
    """Writes the arrays of one task."""
    directory.mkdir(parents=True)
    for side in ("inputs", "targets"):
        offsets, columns = flatten([getattr(example, side) for example in examples])
        np.save(directory / f"{side}.offsets.npy", offsets)
        for name, flat in columns.items():
            np.save(directory / f"{side}.{name}.npy", flat)
    np.save(directory / "numbers.npy", np.asarray(numbers, np.int64))


def flatten(tokens: Sequence[preprocess.Tokens]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns offsets [n + 1] and the columns of n token sequences, one after the other."""
    offsets = np.cumsum([0, *(len(one.ids) for one in tokens)], dtype=np.int64)
    columns = {}
    for i, (name, dtype) in enumerate(COLUMNS):
        parts = [np.zeros(0, dtype), *(one[i] for one in tokens)]
        columns[name] = np.concatenate(parts, dtype=dtype, casting="unsafe")
    columns["weights"] += np.float32(0)  # no weight of -0.0
    return offsets, columns


def publish(temporary: pathlib.Path, directory: pathlib.Path, card: dict):
    """Makes a finished temporary directory the cache of a split, at once.

    When another process was quicker its work stays: both hold the same content.
    """
    write_card(temporary, card)
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(temporary, directory)
    except OSError:
        if not (directory / "card.json").exists():
            raise
        shutil.rmtree(temporary)


def write_card(directory: pathlib.Path, card: dict):
    """Writes the card of a split, whole or not at all."""
    path = directory / "card.json"
    temporary = path.with_name(f".card.{os.getpid()}")
    temporary.write_text(json.dumps(card, indent=1))
    os.replace(temporary, path)


def read_split(directory: pathlib.Path) -> Split:
    """Opens a prepared split.

    Raises:
      DataError: a file of it is missing or damaged.
    """
    try:
        card = paths.read_object(directory / "card.json")
        tasks = {}
        for task in card["tasks"]:
            files = {
                path.name.removesuffix(".npy"): _load(path)
                for path in sorted((directory / folder(task)).glob("*.npy"))
            }
            tasks[task] = Examples(
                inputs_offsets=files.pop("inputs.offsets"),
                targets_offsets=files.pop("targets.offsets"),
                numbers=files.pop("numbers"),
                units=files.pop("units", None),
                labels=files.pop("labels", None),
                columns=files,
            )
        contents = {task: entry["content"] for task, entry in card["tasks"].items()}
        digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]
        rates = {task: entry["rate"] for task, entry in card["tasks"].items()}
    except _DAMAGE as error:
        raise errors.DataError(
            f"the prepared data is damaged: {error}; {directory}; remove the directory, "
            "it is made again"
        ) from error
    return Split(tasks, rates, card, digest, directory)


def folder(task: str) -> str:
    """Returns the name of a task's directory within a split: another one for every task."""
    return urllib.parse.quote(task, safe="")


def _load(path: pathlib.Path) -> np.ndarray:
    """Opens an array: memory-mapped, or read when it is small, which is quicker."""
    array = np.load(path, mmap_mode="r" if path.stat().st_size > 1 << 20 else None)
    return np.asarray(array)  # still mapped, but a slice of np.memmap itself takes 4 us
