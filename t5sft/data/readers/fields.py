"""Fields of a row: typed, under any of their names, with errors that name row and field."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from t5sft import errors

# What rides along with a record, under its own name.
_METADATA = ("id", "source", "dataset", "task", "template", "category", "cluster", "language")


def fail(what: str, where: str, todo: str = "mend the row, or name its format and columns"):
    """Raises a DataError: "what; where; what to do"."""
    raise errors.DataError(f"{what}; {where}; {todo}")


def one_of(row: Mapping[str, Any], names: Sequence[str], where: str, default: str = "") -> str:
    """Returns which of several names of one field the row has.

    Args:
      default: returned if it has none; "": that is an error.

    Raises:
      DataError: it has none, or several: which one counts would be a guess.
    """
    found = [name for name in names if name in row]
    if len(found) > 1:
        fail(f"fields {' and '.join(found)} say the same", where, "map one of them by columns")
    if not found and not default:
        fail(f"no field {' or '.join(map(repr, names))}", where, f"the row has {_listed(row)}")
    return found[0] if found else default


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join(sorted(row)) or "no fields"


def text(row: Mapping[str, Any], *names: str, where: str) -> str:
    """Returns the text of a field that goes by one of the names."""
    name = one_of(row, names, where)
    return as_text(row[name], name, where)


def optional_text(row: Mapping[str, Any], *names: str, where: str) -> str:
    """Likewise, or "" if the row has none of the names."""
    name = one_of(row, names, where, names[0])
    return as_text(row[name], name, where) if name in row else ""


def as_text(value: Any, name: str, where: str) -> str:
    """Returns a value that must be text."""
    if not isinstance(value, str):
        fail(f"field {name!r} is {kind(value)}, not text", where)
    return value


def as_list(value: Any, name: str, where: str) -> list:
    """Returns a value that must be a list."""
    if not isinstance(value, list | tuple):
        fail(f"field {name!r} is {kind(value)}, not a list", where)
    return list(value)


def kind(value: Any) -> str:
    """Returns what a value is, in JSON's words."""
    names = {str: "text", list: "a list", dict: "an object", bool: "true or false", int: "a number"}
    return names.get(type(value), "a number" if isinstance(value, float) else type(value).__name__)


def as_number(value: Any, name: str, where: str) -> float:
    """Returns a value that must be a number (true and false are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        fail(f"field {name!r} is {kind(value)}, not a number", where)
    return float(value)


def as_json(value: Any, name: str, where: str) -> str:
    """Returns JSON text of a value that is JSON text already, or a list or object."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except (ValueError, RecursionError) as error:
            fail(f"field {name!r} is no JSON: {error}", where)
        return value
    return json.dumps(value, ensure_ascii=False)


def metadata(row: Mapping[str, Any], *more: str) -> dict[str, str]:
    """Returns what rides along: the row's short fields of known names, as text."""
    return {
        name: str(row[name])
        for name in (*_METADATA, *more)
        if isinstance(row.get(name), str | int | float)
    }


def present(row: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what is null: tables have every column in every row."""
    return {name: value for name, value in row.items() if value is not None}


def rename(row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """Returns our field -> value, and nothing else, for a map of our field -> the row's column.

    A column may be a path into lists and objects.

    Example:
      rename({"choices": [{"turns": ["a", "b"]}]}, {"text": "choices.0.turns.1"}, "x:1")
      {"text": "b"}
    """
    renamed = {}
    for ours, theirs in columns.items():
        value: Any = row
        for key in [theirs] if theirs in row else theirs.split("."):
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                fail(f"no column {theirs!r} for {ours}", where, f"the row has {_listed(row)}")
        renamed[ours] = value
    return renamed
