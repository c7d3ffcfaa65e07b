"""Checkpoints larger than memory: parameters written and read piece by piece.

What is written here is a checkpoint like any other (t5sft.train.checkpoint), only that no leaf is
ever whole in memory.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from t5sft import errors
from t5sft.train import checkpoint, stored

Index = tuple[int | slice, ...]
_KEY = "."  # between the names of a path, in the name of an array (Orbax)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter to be written: `pieces()` yields (index, leaf[index]) until it is complete."""

    shape: tuple[int, ...]
    dtype: np.dtype
    unit: tuple[int, ...]  # the shape of a piece, 1 along an axis that the index picks from
    pieces: Callable[[], Iterable[tuple[Index, np.ndarray]]]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class _Handler(ocp.type_handlers.NumpyHandler):
    """Lets Orbax write everything but the contents of arrays, which come piece by piece."""

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._array_metadata_store = None

    def typestr(self) -> str:
        return "jax.Array"  # what is restored

    async def _open_and_write(self, value: Leaf, tspec: dict, ts_context) -> None:
        # Without a single await: Orbax starts all leaves at once, and only one may be in memory.
        tspec["metadata"]["chunks"] = list(chunk_shape(value.unit, value.dtype))
        store = ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context).result()
        for index, piece in value.pieces():
            _write_piece(store[index] if index else store, piece)
            del piece  # Before the next is made: two would be in memory.


def _write_piece(store: ts.TensorStore, piece: np.ndarray) -> None:
    store.write(piece, can_reference_source_data_indefinitely=True).result()


def chunk_shape(unit: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """Halves the largest even axis until a chunk is small enough.

    Example (bfloat16, chunks of 64 MiB):
      (1, 4096, 1, 11008)   (1, 2048, 1, 11008)
    """
    chunk = list(unit)
    while math.prod(chunk) * dtype.itemsize > stored.CHUNK_BYTES:
        even = [axis for axis, size in enumerate(chunk) if size % 2 == 0]
        if not even:
            break
        chunk[max(even, key=lambda axis: chunk[axis])] //= 2
    return tuple(chunk)


def save_params(path, leaves: Mapping[tuple[str, ...], Leaf], run: dict) -> None:
    """Writes a sealed checkpoint of parameters that are made while it is written.

    Args:
      path: a directory that does not exist.
      leaves: path in the parameter tree -> leaf.
      run: what made them, for run/run.json; gets "stored_dtype" where it is not float32.

    Raises:
      StorageError: the directory exists or cannot be written.
    """
    path = epath.Path(path)
    if path.exists():
        raise errors.StorageError(f"already there; {path}; delete it or name another directory")
    narrow = sorted({str(leaf.dtype) for leaf in leaves.values()} - {"float32"})
    if narrow:
        run = run | {"stored_dtype": narrow[0] if len(narrow) == 1 else narrow}
    tree: dict = {}
    for (*parents, last), leaf in leaves.items():
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    registry = ocp.type_handlers.create_type_handler_registry()
    # Orbax asks for a handler of jax.Array, only to say so when there is none.
    registry.add(Leaf, _Handler(), func=lambda kind: issubclass(kind, Leaf | jax.Array))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    args = stored.Items(params=ocp.args.PyTreeSave(tree), run=ocp.args.JsonSave(run))
    try:
        with contextlib.closing(stored.open_orbax(params=handler)) as orbax:
            orbax.save(path, args=args)
            orbax.wait_until_finished()
    except checkpoint.FAILURES as error:
        raise errors.StorageError(f"could not be written ({error}); {path}; mend it") from error


class Reader:
    """Reads parts of the parameters of one checkpoint.

    Args:
      path: as `checkpoint.restore_params` takes it.

    Raises:
      CheckpointError: nothing there, or damage.
    """

    def __init__(self, path):
        self.path = checkpoint.find(path)
        stored.verify(self.path, None)
        self.run = stored.read_json(self.path, "run")
        self._stores = open_arrays(self.path, "params")

    @property
    def leaves(self) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
        """Path in the parameter tree -> shape and dtype."""
        return {
            name: jax.ShapeDtypeStruct(store.shape, store.dtype.numpy_dtype)
            for name, store in self._stores.items()
        }

    def read(self, name: tuple[str, ...], index: Index = ()) -> np.ndarray:
        """Returns leaf[index]."""
        return self._stores[name][index or ...].read().result()

    def chunk_shape(self, name: tuple[str, ...]) -> tuple[int, ...]:
        """Returns the shape of what is decoded at once."""
        return self._stores[name].chunk_layout.read_chunk.shape


def open_arrays(path: epath.Path, item: str) -> dict[tuple[str, ...], ts.TensorStore]:
    """Returns the arrays of one item of a checkpoint, unread: path in its tree -> array."""
    metadata = json.loads((path / item / "_METADATA").read_text())
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"

    def opened(name: tuple[str, ...]) -> ts.TensorStore:
        files = {"driver": "file", "path": f"{path / item}/"}
        kvstore = {"driver": "ocdbt", "base": files, "path": f"{_KEY.join(name)}/"}
        return ts.open({"driver": driver, "kvstore": kvstore}, read=True).result()

    names = [
        tuple(key["key"] for key in entry["key_metadata"])
        for entry in metadata["tree_metadata"].values()
    ]
    return {name: opened(name) for name in names}
