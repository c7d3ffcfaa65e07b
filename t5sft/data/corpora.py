"""Corpora: public data sets as SeqIO tasks that yield records.

A corpus is a folder of T5SFT_DATA, the files of each split in it, and what to fetch when nothing is
there. Registering its tasks looks at no file; the first example does.
"""

import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from t5sft import errors
from t5sft.data import define, files, readers, records, sources
from t5sft.data.flan import render

HELD_OUT_EVERY = 50
# How a run reads its rows. Tasks are registered when their module is imported, without a run's
# settings: these come by `follow`.
_RUN: dict[str, Any] = {"on_bad_record": "error", "folder": None, "format": None, "columns": None}
Made = records.Record | records.Dropped
Read = Callable[[Mapping[str, Any], str, int], "Made | Iterable[Made]"]


class Part(NamedTuple):
    """The rows of one split."""

    pattern: str  # a file, glob or directory below the corpus's folder
    keep: Literal["all", "train", "held_out"] = "all"  # held_out: every 50th row; train: the rest


class Corpus(NamedTuple):
    """Where a public data set lies, and how to get it."""

    folder: str
    how_to_get: str
    parts: Mapping[str, Part]
    header: Sequence[str] | None = None  # the columns of TSV files that name none

    def paths(self, split: str) -> list[pathlib.Path]:
        """Returns the files of a split.

        Raises:
          DataError: nothing is there; says what to fetch and where to put it.
        """
        return files.find(self.folder, self.parts[split].pattern, how_to_get=self.how_to_get)

    def rows(
        self,
        split: str,
        dropped: list[records.Dropped] | None = None,
        *,
        needs: Sequence[str] = (),
    ) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yields (index, where, row) of a split; the index counts all rows of its files.

        Args:
          dropped: takes a Dropped for every bad row passed over: whoever makes the records yields
            them, too, so that they are counted.
          needs: fields without which a row is a bad one.
        """
        own_rows_only(self.folder)

        def check(row, where, index):
            for field in needs:
                if not isinstance(row.get(field), str | int | float):
                    raise errors.DataError(
                        f"no text in the field {field!r}{errors.suggest(field, row)}; {where}; "
                        f"the row has {', '.join(sorted(row)) or 'no fields'}"
                    )
            return [(index, where, row)]

        for made in self._made(split, check):
            if not isinstance(made, records.Dropped):
                yield made
            elif dropped is not None:
                dropped.append(made)

    def read(self, split: str, read: Read) -> Iterator[Made]:
        """Yields what `read(row, where, index)` makes of the rows: one record or several.

        A format that the run names takes the place of `read`.
        """
        named = _RUN["format"]
        yield from self._made(split, read if named is None else _instances(named))

    def _made(self, split: str, make: Callable) -> Iterator[Any]:
        """Yields what `make(row, where, index)` gives, and a Dropped for every bad row."""
        rejects = self._rejects(split)
        for index, place, row in self._located(split, rejects):
            if isinstance(row, files.Bad):
                yield records.Dropped(f"bad row: {row.reason}")
                continue
            try:
                made = make(renamed(row, str(place)), str(place), index)
                if isinstance(made, records.Record | records.Dropped):
                    made = [made]
                every = list(made)
            except errors.DataError as error:
                if rejects.on_bad_record == "error":
                    raise
                rejects.add(place.bad("does not fit the format", str(error), repr(row)))
                every = [records.Dropped("bad row: does not fit the format")]
            yield from every

    def _rejects(self, split: str) -> files.Rejects:
        name = re.sub(r"[^\w.-]+", "_", self.parts[split].pattern)
        settings = bad_rows(f"{self.folder}/{name}-{split}")
        return files.Rejects(settings["on_bad_record"], settings["rejected"])

    def _located(self, split: str, rejects: files.Rejects):
        """Yields (index, place, row or Bad) of a split."""
        keep, found, num_read = self.parts[split].keep, self.paths(split), 0
        for index, (place, row) in enumerate(files.locate(found, header=self.header)):
            is_held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            if keep != "all" and is_held_out != (keep == "held_out"):
                continue
            num_read += 1
            if isinstance(row, files.Bad):
                rejects.add(row)
            yield index, place, row
        rejects.finish(num_read, ", ".join(map(str, found[:3])))
        if rejects.counts and rejects.path:
            print(f"{rejects.counts.total()} bad rows are kept in {rejects.path}", file=sys.stderr)


def follow(data: Any):
    """Takes over what `prepare.Data` says of rows, for all corpora of this process."""
    own = {name: getattr(data, name) for name in ("on_bad_record", "format", "columns")}
    _RUN.update(own, folder=sources.rejected(data))


def bad_rows(name: str) -> dict[str, Any]:
    """Returns what `files.read_rows` needs to treat bad rows as the run's settings say.

    Args:
      name: of the rows, for the file that keeps the bad ones.
    """
    folder = _RUN["folder"]
    kept = folder and folder / f"{name}.jsonl"
    return {"on_bad_record": _RUN["on_bad_record"], "rejected": kept}


def renamed(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Adds the fields that the run's `columns` find in a row under other names."""
    columns = _RUN["columns"]
    return {**row, **readers.fields.rename(row, columns, where)} if columns else row


