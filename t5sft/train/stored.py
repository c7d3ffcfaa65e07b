"""What lies in one checkpoint directory: writing it sealed, verifying it, reading it back."""

import concurrent.futures
import functools
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from t5sft import errors, paths
from t5sft.train import manifest

CHUNK_BYTES = 64 << 20  # read, decoded and compressed at once
_SAVE_SECONDS = 3600  # longest background write before it counts as failed


# What threads tell of a write that failed, a traceback for every array of a model. The first such
# error is raised from `wait_until_finished` as well, and told to the user once.
_TWICE = (
    "_SignalingThread.run() raised an exception",  # Orbax, of what it raises later
    "Commit callback in background save thread",  # Orbax, of the same
)
_GIVEN_UP = "Event loop is closed"  # TensorStore, of arrays being written when Orbax gave up


@functools.cache
def _tell_once() -> None:
    """Hides what repeats an error of a save; the error itself is raised."""
    for name in ("asyncio", "absl"):
        logging.getLogger(name).addFilter(lambda record: not _is_repeated(record))
    plain = sys.unraisablehook

    def hook(raised):
        if str(raised.exc_value) != _GIVEN_UP:
            plain(raised)

    sys.unraisablehook = hook


def _is_repeated(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    if " exception was never retrieved" not in text:
        return any(each in text for each in _TWICE)
    # Asyncio's, of a task or of several gathered: only where Orbax awaited them.
    error = record.exc_info[1] if record.exc_info else None
    frames = traceback.extract_tb(error.__traceback__) if error else []
    return any("orbax" in frame.filename for frame in frames)


class _SealingHandler(ocp.CompositeCheckpointHandler):
    """Orbax's composite of items, which calls finalize once, when all of them are written."""

    def finalize(self, directory):
        super().finalize(directory)
        manifest.seal(directory)  # the last file before Orbax commits, on the first process only


@ocp.args.register_with_handler(_SealingHandler, for_save=True, for_restore=True)
class Items(ocp.args.Composite):
    """What to save or restore: item name -> ocp.args of it."""


def open_orbax(**handlers) -> ocp.AsyncCheckpointer:
    """An Orbax checkpointer that seals what it writes; to be closed.

    Args:
      handlers: Orbax's handlers of "params" and "opt_state", where not the standard one.
    """
    trees = {n: handlers.get(n, ocp.StandardCheckpointHandler()) for n in ("params", "opt_state")}
    texts = {
        name: ocp.JsonCheckpointHandler(filename=f"{name}.json")
        for name in ("data", "run", "metrics")
    }
    _tell_once()
    return ocp.AsyncCheckpointer(_SealingHandler(**trees, **texts), timeout_secs=_SAVE_SECONDS)


def save_tree(tree) -> ocp.args.StandardSave:
    """How a tree is saved: large leaves in chunks, stacked layers apart.

    Whatever reads one layer (t5sft convert) would otherwise have to decode all of them at once.
    """

    def args(path, leaf):
        if leaf.nbytes <= CHUNK_BYTES:
            return ocp.SaveArgs()
        axes = (0,) if "layers" in _keys(path) else ()
        return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=axes)

    return ocp.args.StandardSave(tree, save_args=jax.tree_util.tree_map_with_path(args, tree))


def verify(path: epath.Path, advice: str | None, *, large: bool | None = None) -> None:
    """Raises DamageError when a file differs from the manifest; `advice`: what to do then.

    To be called on all processes: each hashes its share of the files (`large`: find_damage's).
    """
    processes = jax.process_count()
    share = {"part": jax.process_index(), "parts": processes}
    try:
        damage = manifest.find_damage(path, large=large, **share)
    except OSError as error:
        damage = f"it cannot be read ({error})"
    # All processes must stop, also those whose own share of the files is good.
    if processes > 1 and multihost_utils.process_allgather(np.array(damage is not None)).any():
        damage = damage or "another process found a damaged file"
    if damage:
        raise errors.DamageError(
            f"damaged checkpoint: {damage}; {path}; {advice or 'use another checkpoint'}"
        )


def same_on_all_processes(step: int | None) -> int | None:
    """Returns the step of process 0 on every process, which all have to call this."""
    if jax.process_count() == 1:
        return step
    step = int(multihost_utils.broadcast_one_to_all(np.int64(-1 if step is None else step)))
    return None if step < 0 else step


