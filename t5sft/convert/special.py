"""Special tokens added to a tokenizer.json."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from t5sft import errors

_FILE = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"


def add(directory, tokens: Sequence[str]) -> dict[str, int]:
    """Adds special tokens to the tokenizer of a directory, in place, after the highest id.

    A token that the tokenizer has already keeps its id.

    Returns token -> id.

    Raises:
      ConfigError: there is no tokenizer.json (a SentencePiece model cannot be added to), or a token
        is empty.
    """
    path = pathlib.Path(directory) / _FILE
    if not path.is_file():
        raise errors.ConfigError(
            f"special tokens need a {_FILE}; {directory}; write one with transformers: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    if not all(tokens) or len(set(tokens)) < len(tokens):
        raise errors.ConfigError(f"special tokens {list(tokens)}; convert; each once, none empty")
    content = json.loads(path.read_text(encoding="utf-8"))
    added = content.setdefault("added_tokens", []) or []
    ids = _ids(content["model"]) | {entry["content"]: entry["id"] for entry in added}
    new = [token for token in tokens if token not in ids]
    entries = [_entry(token, 1 + max(ids.values()) + i) for i, token in enumerate(new)]
    content["added_tokens"] = [*added, *entries]
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    _tell_settings(path.parent / _SETTINGS, entries)
    ids |= {entry["content"]: entry["id"] for entry in entries}
    return {token: ids[token] for token in tokens}


def _ids(model: dict[str, Any]) -> dict[str, int]:
    words = model["vocab"]
    if isinstance(words, dict):
        return dict(words)
    return {word: i for i, (word, _) in enumerate(words)}  # Unigram


def _entry(token: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **flags, "special": True}


def _tell_settings(path: pathlib.Path, entries: Sequence[dict[str, Any]]) -> None:
    """transformers 4.x lists added tokens here too."""
    if not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    if "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] |= {
            str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in entries
        }
        path.write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")
