"""The safetensors format: a JSON header, then the bytes of all tensors (huggingface/safetensors).

    8 bytes    length n of the header, little endian
    n bytes    {"NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
    the rest   the tensors, without gaps

Files come from strangers: a header is believed only when every claim in it fits the file. The
package of the format accepts a name twice and knows no bfloat16 without torch; this is NumPy alone.
"""

import collections
import concurrent.futures
import contextlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

from t5sft import errors

DTYPES = {  # in the order in which the package of the format puts tensors into a file
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = list(NAMES)
_MAX_HEADER_BYTES = 100_000_000  # as the package of the format
_MAX_DIMENSIONS = 32
_PIECE_BYTES = 16 << 20  # read at once by one thread
_THREADS = 4


class Tensor(NamedTuple):
    """Where one tensor lies."""

    file: pathlib.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path) -> dict[str, Tensor]:
    """Returns the tensors of a file by name, in the order of the header.

    Raises:
      CheckpointError: the file is damaged, cut short, or claims what cannot be.
    """
    path = pathlib.Path(path)
    try:
        size, length, text = _read_text(path)
    except OSError as error:
        raise errors.CheckpointError(
            f"it cannot be read ({error.strerror}); {path}; check what it is and its permissions"
        ) from error
    header = _parse(path, text)
    tensors = {
        name: _tensor(path, name, entry, 8 + length)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    _check_layout(path, tensors, 8 + length, size)
    return tensors


def _read_text(path: pathlib.Path) -> tuple[int, int, bytes]:
    """Returns the size of the file, the length of the header and its text."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise _bad(path, f"it has {size} bytes, its header claims {length} after the first 8")
        if length > _MAX_HEADER_BYTES:
            raise _bad(path, f"its header has {length} bytes, more than {_MAX_HEADER_BYTES}")
        return size, length, file.read(length)


def _parse(path: pathlib.Path, text: bytes) -> dict:
    def unique(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = collections.Counter(name for name, _ in pairs)
            raise _bad(path, f"{counts.most_common(1)[0][0]!r:.80} stands twice in its header")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its header is no JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise _bad(path, f"its header is a JSON {type(header).__name__}, not an object")
    notes = header.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise _bad(path, "__metadata__ in its header is no mapping of texts")
    return header


def _refuse(constant: str):
    raise ValueError(f"{constant} is no JSON")


def _tensor(path: pathlib.Path, name: str, entry, first: int) -> Tensor:
    fields = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or set(entry) != fields:
        raise _bad(path, f"the entry of {name!r:.200} must have dtype, shape and data_offsets only")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _bad(path, f"{name!r:.200} has the unknown dtype {dtype!r:.40}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _bad(path, f"{name!r:.200} has no valid shape: {shape!s:.80}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(path, f"{name!r:.200} has no valid data_offsets: {offsets!s:.80}")
    found = Tensor(path, DTYPES[dtype], tuple(shape), first + offsets[0])
    if found.nbytes != offsets[1] - offsets[0]:
        claim = f"{name!r:.200} is {dtype} {shape!s:.80}, {found.nbytes} bytes"
        raise _bad(path, f"{claim}, but {offsets[1] - offsets[0]} bytes are set aside")
    return found


def _are_counts(values) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**63 for v in values
    )


def _check_layout(path: pathlib.Path, tensors: Mapping[str, Tensor], end: int, size: int) -> None:
    """Tensors must follow one another without gap or overlap, up to the end of the file."""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start + tensor.nbytes > size:
            raise _bad(path, f"{name!r:.200} reaches beyond the end of the file: it is cut short")
        if tensor.start < end:
            raise _bad(path, f"{name!r:.200} overlaps another tensor")
        if tensor.start > end:
            raise _bad(path, f"{tensor.start - end} bytes before {name!r:.200} belong to no tensor")
        end += tensor.nbytes
    if end != size:
        raise _bad(path, f"the last {size - end} bytes belong to no tensor")


def read(tensor: Tensor, rows: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a tensor, or its rows (start, stop), into memory of its own, several pieces at once."""
    if rows is not None:
        start, stop = rows
        row_bytes = tensor.nbytes // max(tensor.shape[0], 1)
        shape = (stop - start, *tensor.shape[1:])
        tensor = tensor._replace(shape=shape, start=tensor.start + start * row_bytes)
    out = np.empty(tensor.nbytes, np.uint8)
    with contextlib.ExitStack() as stack:
        descriptor = os.open(tensor.file, os.O_RDONLY)
        stack.callback(os.close, descriptor)

        def fill(first: int) -> None:
            part = out.data[first : first + _PIECE_BYTES]
            while part:
                done = os.preadv(descriptor, [part], tensor.start + first)
                if not done:
                    raise _bad(tensor.file, "it became shorter while it was read")
                part, first = part[done:], first + done

        pieces = range(0, tensor.nbytes, _PIECE_BYTES)
        if len(pieces) > 1:
            threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(_THREADS))
            list(threads.map(fill, pieces))
        else:
            fill(0)
    return out.view(tensor.dtype).reshape(tensor.shape)


def write(
    path,
    specs: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    make: Callable[[str], np.ndarray],
) -> None:
    """Writes a file tensor by tensor: only the one being written is in memory.

    Ordered and padded as the package of the format does, so that equal tensors give equal files.

    Args:
      specs: name -> dtype and shape, which have to be known before the first tensor is made.
      make: name -> the tensor.
    """
    names = sorted(specs, key=lambda name: (_ORDER.index(specs[name][0]), name))
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for name in names:
        dtype, shape = specs[name]
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        offsets = [begin, end]
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with pathlib.Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = np.asarray(make(name), order="C")
            assert (tensor.dtype, tensor.shape) == (specs[name][0], tuple(specs[name][1])), name
            file.write(tensor.reshape(-1).view(np.uint8).data)
            del tensor  # Before the next is made: two would be in memory.
        file.flush()
        os.fsync(file.fileno())


def _bad(path: pathlib.Path, what: str) -> errors.CheckpointError:
    return errors.CheckpointError(
        f"no valid safetensors file: {what}; {path}; fetch it again, and from whom you trust"
    )
