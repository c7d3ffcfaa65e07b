"""Finding: where prepared data lies, and whether it was made of what is there now."""

import contextlib
import json
import os
import pathlib

from t5sft.data import cache
from t5sft.data.preparing import fingerprint
from t5sft.data.settings import Data


def directory(data: Data, layout: str, split: str) -> pathlib.Path:
    """Returns where the split is prepared, or will be if its task reads nothing but `data.data`."""
    ready, _ = find(data, layout, split)
    return ready or root(data) / digest(data, layout, split)


def digest(data: Data, layout: str, split: str) -> str:
    """Returns a name made of the settings and the bytes of data, vocabulary, tasks and code."""
    measured = fingerprint.measure(data, [])
    return f"{stem(data, layout, split)}-{fingerprint.content(measured)}"


def origin(data: Data, layout: str, split: str, measured: dict) -> dict:
    """Returns what a card says of what it was made of: `find` compares it.

    Args:
      measured: the source files, by `fingerprint.measure`.
    """
    settings = fingerprint.settings(data, layout, split)
    return {"format": fingerprint.FORMAT, "settings": settings, "sources": measured}


def root(data: Data) -> pathlib.Path:
    root = data.cache_dir or os.environ.get("T5SFT_CACHE")
    if not root:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "t5sft"
    return pathlib.Path(root).expanduser() / "prepared"


def stem(data: Data, layout: str, split: str) -> str:
    """Returns the part of a name that the source files have no share in."""
    name = fingerprint.short(fingerprint.settings(data, layout, split))
    return f"{fingerprint.file_name(data.task)}-{fingerprint.file_name(split)}-{name}"


def find(data: Data, layout: str, split: str) -> tuple[pathlib.Path | None, str]:
    """Returns a split prepared from what is there now, or (None, why there is none).

    Quick, and without SeqIO: sources are told by size and time, and hashed where these differ.
    """
    reasons = []
    for card, path in _cards(data, f"{stem(data, layout, split)}-*"):
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
    for path in root(data).glob(f"{pattern}/card.json"):
        with contextlib.suppress(OSError, ValueError):
            card = json.loads(path.read_text())
            if card.get("format") == fingerprint.FORMAT:
                found.append((path.stat().st_mtime_ns, card, path.parent))
    return [pair[1:] for pair in sorted(found, key=lambda one: -one[0])]
