"""The checkpoints of a model directory: `t5sft checkpoint list|verify|prune MODEL_DIR`."""

import hashlib
import pathlib
from typing import Any

from etils import epath

from t5sft import errors
from t5sft.train import checkpoint as checkpoint_lib
from t5sft.train import manifest, owner, places, streamed

ACTIONS = ("list", "verify", "prune")
_PIECE_BYTES = 64 << 20


def checkpoint(
    action: str,
    directory: str,
    *,
    step: int | None = None,
    keep_last: int = 2,
    keep_best: int = 1,
) -> dict[str, Any]:
    """Does one action and returns what it found.

    Args:
      action: "list" tells steps, sizes and digests of what they hold; "verify" compares every file
        with its manifest; "prune" removes old steps and what killed processes left.
      directory: MODEL_DIR.
      step: only this one (list, verify).
      keep_last, keep_best: of the steps (prune).

    Raises:
      CheckpointError: "verify" found damage, or there is no such step.
      OwnerError: "prune" of a directory that a run holds.
    """
    if action not in ACTIONS:
        raise errors.ConfigError(
            f"unknown action {action!r}{errors.suggest(action, ACTIONS)}; checkpoint; use one of "
            f"{', '.join(ACTIONS)}"
        )
    steps = places.committed(directory)
    if not steps:
        raise errors.CheckpointError(f"no checkpoint; {directory}; name the model_dir of a run")
    if step is not None and step not in steps:
        known = ", ".join(map(str, sorted(steps)))
        raise errors.CheckpointError(f"no step {step} (steps: {known}); {directory}; name one")
    if action == "prune":
        places.local(directory)
        return _prune(directory, keep_last, keep_best)
    chosen = {s: path for s, path in steps.items() if step in (None, s)}
    return _list(chosen) if action == "list" else _verify(chosen)


def _list(steps: dict[int, epath.Path]) -> dict[str, Any]:
    found = []
    for step, path in steps.items():
        size = sum(file.stat().st_size for file in pathlib.Path(path).rglob("*") if file.is_file())
        row: dict[str, Any] = {"step": step, "bytes": size}
        for item in ("params", "opt_state"):
            row[item] = content_digest(path, item) if (path / item).is_dir() else None
        print(f"step {step}  {size / 1e6:,.1f} MB  params {str(row['params'])[:16]}  "
              f"opt_state {str(row['opt_state'])[:16]}")  # fmt: skip
        found.append(row)
    return {"checkpoints": found}


def _verify(steps: dict[int, epath.Path]) -> dict[str, Any]:
    damaged = {}
    for step, path in steps.items():
        try:
            damage = manifest.find_damage(path)
        except OSError as error:
            damage = f"it cannot be read ({error})"
        print(f"step {step}  {damage or 'good'}")
        if damage:
            damaged[step] = damage
    if damaged:
        step, damage = next(iter(damaged.items()))
        raise errors.CheckpointError(
            f"{len(damaged)} of {len(steps)} damaged, step {step}: {damage}; {steps[step]}; train "
            "from an earlier one with --gin.train.on_damage='\"fallback\"'"
        )
    return {"verified": list(steps), "damaged": []}


def _prune(directory: str, keep_last: int, keep_best: int) -> dict[str, Any]:
    before = set(places.committed(directory))
    with owner.own(directory):
        opened = checkpoint_lib.Checkpointer(
            directory, keep_last=keep_last, keep_best=keep_best, best_metric=checkpoint_lib.BEST
        )
        try:
            opened.prune()
        finally:
            opened.close()
    kept = set(places.committed(directory))
    removed = sorted(before - kept)
    print(f"removed {', '.join(map(str, removed)) or 'nothing'}; kept {sorted(kept)}")
    return {"removed": removed, "kept": sorted(kept)}


def content_digest(path: epath.Path, item: str) -> str:
    """Returns the SHA-256 of an item's arrays: names, dtypes, shapes and values in C order.

    It does not depend on mesh, processes, chunks or files. No array is whole in memory.
    """
    arrays = streamed.open_arrays(path, item)
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{'/'.join(name)} {array.dtype.name} {list(array.shape)}\n".encode())
        if not array.shape:
            digest.update(array.read().result().tobytes())
            continue
        row_bytes = max(array.dtype.numpy_dtype.itemsize * array.size // max(array.shape[0], 1), 1)
        rows = max(_PIECE_BYTES // row_bytes, 1)
        for first in range(0, array.shape[0], rows):
            digest.update(
                array[first : min(first + rows, array.shape[0])].read().result().tobytes()
            )
    return digest.hexdigest()