def own_rows_only(folder: str):
    """Refuses a run's `format` for a corpus whose rows are no records yet.

    Raises:
      ConfigError: the run names one.
    """
    if _RUN["format"] is not None:
        raise errors.ConfigError(
            f"format {_RUN['format']!r} cannot be: templates of {folder} are filled with fields; "
            "Data.format; leave it None (columns may map fields), or read the rows by task 'file'"
        )


def _instances(format: str) -> Read:
    return lambda row, where, index: readers.read_all(row, format, where=where)


def folder(name: str) -> pathlib.Path:
    """Returns the folder of a corpus: of that name in T5SFT_DATA, or T5SFT_DATA itself."""
    root = files.paths.data_folder()
    return root if root.name == name and not (root / name).exists() else root / name


def held_out(pattern: str) -> dict[str, Part]:
    """Returns the splits of a corpus that has none: every 50th row is "validation"."""
    return {"train": Part(pattern, "train"), "validation": Part(pattern, "held_out")}


def add_task(
    name: str,
    corpus: Corpus,
    read: Read,
    *,
    metric_fns: Sequence[Callable] = (),
    postprocess_fn: Callable | None = None,
) -> str:
    """Registers a corpus as a SeqIO task; `read(row, where, index)` makes records of a row."""
    return define.add_task(
        name,
        sources.from_records(
            lambda split: corpus.read(split, read), corpus.paths, tuple(corpus.parts)
        ),
        fields=("record",),
        metric_fns=metric_fns,
        postprocess_fn=postprocess_fn,
    )


def num_examples(cap: int | None = None) -> Callable[[Any], float]:
    """Returns a mixing rate: the training examples of a task, at most `cap`; counted when asked."""

    def rate(task):
        size = task.num_input_examples("train")
        return float(size if cap is None else min(size, cap))

    return rate


def text(row: Mapping[str, Any], field: str, where: str) -> str:
    """Returns the text of a field, or raises DataError naming it; null is the empty text."""
    if field not in row:
        raise errors.DataError(
            f"no field {field!r}{errors.suggest(field, row)}; {where}; "
            f"the row has {', '.join(sorted(row)) or 'no fields'}"
        )
    value = row[field]
    if value is not None and not isinstance(value, str):
        raise errors.DataError(f"field {field!r} is a {type(value).__name__}; {where}; give text")
    return value or ""


def answered(question: str, answer: str, *, context: str = "", **metadata: str) -> Made:
    """Makes a record of a question and its answer, or drops it where the answer is empty."""
    if not answer.strip():
        return records.Dropped("empty response")
    messages = (records.Message("user", question, context), records.Message("assistant", answer))
    return records.Record(messages, metadata={k: v for k, v in metadata.items() if v})


def rendered(made: render.Rendered | records.Dropped, **metadata: str) -> Made:
    """Makes a record of an example that `flan.render` has written."""
    if isinstance(made, records.Dropped):
        return made
    return answered(made.inputs, made.targets, **{**made.metadata, **metadata})


def reader(format: str, then: Callable[[records.Record], Made] | None = None) -> Read:
    """Returns a `read` that reads rows of one of the known formats, then changes the record."""

    def read(row, where, index):
        del index
        try:
            record = readers.read(row, format, where=where)
        except records.Dropped as reason:
            return reason
        return record if then is None else then(record)

    return read
