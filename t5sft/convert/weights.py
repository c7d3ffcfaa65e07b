"""Foreign tensors into our parameter tree, one at a time, onto any mesh; and back.

A source is anything with `tensors` (name -> dtype and shape) and `read(name, rows)`: a Hugging Face
directory, a T5X checkpoint. What goes where says a list of `tensors.Tensor`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np

from t5sft import errors
from t5sft.convert import tensors as tensors_lib

Path = tuple[str, ...]
Index = tuple[int | slice, ...]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WRITTEN = {"float32": np.dtype(np.float32), "bfloat16": BFLOAT16, "float16": np.dtype(np.float16)}
_FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_SHOWN = 5  # names in one message


class Spec(Protocol):
    @property
    def dtype(self) -> np.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class Source(Protocol):
    @property
    def where(self) -> str: ...  # for messages

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray: ...


def check(
    tensors: Mapping[str, Spec],
    wanted: Sequence[tensors_lib.Tensor],
    *,
    ignored: Sequence[str] = (),
    where: str,
) -> None:
    """Compares names, shapes and dtypes; every tensor that does not fit is named.

    Args:
      tensors: what is there.
      ignored: regular expressions of names that may be there and are not read.

    Raises:
      CheckpointError: a tensor is missing, extra, of another shape, or not of floats.
    """
    shapes = {tensor.hf_name: tensor.shape for tensor in wanted}
    have = {
        name: spec
        for name, spec in tensors.items()
        if name in shapes or not any(re.fullmatch(pattern, name) for pattern in ignored)
    }
    faults = {
        "missing": sorted(shapes.keys() - have.keys()),
        "not of this model": sorted(have.keys() - shapes.keys()),
        "of another shape": [
            f"{name} is {list(have[name].shape)}, the model needs {list(shape)}"
            for name, shape in shapes.items()
            if name in have and tuple(have[name].shape) != tuple(shape)
        ],
        "not of floats": [
            f"{name} is {have[name].dtype}"
            for name in shapes
            if name in have and str(have[name].dtype) not in _FLOATS
        ],
    }
    lines = [f"{_list(names)}: {fault}" for fault, names in faults.items() if names]
    if lines:
        raise errors.CheckpointError(
            f"the tensors are not those of the model: {'; '.join(lines)}; {where}; "
            "use the configuration that belongs to these weights"
        )


def _list(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def by_leaf(wanted: Iterable[tensors_lib.Tensor]) -> dict[Path, list[tensors_lib.Tensor]]:
    """Groups tensors by the leaf of ours they go into."""
    groups: dict[Path, list[tensors_lib.Tensor]] = {}
    for tensor in wanted:
        groups.setdefault(tensor.path, []).append(tensor)
    return groups


def flat(tree: Mapping[str, Any], path: Path = ()) -> dict[Path, Any]:
    """Returns the leaves of a parameter tree by path."""
    leaves: dict[Path, Any] = {}
    for name, child in tree.items():
        is_node = isinstance(child, Mapping)
        leaves |= flat(child, (*path, name)) if is_node else {(*path, name): child}
    return leaves


def is_finite(array: np.ndarray) -> bool:
    """Tells whether all values are finite, in bounded memory; NumPy has no fast loop for all."""
    flat = array.reshape(-1)
    for first in range(0, flat.size, 1 << 20):
        part = flat[first : first + (1 << 20)]
        if part.dtype == BFLOAT16:
            if ((part.view(np.uint16) & 0x7F80) == 0x7F80).any():
                return False
        elif not np.isfinite(part.astype(np.float32) if part.itemsize == 1 else part).all():
            return False
    return True


def stored_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
    """The dtype that keeps every value of a leaf joined from tensors of these dtypes.

    Float8 is kept as bfloat16, exactly; float64 is rounded to float32, which is all a model has.
    """
    wide = {"float64": np.dtype(np.float32), "float8_e4m3fn": BFLOAT16, "float8_e5m2": BFLOAT16}
    found = {wide.get(str(dtype), dtype) for dtype in dtypes}
    return found.pop() if len(found) == 1 else np.dtype(np.float32)


def cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Converts between floats; bfloat16 to float32 by its bits, ten times faster than NumPy."""
    if array.dtype == dtype:
        return array
    if array.dtype == BFLOAT16 and dtype == np.float32:
        wide = array.view(np.uint16).astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return array.astype(dtype)


