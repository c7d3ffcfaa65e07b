"""Rows of CSV, TSV and Parquet files."""

import csv
import pathlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from t5sft import errors
from t5sft.data.files import lines
from t5sft.data.files.lines import Located
from t5sft.data.files.rejects import Bad

_BATCH_ROWS = 256  # of a Parquet file, in memory as Python values


def csv_rows(
    name: str, stream: BinaryIO, max_bytes: int, header: Sequence[str] | None
) -> Iterator[Located]:
    """Yields the rows of a CSV file (RFC 4180: fields with commas or line ends are quoted)."""
    # A field may be as long as a row may; the limit belongs to the process.
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    texts = _Texts(lines.text_lines(name, stream, max_bytes, with_ends=True))
    reader = csv.reader(texts, strict=True)
    while True:
        first = texts.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield first, None, Bad(name, "not CSV", f"not CSV: {error}", first)
            continue
        except _Unreadable as fault:
            yield fault.bad.line, None, fault.bad
            reader = csv.reader(texts, strict=True)
            continue
        if not fields:
            continue
        if header is None:
            header = _header(name, fields)
            continue
        yield first, None, _row(name, first, header, fields)


class _Unreadable(Exception):
    def __init__(self, bad: Bad):
        super().__init__(bad.message)
        self.bad = bad


class _Texts:
    """Lines for the csv module, with their line ends, and the number of the last one."""

    def __init__(self, located: Iterator[Located]):
        self._located, self.number = located, 0

    def __iter__(self):
        return self

    def __next__(self) -> str:
        number, _, text = next(self._located)
        self.number = number or 0
        if isinstance(text, Bad):
            raise _Unreadable(text)
        return text.removeprefix("\ufeff") if self.number == 1 else text


def tsv_rows(
    name: str, stream: BinaryIO, max_bytes: int, header: Sequence[str] | None
) -> Iterator[Located]:
    """Yields the rows of a TSV file: a line is a row, and quotes are text (IANA's definition)."""
    located = lines.text_lines(name, stream, max_bytes)
    for number, (_, _, text) in enumerate(located, 1):
        if isinstance(text, Bad):
            yield number, None, text
            continue
        fields = (text.removeprefix("\ufeff") if number == 1 else text).split("\t")
        if fields == [""]:
            continue
        if header is None:
            header = _header(name, fields)
            continue
        yield number, None, _row(name, number, header, fields)


def _header(name: str, fields: Sequence[str]) -> Sequence[str]:
    twice = [field for field in fields if fields.count(field) > 1]
    if twice or "" in fields:
        what = f"column {twice[0]!r} occurs twice" if twice else "a column has no name"
        raise errors.DataError(f"{what}; {name}:1; mend the first line, which names the columns")
    return fields


def _row(name: str, number: int, header: Sequence[str], fields: Sequence[str]):
    if len(fields) != len(header):
        message = f"{len(fields)} fields, but {len(header)} columns ({', '.join(header)})"
        text = "\t".join(fields)
        return Bad(name, "wrong number of fields", message, number, text=text)
    for field in fields:
        if "\0" in field:
            return Bad(name, "NUL character", "NUL character", number, text="\t".join(fields))
    return dict(zip(header, fields, strict=True))


def parquet_rows(path: pathlib.Path) -> Iterator[Located]:
    """Yields the rows of a Parquet file, a batch in memory at a time.

    Raises:
      DataError: the file is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    number = -1
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield None, number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise errors.DataError(
            f"unreadable: {error}; {path}[{number + 1}]; mend or remove the file"
        ) from error
