"""Files of rows: JSON, JSONL, CSV, TSV, Parquet, ArrayRecord, TFRecord and plain text.

`read_rows` streams the rows of any of them, in the order of the file, in bounded memory; text kinds
may be compressed (.gz, .zst). The name tells the kind. What is not exactly right stops the reading
with file, line, column and reason, or is kept aside and counted (`rejects.Rejects`).
"""

import gzip
import io
import pathlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from t5sft import errors
from t5sft.data.files import examples, lines, tables
from t5sft.data.files.paths import below, data_folder, expand, find, kind_of
from t5sft.data.files.rejects import Bad, OnBadRecord, Rejects

__all__ = [
    "Bad", "OnBadRecord", "Place", "Rejects", "below", "data_folder", "expand", "find", "kind_of",
    "locate", "read_rows",
]  # fmt: skip


def read_rows(
    paths: Sequence[pathlib.Path | str] | pathlib.Path | str,
    *,
    on_bad_record: OnBadRecord = "error",
    rejected: pathlib.Path | str | None = None,
    header: Sequence[str] | None = None,
    max_row_bytes: int = lines.MAX_ROW_BYTES,
    tell: Callable[[Bad], Any] | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, row) for all rows of the files, in order.

    Args:
      paths: the files, in the order they are read.
      on_bad_record: "error": the first bad row raises; "skip": bad rows are counted and kept.
      rejected: the file that keeps them.
      header: names of the columns of CSV or TSV files whose first line is a row already.
      max_row_bytes: a longer row is a bad one; more is never in memory.
      tell: called with every bad row that is passed over.

    Raises:
      DataError: "what; file:line:column; what to do"; for a file of another kind, too.
    """
    rejects, read, where = Rejects(on_bad_record, rejected), 0, ""
    for place, row in locate(paths, header=header, max_row_bytes=max_row_bytes):
        read, where = read + 1, place.file
        if isinstance(row, Bad):
            rejects.add(row)
            if tell is not None:
                tell(row)
        else:
            yield str(place), row
    rejects.finish(read, where)


class Place(NamedTuple):
    """Where a row is."""

    file: str
    line: int | None  # 1 is the first; None where the kind of file has no lines
    row: int | None  # 0 is the first; None where rows are told by their line

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.row is None else f"{self.file}[{self.row}]"

    def bad(self, reason: str, message: str, text: str = "") -> Bad:
        """Returns the row as a bad one."""
        return Bad(self.file, reason, message, self.line, None, self.row, text)


def locate(
    paths: Sequence[pathlib.Path | str] | pathlib.Path | str,
    *,
    header: Sequence[str] | None = None,
    max_row_bytes: int = lines.MAX_ROW_BYTES,
) -> Iterator[tuple[Place, dict[str, Any] | Bad]]:
    """Yields every row of the files, in order, good or bad: what `read_rows` decides upon.

    Raises:
      DataError: a file that cannot be read on.
    """
    for path in [paths] if isinstance(paths, str | pathlib.Path) else paths:
        path = pathlib.Path(path)
        try:
            for line, number, row in _located(path, header, max_row_bytes):
                yield Place(str(path), line, number), row
        except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise errors.DataError(
                f"unreadable: {what}; {path}; mend, replace or remove the file"
            ) from error


def _located(
    path: pathlib.Path, header: Sequence[str] | None, max_row_bytes: int
) -> Iterator[lines.Located]:
    name, kind = str(path), kind_of(path)
    if kind == "parquet":
        yield from tables.parquet_rows(path)
    elif kind == "arrayrecord":
        yield from examples.array_record_rows(path)
    elif kind == "json":
        yield from lines.json_file(name, lambda: _open(path), max_row_bytes)
    else:
        with _open(path) as stream:
            if kind == "jsonl":
                yield from lines.json_lines(name, stream, max_row_bytes)
            elif kind == "csv":
                yield from tables.csv_rows(name, stream, max_row_bytes, header)
            elif kind == "tsv":
                yield from tables.tsv_rows(name, stream, max_row_bytes, header)
            elif kind == "tfrecord":
                yield from examples.tfrecord_rows(name, stream, max_row_bytes)
            else:
                for line, number, text in lines.text_lines(name, stream, max_row_bytes):
                    if isinstance(text, Bad):
                        yield line, number, text
                    elif "\0" in text:
                        yield line, number, Bad(name, "NUL character", "NUL character", line)
                    elif text.strip("\ufeff \t"):
                        yield line, number, {"text": text.removeprefix("\ufeff")}


def _open(path: pathlib.Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(gzip.open(path), 1 << 20)
    if path.suffix.lower() == ".zst":
        import pyarrow

        # Unlike the zstandard package it notices a file that is cut off.
        stream = pyarrow.input_stream(str(path), compression="zstd")
        return io.BufferedReader(stream, 1 << 20)
    return open(path, "rb", buffering=1 << 20)