class Grown:
    """The pieces of a leaf whose "vocab" axis may be longer than in the source.

    A row added for a token that the source does not know is the mean of all the source's rows, as
    transformers' `resize_token_embeddings` makes it but for that function's random part, whose
    standard deviation is 3e-5 of the rows' own. A token so initialised is neither likely nor
    unlikely: its logit is the mean logit (Hewitt 2021, "Initializing new word embeddings").
    """

    def __init__(self, shape: Sequence[int], names: Sequence[str | None], group: Sequence):
        self._group = group
        self._axis = names.index("vocab") if "vocab" in names else -1
        self._size = shape[self._axis] if "vocab" in names else 0

    def pieces(self, source: Source) -> Iterator[tuple[Index, np.ndarray]]:
        """Yields (index, leaf[index]), as views of one foreign tensor at a time.

        Raises:
          CheckpointError: a weight is NaN or infinite.
        """
        for tensor in self._group:
            array = source.read(tensor.hf_name, tensor.part)
            if not is_finite(array):
                raise errors.CheckpointError(
                    f"{tensor.hf_name} holds NaN or infinite values; {source.where}; fetch it again"
                )
            piece = tensor.read(array)
            del array
            have = piece.shape[self._axis] if self._size else 0
            if have >= self._size:
                yield tensor.index, piece
                continue
            before = (slice(None),) * self._axis
            mean = _mean(piece, self._axis)
            yield (*before, slice(0, have)), piece
            del piece
            added = self._size - have
            yield (*before, slice(have, self._size)), np.repeat(mean, added, self._axis)


def _mean(array: np.ndarray, axis: int) -> np.ndarray:
    """The mean over an axis, which is kept: in float64, and a few rows at a time."""
    rows = np.moveaxis(array, axis, 0)
    total = np.zeros(rows.shape[1:], np.float64)
    for first in range(0, len(rows), 1024):
        total += rows[first : first + 1024].astype(np.float64).sum(axis=0)
    return np.expand_dims(total / len(rows), axis).astype(np.float32)


def load(source: Source, wanted: Sequence[tensors_lib.Tensor], like: Any, axes: Any) -> Any:
    """Reads all parameters onto the shardings of `like`.

    One leaf is in host memory at a time, and of it the parts that this process's devices hold; one
    foreign tensor besides. A "vocab" axis longer than the source's is filled up, see `Grown`.

    Args:
      like: tree of jax.ShapeDtypeStruct with shardings.
      axes: tree of tuples of logical axis names, as of `model.abstract()`.

    Returns a tree like `like`.
    """
    groups = by_leaf(wanted)

    def one(keys, leaf, names):
        grown = Grown(leaf.shape, names, groups[tuple(key.key for key in keys)])
        return _place(grown.pieces(source), leaf)

    return jax.tree_util.tree_map_with_path(one, like, axes)


def _place(pieces: Iterator[tuple[Index, np.ndarray]], like: jax.ShapeDtypeStruct) -> jax.Array:
    sharding = like.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shape = like.shape
    indices = sharding.addressable_devices_indices_map(shape).values()
    regions = {_region(index, shape) for index in indices}
    buffers = {
        region: np.empty([stop - start for start, stop in region], like.dtype) for region in regions
    }
    for index, piece in pieces:
        for region, buffer in buffers.items():
            put(buffer, region, index, piece)
        del piece
    return jax.make_array_from_callback(shape, sharding, lambda i: buffers[_region(i, shape)])


def _region(index: tuple[slice, ...], shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(one.indices(size)[:2] for one, size in zip(index, shape, strict=True))


def put(
    buffer: np.ndarray,
    region: Sequence[tuple[int, int]],
    index: Index,
    piece: np.ndarray,
) -> None:
    """Copies what leaf[region] and leaf[index] = piece have in common into buffer = leaf[region].

    Example: leaf [4, 6], region ((2, 4), (0, 3)), index (3,): buffer[1, :] = piece[0:3]
    """
    target: list[int | slice] = []
    part: list[slice] = []
    full = (*index, *(slice(None),) * (len(region) - len(index)))
    for one, (start, stop) in zip(full, region, strict=True):
        if isinstance(one, int):
            if not start <= one < stop:
                return
            target.append(one - start)
            continue
        first = one.start or 0
        end = stop if one.stop is None else min(stop, one.stop)
        begin = max(start, first)
        if begin >= end:
            return
        target.append(slice(begin - start, end - start))
        part.append(slice(begin - first, end - first))
    buffer[tuple(target)] = cast(piece[tuple(part)], buffer.dtype)


def export(
    parts: Sequence[tensors_lib.Tensor], read: Callable[[Path, Index], np.ndarray]
) -> np.ndarray:
    """Returns a foreign tensor, joined of its parts.

    Args:
      parts: all tensors of one name.
      read: (path, index) -> our leaf[index].
    """
    arrays = [tensor.write(read(tensor.path, tensor.index)) for tensor in parts]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
