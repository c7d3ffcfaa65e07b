"""Preparing: a SeqIO task's examples are rendered and tokenised once, into a cache.

`Data` holds plain values, everything that decides the tokens; its digest names the cache. The work
runs in a child process, so that TensorFlow never enters the process that trains (it would take
1 GB of memory, ten seconds, and on a GPU host the GPU).
"""

import ast
import dataclasses
import glob
import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from t5sft import errors
from t5sft.data import cache, preprocess, records, templates, vocab

OnBadRecord = Literal["error", "skip"]
Unlearnt = Literal["drop", "error"]


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
    on_bad_record: OnBadRecord = "error"
    template: str = "plain"
    objective: preprocess.Objective = "instruction"
    learn: preprocess.Learn = "all_assistant"
    prompt_weight: float = 0.0
    encoder_length: int = 512
    decoder_length: int = 512
    too_long: preprocess.TooLong = "drop"
    unlearnt: Unlearnt = "drop"
    noise_density: float = 0.15
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "modules", tuple(self.modules))
        for field, allowed in (
            ("objective", preprocess.Objective),
            ("learn", preprocess.Learn),
            ("too_long", preprocess.TooLong),
            ("on_bad_record", OnBadRecord),
            ("unlearnt", Unlearnt),
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
    """Returns where the split is or will be prepared: a path named by all that decides it."""
    root = data.cache_dir or os.environ.get("T5SFT_CACHE")
    if not root:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "t5sft"
    return pathlib.Path(root).expanduser() / "prepared" / digest(data, layout, split)


def digest(data: Data, layout: str, split: str) -> str:
    """Returns a name made of the settings and the bytes of data, vocabulary, tasks and code."""
    values = {k: v for k, v in dataclasses.asdict(data).items() if k != "cache_dir"}
    values["vocabulary"] = vocab.load(data.vocabulary).fingerprint()
    values["data"] = data.data and [_sha256(path) for path in files(data.data)]
    values["template"] = templates.fingerprint(data.template)
    code = sorted(path for name in _CODE for path in pathlib.Path(__file__).parent.glob(name))
    for module in data.modules:
        code += _sources(module, set())
    values["code"] = [_sha256(path) for path in code]
    text = json.dumps([values, layout, split], sort_keys=True)
    return f"{data.task}-{split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


_CODE = (
    *("cache.py", "define.py", "denoising.py", "prepare.py", "preprocess.py", "records.py"),
    *("sources.py", "templates/*.py", "tokenizer_json.py", "tokens.py", "truncation.py"),
    "vocab.py",
)


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sources(module: str, seen: set[str]) -> list[pathlib.Path]:
    """Returns the source files of a task module and of those of its package that it imports.

    Nothing is imported but the packages above the module.
    """
    seen.add(module)
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        if len(seen) == 1:
            raise errors.ConfigError(f"no module {module!r}; Data.modules; check the name")
        return []  # a name imported from a module, or a compiled one
    package = module if spec.submodule_search_locations else module.rpartition(".")[0]
    found = [pathlib.Path(spec.origin)]
    for node in ast.walk(ast.parse(found[0].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [name, *(f"{name}.{alias.name}" for alias in node.names)]
        for name in names:
            if package and name.startswith(f"{package}.") and name not in seen:
                found += _sources(name, seen)
    return found


class Preparation:
    """Splits being prepared by a child process, or prepared already."""

    def __init__(self, data: Data, layout: str, splits: Sequence[str]):
        self._directories = [directory(data, layout, split) for split in splits]
        self._child = None
        if not all((path / "card.json").exists() for path in self._directories):
            request = {"data": dataclasses.asdict(data), "layout": layout, "splits": list(splits)}
            self._child = subprocess.Popen(
                [sys.executable, "-m", "t5sft.data.prepare", json.dumps(request)],
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
            if self._child.returncode:
                name, _, message = output.strip().rpartition("\n")[2].partition(" ")
                if name not in _RAISED:
                    message = f"the process died with code {self._child.returncode}; see above"
                    raise errors.DataError(f"preparing the data failed; {message}")
                raise _RAISED[name](message)
            self._child = None
        return [cache.read_split(path) for path in self._directories]


_RAISED = {kind.name: kind for kind in errors.T5sftError.__subclasses__()}
_STALE_SECONDS = 24 * 3600  # after which an unfinished directory belongs to a dead process


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


def prepare_split(data: Data, layout: str, split: str) -> pathlib.Path:
    """Reads, renders, tokenises and caches one split of every task; returns its directory.

    Imports SeqIO: call it in a process that does not train.
    """
    from t5sft.data import define

    register(data)
    target = directory(data, layout, split)
    if (target / "card.json").exists():
        return target
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    for unfinished in target.parent.glob(f".{target.name}.*.tmp"):
        if time.time() - unfinished.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)
    start, card = time.monotonic(), {}
    for task, rate in define.rates(data.task).items():
        counts, examples, numbers = _task_examples(data, layout, task, split)
        if not examples:
            raise errors.DataError(
                f"no example left of {counts['read']}: {dict(counts)}; task {task!r}, split "
                f"{split!r}; raise encoder_length/decoder_length or see too_long"
            )
        cache.write_task(temporary / task.replace(":", "_"), examples, numbers)
        card[task] = {"rate": rate, **counts}
    total = sum((Counter(entry) for entry in card.values()), Counter())
    total.pop("rate")
    summary = {"seconds": round(time.monotonic() - start, 2), **total, "tasks": card}
    cache.publish(temporary, target, summary)
    return target


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


def _task_examples(data: Data, layout: str, task: str, split: str):
    from t5sft.data import define

    counts, examples, numbers = Counter(read=0, kept=0, dropped=0, truncated=0), [], []
    for position, record in define.read_records(task, split):
        counts["read"] += 1
        try:
            if isinstance(record, records.Dropped):
                raise record
            example, was_cut = make_example(record, data, layout)
        except records.Dropped as reason:
            counts["dropped"] += 1
            counts[f"dropped: {reason}"] += 1
            if data.unlearnt == "error" and str(reason) == "nothing to learn":
                raise errors.DataError(
                    f"an example has no token to learn; {task}[{position}]; "
                    "mend the example, or unlearnt='drop'"
                ) from None
            continue
        counts["kept"] += 1
        counts["truncated"] += was_cut
        counts["tokens"] += len(example.inputs.ids) + len(example.targets.ids)
        counts["learnt_tokens"] += sum(weight > 0 for weight in example.targets.weights)
        examples.append(example)
        numbers.append(position)
    return counts, examples, numbers


def make_example(record: records.Record, data: Data, layout: str):
    """Turns one record into tokens as `data` says; returns (Example, whether it was cut)."""
    vocabulary = vocab.load(data.vocabulary)
    if data.objective == "instruction":
        example = preprocess.instruction(
            record,
            vocabulary,
            templates.get(data.template),
            layout=layout,
            learn=data.learn,
            prompt_weight=data.prompt_weight,
        )
    elif data.objective == "language_model":
        example = preprocess.language_model(record, vocabulary)
    else:
        example = preprocess.span_corruption(
            record, vocabulary, noise_density=data.noise_density, seed=data.seed
        )
    return preprocess.fit(
        example,
        layout=layout,
        encoder_length=data.encoder_length,
        decoder_length=data.decoder_length,
        too_long=data.too_long,
    )


def main(argument: str) -> int:
    """The child process: prepares the splits that the JSON argument asks for."""
    request = json.loads(argument)
    try:
        for split in request["splits"]:
            prepare_split(Data(**request["data"]), request["layout"], split)
    except errors.T5sftError as error:
        print(error.name, str(error).replace("\n", " "))
        return error.exit_code
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main(sys.argv[1]))
