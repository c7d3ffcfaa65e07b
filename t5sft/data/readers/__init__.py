"""Readers: a row of a file, in any of the field's formats, becomes a Record.

`FORMATS` names them. Without a name the row's fields must fit exactly one; `columns` renames first.
A row that cannot be read is a DataError (or a reject); one that has nothing to learn is Dropped, by
a reason that is counted.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from t5sft import errors
from t5sft.data.readers import conversations, fields, preferences, texts
from t5sft.data.records import Dropped, Record

__all__ = ["FORMATS", "HEADERS", "detect", "read", "read_all"]

Row = Mapping[str, Any]

FORMATS: dict[str, Callable[[Row, str], Record]] = {
    "alpaca": texts.alpaca,
    "cot_tsv": texts.cot_tsv,
    "gsm8k": texts.gsm8k,
    "hh": preferences.hh,
    "ifeval": texts.ifeval,
    "inputs_targets": texts.inputs_targets,
    "kto": preferences.kto,
    "messages": conversations.messages,
    "mt_bench": texts.mt_bench,
    "natural_instructions": texts.natural_instructions,
    "p3": texts.p3,
    "preference": preferences.preference,
    "preference_sharegpt": preferences.preference_sharegpt,
    "prompt_completion": texts.prompt_completion,
    "ranked": preferences.ranked,
    "self_instruct": texts.self_instruct,
    "sharegpt": conversations.sharegpt,
    "text": texts.text,
}
HEADERS = {"cot_tsv": ("inputs", "answer", "rationale")}  # of files that have no header line
_INSTANCES = ("Instances", "instances")  # fields that hold several rows


def _is_pair(row: Row) -> bool:
    return "chosen" in row and "rejected" in row


def _is_labelled(row: Row) -> bool:
    return isinstance(row.get("label"), bool) or isinstance(row.get("kto_tag"), bool)


def _has_prompt(row: Row) -> bool:
    return any(name in row for name in preferences.PROMPTS)


def _is_single(row: Row) -> bool:
    return not _is_pair(row) and not _is_labelled(row)


def _has(row: Row, *names: str) -> bool:
    return set(names) <= row.keys()


def _is_hh(row: Row) -> bool:
    return _is_pair(row) and all(
        isinstance(row[name], str) and row[name].startswith("\n\nHuman:")
        for name in ("chosen", "rejected")
    )


def _is_kto(row: Row) -> bool:
    return _is_labelled(row) and (
        "messages" in row
        or "conversations" in row
        or _has(row, "prompt", "completion")
        or _has(row, "instruction", "output")
    )


_FITS: dict[str, Callable[[Row], bool]] = {
    "alpaca": lambda row: (
        "instruction" in row and ("output" in row or "response" in row) and _is_single(row)
    ),
    "cot_tsv": lambda row: _has(row, "answer", "rationale"),
    "gsm8k": lambda row: _has(row, "question", "answer") and "####" in str(row["answer"]),
    "hh": lambda row: _is_hh(row) and not _has_prompt(row),
    "ifeval": lambda row: _has(row, "prompt", "instruction_id_list"),
    "inputs_targets": lambda row: (
        _has(row, "inputs", "targets")
        or _has(row, "input", "target")
        or _has(row, "inputs_pretokenized", "targets_pretokenized")
    ),
    "kto": _is_kto,
    "messages": lambda row: "messages" in row and _is_single(row),
    "mt_bench": lambda row: _has(row, "turns", "question_id"),
    "natural_instructions": lambda row: _has(row, "Definition", "input", "output"),
    "p3": lambda row: _has(row, "template", "prompt", "completion"),
    "preference": lambda row: (
        _is_pair(row)
        and "conversations" not in row
        and (_has_prompt(row) or not isinstance(row["chosen"], str))
    ),
    "preference_sharegpt": lambda row: _is_pair(row) and "conversations" in row,
    "prompt_completion": lambda row: (
        "prompt" in row
        and ("completion" in row or "response" in row)
        and "template" not in row
        and _is_single(row)
    ),
    "ranked": lambda row: (
        any(isinstance(row.get(name), list) for name in preferences.ANSWERS) and _has_prompt(row)
    ),
    "self_instruct": lambda row: _has(row, "instruction", "instances"),
    "sharegpt": lambda row: ("conversations" in row or "conversation" in row) and _is_single(row),
    "text": lambda row: isinstance(row.get("text"), str),
}


def detect(row: Row, *, where: str) -> str:
    """Returns the name of the one format that has the fields of a row.

    Raises:
      DataError: none has them, or several: which one is meant would be a guess.
    """
    row = fields.present(row)
    found = [name for name, fits in _FITS.items() if fits(row)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(sorted(row)) or "none"
    if found:
        raise errors.DataError(
            f"the fields ({listed}) fit {' and '.join(found)}; {where}; name one of them as format"
        )
    raise errors.DataError(
        f"no known format has the fields ({listed}); {where}; name a format "
        f"({', '.join(FORMATS)}), or map columns, such as columns = {{'prompt': 'question'}}"
    )


def read(row: Row, format: str | None = None, *, where: str) -> Record:
    """Reads one row.

    Args:
      row: field -> value, as `files.read_rows` yields it.
      format: a name in FORMATS, or None: told by the fields.
      where: the row's place, for messages.

    Raises:
      DataError: the row does not fit; Dropped: it has nothing to learn.
    """
    name = format or detect(row, where=where)
    if name not in FORMATS:
        raise errors.ConfigError(
            f"unknown format {name!r}{errors.suggest(name, FORMATS)}; format; "
            f"use one of {', '.join(FORMATS)}"
        )
    return FORMATS[name](fields.present(row), where)


def read_all(
    row: Row, format: str | None = None, columns: Mapping[str, str] | None = None, *, where: str
) -> Iterator[Record | Dropped]:
    """Yields the records of a row, after renaming: several where it holds several instances.

    Args:
      columns: our field -> the row's column; other columns are left out then.
    """
    if columns:
        row = fields.rename(row, columns, where)
    for number, one in enumerate(_instances(row, where)):
        place = where if one is row else f"{where}, instance {number}"
        try:
            yield read(one, format, where=place)
        except Dropped as reason:
            yield reason


def _instances(row: Row, where: str) -> list[Row]:
    name = next((name for name in _INSTANCES if isinstance(row.get(name), list)), None)
    if name is None:
        return [row]
    shared = {key: value for key, value in row.items() if key != name}
    for one in row[name]:
        if not isinstance(one, Mapping):
            fields.fail(f"an instance is {fields.kind(one)}, not an object", where)
    return [{**shared, **one} for one in row[name]]
