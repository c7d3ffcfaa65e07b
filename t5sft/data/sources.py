"""Sources: rows in files or made by a function, as SeqIO data sources."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import files, readers, records

Row = dict[str, str]
Paths = str | pathlib.Path | Callable[[], Sequence[pathlib.Path]]


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


Made = records.Record | records.Dropped
_CHUNK_ROWS, _CHUNK_BYTES = 512, 4 << 20  # handed to TensorFlow at once: singly is ten times slower


def from_records(
    make: Callable[[str], Iterable[Made]],
    paths: Callable[[str], Sequence[pathlib.Path]],
    splits: Sequence[str],
    *,
    count: Callable[[str], int] | None = None,
):
    """Returns a SeqIO source of records that are made as they are read, in order.

    Each example is one text, `record`: what `records.to_json` writes. Nothing is called before an
    example, a file or a size is asked for. The source's `make_records` is `make`.

    Args:
      make: split -> records, or why a row gives none: that is counted where records are read.
      paths: split -> the files they are made of; SeqIO calls them shards.
      count: split -> number of records, where it is known without making them.
    """
    seqio: Any = load_seqio()
    import tensorflow as tf

    class Records(seqio.DataSource):
        supports_arbitrary_sharding = True
        make_records = staticmethod(make)

        def list_shards(self, split):
            return [str(path) for path in paths(split)]

        @functools.cache  # noqa: B019  a source lives as long as its task
        def num_input_examples(self, split):
            if count is not None:
                return count(split)
            return sum(isinstance(made, records.Record) for made in make(split))

        def get_dataset(
            self,
            split="train",
            shuffle=True,
            seed=None,
            shard_info=None,
            *,
            sequence_length=None,
            use_cached=False,
            num_epochs=1,
        ):
            del shuffle, seed, sequence_length, use_cached, num_epochs
            ds = tf.data.Dataset.from_generator(
                lambda: ({"record": chunk} for chunk in _chunks(make(split))),
                output_signature={"record": tf.TensorSpec([None], tf.string)},
            ).unbatch()
            if shard_info is not None and shard_info.num_shards > 1:
                ds = ds.shard(shard_info.num_shards, shard_info.index)
            return ds

    return Records(splits=splits)


def _chunks(made: Iterable[Made]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for one in made:
        chunk.append(records.to_json(one).encode())
        size += len(chunk[-1])
        if len(chunk) == _CHUNK_ROWS or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@dataclasses.dataclass(frozen=True)
class Files:
    """Rows of files as records, split by split.

    Args:
      paths: a file, glob or directory, or a function that finds the files when asked; or a map of
        split -> one of these.
      format: a name in `readers.FORMATS`; None: told by the fields of each row.
      columns: our field -> the file's column.
      held_out_every: without a map of splits, or without "validation" in it, every n-th row of
        "train" is "validation".
      on_bad_record: "error": a bad row raises; "skip": it is dropped, counted, and kept in
        `rejected`, a folder, as SPLIT.jsonl.
    """

    paths: Paths | Mapping[str, Paths]
    format: str | None = None
    columns: Mapping[str, str] | None = None
    held_out_every: int = 50
    on_bad_record: files.OnBadRecord = "error"
    rejected: pathlib.Path | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        named = self.paths if isinstance(self.paths, Mapping) else {"train": self.paths}
        return tuple(dict.fromkeys((*named, "validation")))

    def list_files(self, split: str) -> list[pathlib.Path]:
        """Returns the files of a split, in the order they are read."""
        named = self.paths if isinstance(self.paths, Mapping) else {"train": self.paths}
        found = named[split] if split in named else named["train"]
        return list(found()) if callable(found) else files.expand(found)

    def read(self, split: str) -> Iterator[Made]:
        """Yields the records of a split, and a Dropped for each row that gives none.

        Raises:
          DataError: a bad row, or (on_bad_record "skip") too many of them.
        """
        named = self.paths if isinstance(self.paths, Mapping) else ("train",)
        is_cut = "validation" not in named and split in ("train", "validation")
        kept_in = self.rejected and self.rejected / f"{split}.jsonl"
        rejects = files.Rejects(self.on_bad_record, kept_in)
        header = readers.HEADERS.get(self.format or "")
        found, num_read, number = self.list_files(split), 0, -1
        for number, (place, row) in enumerate(files.locate(found, header=header)):
            is_held_out = number % self.held_out_every == self.held_out_every - 1
            if not is_cut or is_held_out == (split == "validation"):
                num_read += 1
                yield from self._records(place, row, rejects)
        rejects.finish(num_read, ", ".join(map(str, found[:3])))
        if rejects.counts and kept_in:
            print(f"{rejects.counts.total()} bad rows are kept in {kept_in}", file=sys.stderr)
        if is_cut and not num_read and split == "validation":
            raise errors.DataError(
                f"{number + 1} rows, of which every {self.held_out_every}th is held out: none for "
                f"validation; {', '.join(map(str, found[:3]))}; give {self.held_out_every} rows, "
                "or files named train and validation"
            )

    def _records(self, place: files.Place, row: Any, rejects: files.Rejects) -> Iterator[Made]:
        if isinstance(row, files.Bad):
            rejects.add(row)
            yield records.Dropped(f"bad row: {row.reason}")
            return
        try:
            made = list(readers.read_all(row, self.format, self.columns, where=str(place)))
        except errors.DataError as error:
            if self.on_bad_record == "error":
                raise
            rejects.add(place.bad("does not fit the format", str(error), repr(row)))
            made = [records.Dropped("bad row: does not fit the format")]
        yield from made


def from_files(paths: Paths | Mapping[str, Paths], **options):
    """Returns a SeqIO source over files; the arguments are those of `Files`."""
    found = Files(paths, **options)
    return from_records(found.read, found.list_files, found.splits)


_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
_SPLIT_OF = {word: split for split, words in _SPLIT_NAMES.items() for word in words}
_WORD = re.compile("[a-z]+")


def by_name(pattern: str) -> str | dict[str, Callable[[], list[pathlib.Path]]]:
    """Returns split -> files if the names of the files tell their splits, else the pattern.

    They do if two different splits are among them: `train.jsonl` beside `test-00000-of-00002.jsonl`
    or `dev/a.jsonl`. One file, or files of one split, are "train", whatever they are called.

    Raises:
      DataError: some files tell their split and others do not: they would be trained on or not by
        accident.
    """
    found, top = files.expand(pattern), pathlib.Path(pattern).expanduser()
    top = top if top.is_dir() else found[0].parent
    groups: dict[str | None, list[pathlib.Path]] = {}
    for path in found:
        folder = "" if path.parent == top else path.parent.name
        groups.setdefault(_split_of(path.name) or _split_of(folder), []).append(path)
    if len(set(groups) - {None}) < 2:
        return pattern
    if None in groups:
        raise errors.DataError(
            f"the split of {groups[None][0].name} is not in its name, as it is for other files; "
            f"{pattern}; name them train, validation or test, or give one file"
        )
    return {split: functools.partial(list, kept) for split, kept in groups.items() if split}


def _split_of(name: str) -> str | None:
    told = {_SPLIT_OF[word] for word in _WORD.findall(name.lower()) if word in _SPLIT_OF}
    return told.pop() if len(told) == 1 else None


def from_data(data: Any, format: str | None = None):
    """Returns a SeqIO source over the files that a run names: `prepare.Data`'s data, columns,
    format and on_bad_record; rejects lie beside its cache.

    Args:
      format: of a task that has its own.
    """
    name = hashlib.sha256(os.path.abspath(data.data).encode()).hexdigest()[:8]
    return from_files(
        by_name(data.data),
        format=data.format or format,
        columns=data.columns,
        on_bad_record=data.on_bad_record,
        rejected=rejected(data) / f"{data.task}-{name}",
    )


def rejected(data: Any) -> pathlib.Path:
    """Returns the folder that keeps the bad rows of a run: beside its cache."""
    root = data.cache_dir or os.environ.get("T5SFT_CACHE")
    if not root:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "t5sft"
    return pathlib.Path(root).expanduser() / "rejected"
