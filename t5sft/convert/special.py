"""Special tokens added to a tokenizer.json."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from t5sft import errors, paths

_FILE = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"


def add(directory, tokens: Sequence[str]) -> dict[str, int]:
    """Adds special tokens to the tokenizer of a directory, in place, after the highest id.

    A token that the tokenizer has already keeps its id.

    Returns token -> id.

    Raises:
      ConfigError: there is no tokenizer.json (a SentencePiece model cannot be added to), or a token
        is empty.
      DataError: its files are no tokenizer.
    """
    path = pathlib.Path(directory) / _FILE
    if not path.is_file():
        raise errors.ConfigError(
            f"special tokens need a {_FILE}; {directory}; write one with transformers: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    if not all(tokens) or len(set(tokens)) < len(tokens):
        raise errors.ConfigError(f"special tokens {list(tokens)}; convert; each once, none empty")
    try:
        content = paths.read_object(path)
        settings = paths.read_object(path.parent / _SETTINGS)
    except FileNotFoundError:
        settings = {}
    except ValueError as error:
        raise _unusable(directory, error) from error
    added = content.setdefault("added_tokens", []) or []
    try:
        ids = _ids(content["model"]) | {entry["content"]: entry["id"] for entry in added}
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(directory, error) from error
    new = [token for token in tokens if token not in ids]
    entries = [_entry(token, 1 + max(ids.values()) + i) for i, token in enumerate(new)]
    content["added_tokens"] = [*added, *entries]
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    _tell_settings(path.parent / _SETTINGS, settings, entries)
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


def _unusable(directory, error: Exception) -> errors.DataError:
    return errors.DataError(
        f"no usable tokenizer ({error!r:.80}); {directory}; fetch its files again"
    )


def _tell_settings(path: pathlib.Path, settings: dict, entries: Sequence[dict[str, Any]]) -> None:
    """transformers 4.x lists added tokens here too."""
    if isinstance(settings.get("added_tokens_decoder"), dict):
        settings["added_tokens_decoder"] |= {
            str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in entries
        }
        path.write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")