def read_verified(orbax, path: epath.Path, likes: dict, advice: str | None = None) -> list:
    """Returns what `read_trees` does, of a checkpoint whose every file is as it was written.

    Raises:
      DamageError: see `verify`; CheckpointError: see `read_trees`.
    """
    if jax.process_count() > 1:  # one that meets damage must not leave the others in a barrier
        verify(path, advice)
        return read_trees(orbax, path, likes)
    verify(path, advice, large=False)  # what says how to read
    # From a disk the hash takes as long as Orbax's reading: at once, each page is read once.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        rest = thread.submit(verify, path, advice, large=True)
        try:
            trees = read_trees(orbax, path, likes)
        except Exception:
            rest.result()  # damage explains it better
            raise
        rest.result()
    return trees


def read_trees(orbax, path: epath.Path, likes: dict) -> list:
    """Restores the named items in the structure of `likes`, on their shardings.

    Orbax would cast another dtype without a word, so dtypes are compared as well as shapes.

    Raises:
      CheckpointError: names the first arrays that are not the same in checkpoint and model.
    """
    try:
        saved = orbax.metadata(path).item_metadata
        wanted = {name: by_name(like) for name, like in likes.items()}
        stored_dtype = read_json(path, "run").get("stored_dtype")
        narrow = stored_dtype if isinstance(stored_dtype, list) else [stored_dtype]
        lines = [
            f"{name} {line}"
            for name, tree in wanted.items()
            for line in _differences(saved[name] if name in saved else {}, tree, narrow)
        ]
        if lines:
            shown = ", ".join(lines[:5]) + (f" and {len(lines) - 5} more" if lines[5:] else "")
            raise errors.CheckpointError(
                f"the checkpoint is of another model: {shown}; {path}; use the model and optimizer "
                "of its run/run.json, or start in another model_dir"
            )
        args = {
            name: ocp.args.StandardRestore(jax.tree.map(_placed, tree))
            for name, tree in wanted.items()
            if tree
        }
        restored = orbax.restore(path, args=Items(**args))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"Orbax cannot read it ({str(error)[:300]}); {path}; was it written by another version?"
        ) from error
    return [
        _in_structure(restored[name] if name in args else {}, like) for name, like in likes.items()
    ]


def _differences(saved: Any, wanted: dict, narrow: Sequence[str | None]) -> Iterator[str]:
    """One line for each array that is not the same in the checkpoint and in the model.

    Args:
      narrow: dtypes that run.json says stand for float32.
    """

    def described(tree):
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        name = jax.tree_util.keystr
        return {
            name(path, simple=True, separator="/"): (tuple(x.shape), str(np.dtype(x.dtype)))
            for path, x in leaves
        }

    saved, wanted = described(getattr(saved, "tree", saved) or {}), described(wanted)
    for name in sorted(saved.keys() | wanted.keys()):
        have, want = saved.get(name), wanted.get(name)
        if have and want and have[1] in narrow and want[1] == "float32":
            have = (have[0], want[1])  # save_params halved it and said so
        if have is None:
            yield f"{name}: not in the checkpoint"
        elif want is None:
            yield f"{name}: not in the model"
        elif have != want:
            yield f"{name}: {list(have[0])} {have[1]}, the model has {list(want[0])} {want[1]}"


def by_name(tree) -> dict:
    """The arrays of any pytree as nested dicts, so that files do not depend on Optax's classes."""
    nested: dict = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *parents, last = _keys(path)
        node = nested
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return nested


def _in_structure(nested: dict, like):
    def leaf(path, _):
        node = nested
        for key in _keys(path):
            node = node[key]
        return node

    return jax.tree_util.tree_map_with_path(leaf, like)


def _keys(path) -> list[str]:
    return [jax.tree_util.keystr((key,), simple=True) for key in path]


def _placed(like) -> jax.ShapeDtypeStruct:
    # Orbax would otherwise take the sharding from the file, which names devices of another machine.
    sharding = getattr(like, "sharding", None) or jax.sharding.SingleDeviceSharding(
        jax.local_devices()[0]
    )
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding)


def read_json(path: epath.Path, item: str) -> dict:
    """One of the texts beside the arrays: data, run or metrics."""
    return paths.read_object(path / item / f"{item}.json")
