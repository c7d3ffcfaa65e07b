"""Preparing: a SeqIO task's examples are rendered and tokenised once, into a cache.

`Data` holds plain values, everything that decides the tokens; its digest names the cache. The work
runs in a child process, so that TensorFlow never enters the process that trains (it would take
1 GB of memory, ten seconds, and on a GPU host the GPU).
"""

import dataclasses
import errno
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from t5sft import errors
from t5sft.data import cache, preprocess, templates, vocab
from t5sft.data import files as files_lib
from t5sft.data.preparing import data_card, finding, fingerprint, workshop
from t5sft.data.preparing import parts as parts_lib
from t5sft.data.settings import Data

directory, digest, find = finding.directory, finding.digest, finding.find
files, origin = files_lib.below, finding.origin


class Preparation:
    """Splits being prepared by a child process, or prepared already.

    Args:
      workers: processes that tokenise; None: one per core.
    """

    def __init__(
        self, data: Data, layout: str, splits: Sequence[str], *, workers: int | None = None
    ):
        if data.streaming and "train" in splits:
            raise errors.ConfigError(
                "split 'train' is streamed: it may have no end; Data.streaming; name another split "
                "(--split validation), or set streaming to False"
            )
        found = [find(data, layout, split) for split in splits]
        self._directories = [path for path, _ in found]
        self._child = None
        for split, (path, why) in zip(splits, found, strict=True):
            if path is None:
                print(f"preparing {data.task}, {split}: {why}", file=sys.stderr, flush=True)
        if None in self._directories:
            if data.objective == "instruction":  # in seconds, not after TensorFlow's ten
                template = templates.get(data.template)
                preprocess.check(template, vocab.load(data.vocabulary), data.system)
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
                if name not in RAISED:
                    message = f"the process died with code {self._child.returncode}; see above"
                    raise errors.DataError(f"preparing the data failed; {message}")
                raise RAISED[name](message)
            self._directories = [pathlib.Path(path) for path in json.loads(message)]
            self._child = None
        return [cache.read_split(path) for path in self._directories if path is not None]


RAISED = {kind.name: kind for kind in errors.T5sftError.__subclasses__()}


def prepare(
    *,
    model,
    data: Data,
    task: str | None = None,
    splits: Sequence[str] = ("train", "validation"),
    sequence_length: Sequence[str] = (),
    workers: int | None = None,
) -> dict:
    """Prepares the splits of a run and tells what they hold (the verb `t5sft prepare`).

    Args:
      model: a ModelDef; only its layout counts.
      task: another task or mixture than the run's.
      sequence_length: rows for which packing is measured, "2048" or "1024,512" (encoder and
        decoder); default: the run's own.
      workers: processes that tokenise; None: one per core.

    Returns:
      See `summary`.
    """
    from t5sft.data.preparing import summary

    start = time.monotonic()
    if task is not None:
        data = dataclasses.replace(data, task=task)
    if data.streaming:
        splits = [split for split in splits if split != "train"]
        print("train is streamed, not prepared", file=sys.stderr)
    lengths = summary.lengths(sequence_length, data, model.layout)
    done = Preparation(data, model.layout, splits, workers=workers).result()
    prepared = dict(zip(splits, done, strict=True))
    result = summary.summary(prepared, data, model.layout, lengths)
    result["seconds"] = round(time.monotonic() - start, 2)
    print(summary.text(result), file=sys.stderr)
    return result


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
    from t5sft.data import corpora

    corpora.follow(data)
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
    stem = finding.stem(data, layout, split)
    listed = [path for task in rates for path in reading.source_files(task, split)]
    with workshop.in_background(fingerprint.measure, data, listed) as sources:
        with workshop.directory_of_parts(finding.root(data), stem) as parts:
            done = {
                task: workshop.tokenise(
                    parts / cache.folder(task), task, split, data, layout, pool=pool
                )
                for task in rates
            }
            measured = sources.result()
            target = finding.root(data) / f"{stem}-{fingerprint.content(measured)}"
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
