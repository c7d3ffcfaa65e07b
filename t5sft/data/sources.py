"""Sources: rows in files or made by a function, as SeqIO data sources."""

import gzip
import json
import os
import pathlib
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence

from t5sft import errors

Row = dict[str, str]


def load_seqio():
    """Imports SeqIO, and keeps from stderr what TensorFlow says of a missing GPU and of oneDNN.

    They come from C++ before any log level is read, so they are caught at the file descriptor; all
    other lines are passed on. TensorFlow only reads data here and must not take the GPU.
    """
    if "seqio" in sys.modules:
        return sys.modules["seqio"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            import seqio
            import tensorflow as tf

            tf.config.set_visible_devices([], "GPU")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            lines = caught.read().decode(errors="replace").splitlines(keepends=True)
            noise = ("absl::InitializeLog", "cudart_stub", "cuda_platform", "oneDNN custom")
            sys.stderr.write("".join(x for x in lines if not any(word in x for word in noise)))
    return seqio


def read_json(path: pathlib.Path) -> Iterator[dict]:
    """Yields the objects of a .json (one list) or .jsonl file, plain or .gz.

    Raises:
      DataError: not UTF-8, not JSON, or a row that is no object, with file and line or row.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    name = path.name.removesuffix(".gz")
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as file:
            if name.endswith(".json"):
                rows = json.load(file)
                if not isinstance(rows, list):
                    raise errors.DataError(f"not a list of rows; {path}; use .jsonl for lines")
                located = ((f"{path}[{i}]", row) for i, row in enumerate(rows))
            else:
                located = _lines(path, file)
            for where, row in located:
                if not isinstance(row, dict):
                    raise errors.DataError(f"a row is no JSON object; {where}; mend the row")
                yield row
    except (ValueError, RecursionError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise errors.DataError(f"unreadable: {error}; {path}; mend or remove the file") from error


def _lines(path: pathlib.Path, file) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                where = f"{path}:{number}:{error.colno}"
                raise errors.DataError(f"not JSON: {error.msg}; {where}; mend the line") from error


def rows(make: Callable[[str], Sequence[Row]], splits: Sequence[str]):
    """Returns a SeqIO source over what `make(split)` gives: rows of text with the same fields.

    The rows stay in order: shuffling is the batches' business, by (seed, epoch).
    """
    seqio = load_seqio()
    import tensorflow as tf

    def dataset(split, shuffle_files=False, seed=None):
        del shuffle_files, seed
        columns = {}
        made = make(split)
        if not made:
            raise errors.DataError(f"no rows; split {split!r}; give more rows or another split")
        for field in made[0]:
            columns[field] = tf.constant([row[field] for row in made], tf.string)
        return tf.data.Dataset.from_tensor_slices(columns)

    return seqio.FunctionDataSource(dataset, splits=splits)


def json_rows(
    path: str, fields: Sequence[str], *, held_out_every: int = 50, optional: Sequence[str] = ()
):
    """Returns a SeqIO source over a JSON file; every 50th row is "validation", the rest "train".

    Args:
      path: .json or .jsonl, plain or .gz.
      fields: names of the text fields to keep; a row without one is an error unless `optional`.
    """

    def make(split):
        kept = []
        for number, row in enumerate(read_json(pathlib.Path(path))):
            missing = [field for field in fields if field not in row and field not in optional]
            if missing:
                raise errors.DataError(
                    f"no field {missing[0]!r}; {path}[{number}]; "
                    f"the row has {', '.join(sorted(row)) or 'no fields'}"
                )
            if (number % held_out_every == held_out_every - 1) == (split == "validation"):
                kept.append({field: _text(row.get(field), path, number, field) for field in fields})
        return kept

    return rows(make, ("train", "validation"))


def _text(value, path, number, field) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise errors.DataError(
            f"field {field!r} is a {type(value).__name__}; {path}[{number}]; expected text"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise errors.DataError(
            f"field {field!r} holds a lone surrogate; {path}[{number}]; mend the row"
        ) from error
    return value
