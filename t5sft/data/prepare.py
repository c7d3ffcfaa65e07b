"""Preparing: a SeqIO task's examples are rendered and tokenised once, into a cache.

`Data` holds plain values, everything that decides the tokens; its digest names the cache. The work
runs in a child process, so that TensorFlow never enters the process that trains (it would take
1 GB of memory, ten seconds, and on a GPU host the GPU).
"""

import contextlib
import dataclasses
import errno
import glob
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import typing
from collections.abc import Mapping, Sequence

from t5sft import errors
from t5sft.data import cache, data_card, fingerprint, preprocess, templates, workshop
from t5sft.data import files as files_lib
from t5sft.data import parts as parts_lib


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run learns from, as plain values.

    Args:
      task: a SeqIO task or mixture.
      modules: Python modules that register it; one with a function `register(data)` is called
        with these settings.
      data: what the task reads: a file, a glob, or a directory, which then takes the place of
        $T5SFT_DATA; or None.
      format: how a row of `data` is read; None: told by its fields.
      columns: our field -> the column of `data` that holds it.
      on_bad_record: "error" stops at an unreadable row, "skip" counts and keeps it aside.
      vocabulary: "bytes" or the path of a SentencePiece model.
      template: a name in `templates.TEMPLATES`.
      objective: how a record becomes tokens.
      learn: which tokens of a decoder's conversation learn; prompt_weight: loss weight of the rest.
      encoder_length: S, row length of the encoder (encoder-decoder only).
      decoder_length: T, row length of the decoder.
      too_long: what happens to an example longer than a row.
      unlearnt: what happens to an example that has no token to learn.
      noise_density: share of the tokens that span corruption takes out; seed: of which ones.
      cache_dir: where prepared data lies; default $T5SFT_CACHE or ~/.cache/t5sft.
    """

    task: str
    vocabulary: str
    modules: tuple[str, ...] = ()
    data: str | None = None
    format: str | None = None
    columns: Mapping[str, str] | None = None
    on_bad_record: files_lib.OnBadRecord = "error"
    template: str = "plain"
    objective: preprocess.Objective = "instruction"
    learn: preprocess.Learn = "all_assistant"
    prompt_weight: float = 0.0
    encoder_length: int = 512
    decoder_length: int = 512
    too_long: preprocess.TooLong = "drop"
    unlearnt: preprocess.Unlearnt = "drop"
    noise_density: float = 0.15
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "modules", tuple(self.modules))
        for field, allowed in (
            ("objective", preprocess.Objective),
            ("learn", preprocess.Learn),
            ("too_long", preprocess.TooLong),
            ("on_bad_record", files_lib.OnBadRecord),
            ("unlearnt", preprocess.Unlearnt),
        ):
            known, value = typing.get_args(allowed), getattr(self, field)
            if value not in known:
                raise errors.ConfigError(
                    f"unknown {field} {value!r}{errors.suggest(str(value), known)}; Data.{field}; "
                    f"use one of {', '.join(known)}"
                )
        templates.get(self.template)
        if self.data is not None and not files(self.data):
            raise errors.ConfigError(f"no data file {self.data}; --data; check the path")


def files(path: str) -> list[pathlib.Path]:
    """Returns the files of a path, glob or directory (all below it), sorted."""
    place = pathlib.Path(path).expanduser()
    if place.is_dir():
        return sorted(file for file in place.rglob("*") if file.is_file())
    found = [place] if place.is_file() else glob.glob(str(place), recursive=True)
    return sorted(pathlib.Path(file) for file in found if pathlib.Path(file).is_file())


def directory(data: Data, layout: str, split: str) -> pathlib.Path:
    """Returns where the split is prepared, or will be if its task reads nothing but `data.data`."""
    ready, _ = find(data, layout, split)
    return ready or _root(data) / digest(data, layout, split)


def digest(data: Data, layout: str, split: str) -> str:
    """Returns a name made of the settings and the bytes of data, vocabulary, tasks and code."""
    measured = fingerprint.measure(data, [])
    return f"{_stem(data, layout, split)}-{fingerprint.content(measured)}"


def origin(data: Data, layout: str, split: str, measured: dict) -> dict:
    """Returns what a card says of what it was made of: `find` compares it.

    Args:
      measured: the source files, by `fingerprint.measure`.
    """
    settings = fingerprint.settings(data, layout, split)
    return {"format": fingerprint.FORMAT, "settings": settings, "sources": measured}


def _root(data: Data) -> pathlib.Path:
    root = data.cache_dir or os.environ.get("T5SFT_CACHE")
    if not root:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "t5sft"
    return pathlib.Path(root).expanduser() / "prepared"


def _stem(data: Data, layout: str, split: str) -> str:
    """Returns the part of a name that the source files have no share in."""
    name = fingerprint.short(fingerprint.settings(data, layout, split))
    return f"{fingerprint.file_name(data.task)}-{fingerprint.file_name(split)}-{name}"


def find(data: Data, layout: str, split: str) -> tuple[pathlib.Path | None, str]:
    """Returns a split prepared from what is there now, or (None, why there is none).

    Quick, and without SeqIO: sources are told by size and time, and hashed where these differ.
    """
    reasons = []
    for card, path in _cards(data, f"{_stem(data, layout, split)}-*"):
        reason, renewed = fingerprint.changed(data, card["sources"])
        if not reason:
            if renewed is not None:
                with contextlib.suppress(OSError):  # a cache that others own is not written
                    cache.write_card(path, {**card, "sources": renewed})
            return path, ""
        reasons.append(reason)
    if reasons:
        return None, reasons[0]
    task, of = fingerprint.file_name(data.task), fingerprint.file_name(split)
    for card, _ in _cards(data, f"{task}-{of}-*"):
        now = fingerprint.settings(data, layout, split)
        return None, fingerprint.differences(card["settings"], now) or "the sources changed"
    return None, "not prepared before"


def _cards(data: Data, pattern: str) -> list[tuple[dict, pathlib.Path]]:
    """Returns the cards of this format whose directories match, the newest first."""
    found = []
    for path in _root(data).glob(f"{pattern}/card.json"):
        with contextlib.suppress(OSError, ValueError):
            card = json.loads(path.read_text())
            if card.get("format") == fingerprint.FORMAT:
                found.append((path.stat().st_mtime_ns, card, path.parent))
    return [pair[1:] for pair in sorted(found, key=lambda one: -one[0])]


class Preparation:
    """Splits being prepared by a child process, or prepared already.

    Args:
      workers: processes that tokenise; None: one per core.
    """

    def __init__(
        self, data: Data, layout: str, splits: Sequence[str], *, workers: int | None = None
    ):
        found = [find(data, layout, split) for split in splits]
        self._directories = [path for path, _ in found]
        self._child = None
        for split, (path, why) in zip(splits, found, strict=True):
            if path is None:
                print(f"preparing {data.task}, {split}: {why}", file=sys.stderr, flush=True)
        if None in self._directories:
            request = {"data": dataclasses.asdict(data), "layout": layout, "splits": list(splits)}
            self._child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "t5sft.data.prepare",
                    json.dumps(request | {"workers": workers}),
                ],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )

    def result(self) -> list[cache.Split]:
        """Waits for the child and opens the cache of each split.

        Raises: what the child raised (ConfigError, DataError), or DataError when it died.
        """
        if self._child is not None:
            output, _ = self._child.communicate()
            name, _, message = output.strip().rpartition("\n")[2].partition(" ")
            if self._child.returncode:
                if name not in _RAISED:
                    message = f"the process died with code {self._child.returncode}; see above"
                    raise errors.DataError(f"preparing the data failed; {message}")
                raise _RAISED[name](message)
            self._directories = [pathlib.Path(path) for path in json.loads(message)]
            self._child = None
        return [cache.read_split(path) for path in self._directories if path is not None]


_RAISED = {kind.name: kind for kind in errors.T5sftError.__subclasses__()}


def prepare(*, model, data: Data, splits: Sequence[str] = ("train", "validation")) -> dict:
    """Prepares the splits of a run and returns their cards (the verb `t5sft prepare`).

    Args:
      model: a ModelDef; only its layout counts.
    """
    done = Preparation(data, model.layout, splits).result()
    for name, split in zip(splits, done, strict=True):
        print(describe(name, split.card), file=sys.stderr)
    return {name: split.card for name, split in zip(splits, done, strict=True)}


def describe(name: str, card: dict) -> str:
    """Returns one line: what was read, kept, dropped (why) and cut."""
    why = ", ".join(
        f"{count} {key.removeprefix('dropped: ')}"
        for key, count in card.items()
        if key.startswith("dropped: ")
    )
    return (
        f"{name}: {card['read']} examples read, {card['kept']} kept, "
        f"{card.get('dropped', 0)} dropped{f' ({why})' if why else ''}, "
        f"{card.get('truncated', 0)} truncated; "
        f"{card['tokens']} tokens, {card['learnt_tokens']} learnt"
    )


def register(data: Data):
    """Imports the modules that define the tasks, and hands them the settings.

    A directory given as `data` becomes $T5SFT_DATA of this process.
    """
    if data.data is not None and pathlib.Path(data.data).expanduser().is_dir():
        os.environ["T5SFT_DATA"] = str(pathlib.Path(data.data).expanduser().absolute())
    for name in data.modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise errors.ConfigError(f"{error}; Data.modules; check the name") from error
        if hasattr(module, "register"):
            module.register(data)


def prepare_split(
    data: Data, layout: str, split: str, *, pool: workshop.Pool | None = None
) -> pathlib.Path:
    """Reads, renders, tokenises and caches one split of every task; returns its directory.

    Imports SeqIO: call it in a process that does not train. What a killed one has tokenised is
    not done again.

    Args:
      pool: processes that tokenise; None: this one. The result does not depend on it.
    """
    from t5sft.data import define, reading

    register(data)
    start = time.monotonic()
    rates = define.rates_of_split(data.task, split)
    stem = _stem(data, layout, split)
    listed = [path for task in rates for path in reading.source_files(task, split)]
    with workshop.in_background(fingerprint.measure, data, listed) as sources:
        with workshop.directory_of_parts(_root(data), stem) as parts:
            done = {
                task: workshop.tokenise(
                    parts / cache.folder(task), task, split, data, layout, pool=pool
                )
                for task in rates
            }
            measured = sources.result()
            target = _root(data) / f"{stem}-{fingerprint.content(measured)}"
            made = origin(data, layout, split, measured)
            if (target / "card.json").exists():  # other files came to the sources' directory
                card = json.loads((target / "card.json").read_text())
                cache.write_card(target, {**card, **made})
                return target
            temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            tasks = {
                task: data_card.of_task(
                    rates[task],
                    counts,
                    parts_lib.merge(temporary / cache.folder(task), paths),
                )
                for task, (counts, paths) in done.items()
            }
            seconds = round(time.monotonic() - start, 2)
            summary = {"seconds": seconds, **data_card.total(tasks), "tasks": tasks, **made}
            cache.publish(temporary, target, summary)
    return target


def main(argument: str) -> int:
    """The child process: prepares the splits that the JSON argument asks for."""
    request = json.loads(argument)
    try:
        data, paths = Data(**request["data"]), []
        with workshop.Pool(request["workers"]) as pool:  # before TensorFlow and its threads
            for split in request["splits"]:
                paths.append(str(prepare_split(data, request["layout"], split, pool=pool)))
    except errors.T5sftError as error:
        print(error.name, str(error).replace("\n", " "))
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        where = error.filename or "the cache"
        print(f"{errors.StorageError.name} {error.strerror}; {where}; make room or set T5SFT_CACHE")
        return errors.StorageError.exit_code
    print("DONE", json.dumps(paths))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main(sys.argv[1]))
