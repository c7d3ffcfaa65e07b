"""Fingerprints: what a prepared split was made of, so that a changed part makes it anew.

The settings (with tokenizer, template, task modules and versions) are hashed at once. Source files
are known only once SeqIO is imported: the card lists them, and whoever finds a card compares them
with the disk, by size and time of change, by content where these differ. No TensorFlow here.
"""

import ast
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from t5sft import errors
from t5sft.data import files, templates, vocab
from t5sft.data.settings import Data

FORMAT = 3  # of the files of a prepared split
# Of what a row becomes: readers, templates, policies, tokens. Raised when any of them gives other
# tokens (tests/golden/test_tokens.py tells), so that prepared data outlives every other change.
SEMANTICS = 2
_PACKAGES = ("seqio", "tensorflow-datasets", "sentencepiece", "tokenizers", "jinja2")
_RACY_NS = 2_000_000_000  # a file changed so shortly before it was measured may change unseen
_ROOT = "$T5SFT_DATA/"


def settings(data: Data, layout: str, split: str) -> dict[str, Any]:
    """Returns all that decides the tokens of a split, apart from the source files: name -> value.

    Raises:
      ConfigError: a task module or the vocabulary is not there.
    """
    unimportant = ("cache_dir", "data", "streaming")
    values = {k: v for k, v in dataclasses.asdict(data).items() if k not in unimportant}
    values |= {"layout": layout, "split": split, "vocabulary": vocab.load(data.vocabulary)}
    values["vocabulary"] = values["vocabulary"].fingerprint()
    values["template_content"] = templates.fingerprint(data.template)
    values["code"] = {}
    values["modules"] = list(data.modules)
    for module in data.modules:
        for path in _sources(module, set()):
            values["code"][f"{module}: {path.name}"] = sha256(path)
    values["version"] = {"format": FORMAT, "semantics": SEMANTICS}
    for package in _PACKAGES:
        try:
            number = importlib.metadata.version(package)
            values["version"][package] = ".".join(number.split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            continue
    return values


def short(value: Any) -> str:
    """Returns 16 hexadecimal digits that stand for a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Says in a few words which settings differ."""
    told = []
    for name in new:
        before, after = old.get(name), new[name]
        if before == after:
            continue
        if name in ("vocabulary", "template_content"):
            told.append(f"the content of the {name.partition('_')[0]} changed")
        elif isinstance(after, Mapping) and isinstance(before, Mapping):
            names = [key for key in {**before, **after} if before.get(key) != after.get(key)]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            told.append(f"{name} changed ({', '.join(names[:3])}{more})")
        else:
            told.append(f"{name} was {before!r}, is {after!r}")
    return "; ".join(told)


def measure(data: Data, listed: Iterable[str]) -> dict:
    """Returns the source files of a split with size, time and SHA-256, as its card keeps them.

    Args:
      listed: the files that the SeqIO sources name.
    """
    own, others = _own_files(data), [pathlib.Path(path) for path in dict.fromkeys(listed)]
    if data.data is not None and _is_folder(data.data):
        root = os.path.realpath(os.path.expanduser(data.data))
        if any(os.path.realpath(path).startswith(root + os.sep) for path in others):
            own = []  # the task says itself which of the directory's files it reads
    known = {os.path.realpath(path) for path in own}
    others = [path for path in others if os.path.realpath(path) not in known]
    entries = [{"is_data": True, **_measured(path)} for path in own]
    for path in sorted(others):
        entries.append({"is_data": False, **_measured(path), "path": _portable(data, path)})
    folders = {_portable(data, path.parent): _names(path.parent, others) for path in others}
    return {"files": entries, "folders": folders, "measured_ns": time.time_ns()}


def _own_files(data: Data) -> list[pathlib.Path]:
    return [] if data.data is None else files.below(data.data)


def _measured(path: pathlib.Path) -> dict[str, Any]:
    before = path.stat()
    found = sha256(path)
    if (path.stat().st_size, path.stat().st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise errors.DataError(f"a source changed while it was read; {path}; start again")
    return {
        "path": str(path.absolute()),
        "size": before.st_size,
        "mtime_ns": before.st_mtime_ns,
        "sha256": found,
    }


def content(measured: Mapping) -> str:
    """Returns eight hexadecimal digits that stand for the bytes of all source files.

    Of several files the names count, too: they tell which split a file is.
    """
    entries = measured["files"]
    names = _relative(entries) if len(entries) > 1 else []
    return short([entry["sha256"] for entry in entries] + names)[:8]


def _relative(entries: Iterable[Mapping]) -> list[str]:
    """Returns the names of files, wherever the folder that holds them lies."""
    own = [entry["path"] for entry in entries if entry["is_data"]]
    top = os.path.commonpath([os.path.dirname(path) for path in own]) if own else ""
    return [
        os.path.relpath(entry["path"], top)
        if entry["is_data"]
        else entry["path"].removeprefix(_ROOT)
        for entry in entries
    ]


def _names(folder: pathlib.Path, files: Iterable[pathlib.Path]) -> str:
    """Stands for the names in a folder that end as the source files in it do."""
    suffixes = {path.suffix for path in files if path.parent == folder}
    return short(sorted(x.name for x in folder.iterdir() if x.suffix in suffixes))


def _is_folder(path: str | None) -> bool:
    return path is not None and os.path.isdir(os.path.expanduser(path))


def _root(data: Data) -> str:
    place = data.data if _is_folder(data.data) else None
    return os.path.abspath(
        os.path.expanduser(place or os.environ.get("T5SFT_DATA") or "~/t5sft_data")
    )


def _portable(data: Data, path: pathlib.Path) -> str:
    """Writes a path below $T5SFT_DATA relative to it: the corpora may move."""
    absolute, root = str(path.absolute()), _root(data)
    inside = absolute.startswith(root + os.sep)
    return _ROOT + os.path.relpath(absolute, root) if inside else absolute


def _located(data: Data, path: str) -> pathlib.Path:
    is_portable = path.startswith(_ROOT)
    return (
        pathlib.Path(_root(data), path.removeprefix(_ROOT)) if is_portable else pathlib.Path(path)
    )


def changed(data: Data, measured: dict) -> tuple[str, dict | None]:
    """Compares source files with what a card says of them.

    Returns:
      ("", None) when all are as they were, ("", new entries) when only times or places differ, and
      (what changed, None). Files that are all gone are taken to be as they were: a prepared split
      may go where its sources do not.
    """
    mine = [entry for entry in measured["files"] if entry["is_data"]]
    others = [entry for entry in measured["files"] if not entry["is_data"]]
    # Files listed by the source stand for a folder given as data, and for no other data.
    own = [] if not mine and others and _is_folder(data.data) else _own_files(data)
    if not mine and own:
        return f"the data was {others[0]['path'] if others else 'none'}, is {data.data}", None
    if len(own) != len(mine):
        return f"{data.data} has {len(own)} files, had {len(mine)}", None
    places = [_located(data, entry["path"]) for entry in others]
    if not any(place.is_file() for place in places) and not _is_folder(data.data):
        others, places = [], []
    places_now = [{"is_data": True, "path": str(path.absolute())} for path in own]
    if len(own) > 1 and _relative(places_now) != _relative(mine):
        return f"the names of the files of {data.data} changed", None
    renewed = []
    for place, entry in zip([*own, *places], [*mine, *others], strict=True):
        now = _now(place, entry, measured["measured_ns"])
        if now is None:
            if place.is_file() and entry["is_data"] and str(place.absolute()) != entry["path"]:
                return f"the data was {entry['path']}, is {place}", None
            return f"{place} {'changed' if place.is_file() else 'is gone'}", None
        renewed.append(now)
    for folder, names in measured["folders"].items() if others else ():
        place = _located(data, folder)
        if _names(place, places) != names:
            return f"files came to {place} or left it", None
    if renewed == [*mine, *others]:
        return "", None
    return "", {**measured, "files": renewed, "measured_ns": time.time_ns()}


def _now(place: pathlib.Path, entry: Mapping, measured_ns: int) -> dict | None:
    """Returns the entry of a file as it is, None if it is gone or has other bytes."""
    if not place.is_file():
        return None
    stat, path = place.stat(), str(place.absolute()) if entry["is_data"] else entry["path"]
    is_same = (stat.st_size, stat.st_mtime_ns) == (entry["size"], entry["mtime_ns"])
    if is_same and entry["mtime_ns"] + _RACY_NS < measured_ns and path == entry["path"]:
        return dict(entry)
    if stat.st_size != entry["size"] or sha256(place) != entry["sha256"]:
        return None
    return {**entry, "path": path, "mtime_ns": stat.st_mtime_ns}


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


def file_name(text: str) -> str:
    """Returns a text as it may stand in the name of a file."""
    return re.sub(r"[^\w.-]", "_", text)
