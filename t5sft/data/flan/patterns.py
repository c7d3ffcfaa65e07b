"""Patterns: ways of writing a task's fields as inputs and targets, and which an example gets."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from t5sft import errors
from t5sft.data.flan import choices

Choose = Literal["index", "hash"]
Part = Literal["all", "seen", "held_out"]
OPTIONS_FIELDS = ("options_", "options_str")  # FLAN's two names of the options block
_FIELD = re.compile(r"\{(\w+)\}")
_OPTIONS = re.compile(r"(\s*\(\{options_(?:str)?\}\)|(?: \| |\n\n|\n| )?\{options_(?:str)?\})")


class Pattern(NamedTuple):
    """How one example is written; `{field}` stands for a field of its row.

    The names after `targets` are those of FLAN v2's FewShotPattern: an exemplar is
    inputs_prefix + inputs + x_y_delimiter + targets_prefix + targets + example_separator.
    """

    inputs: str
    targets: str
    inputs_prefix: str = ""
    targets_prefix: str = ""
    x_y_delimiter: str = "\n\n"
    example_separator: str = "\n\n\n"
    final_suffix: str = ""
    input_pattern: str = "{{inputs}}{final_suffix}"  # around all: {{field}} is filled last


def fields_of(pattern: Pattern) -> list[str]:
    """Returns the names of the fields a pattern needs, in order, each once."""
    around = _FIELD.findall(pattern.input_pattern.replace("{{", "{").replace("}}", "}"))
    named = _FIELD.findall(pattern.inputs) + _FIELD.findall(pattern.targets)
    return list(dict.fromkeys(x for x in around + named if x not in ("inputs", "final_suffix")))


def fill(text: str, fields: Mapping[str, Any], *, where: str = "") -> str:
    """Puts fields into a text once; braces that come with a field's own text stay text.

    Raises:
      DataError: a field that the row has not, or that is no text or number.

    Example:
      fill("{a} or {b}?", {"a": "{b}", "b": 2})   "{b} or 2?"
    """

    def value(match: re.Match) -> str:
        name = match[1]
        if name not in fields:
            raise errors.DataError(
                f"the template needs the field {name!r}{errors.suggest(name, fields)}; "
                f"{where or repr(text)}; the row has {', '.join(sorted(fields)) or 'no fields'}"
            )
        found = fields[name]
        if not isinstance(found, str | int | float):
            raise errors.DataError(
                f"the field {name!r} is a {type(found).__name__}, not text; "
                f"{where or repr(text)}; mend the row"
            )
        return str(found)

    return _FIELD.sub(value, text)


def shows_options(pattern: Pattern) -> bool:
    """Tells whether a pattern shows the options block."""
    return any(field in OPTIONS_FIELDS for field in fields_of(pattern))


def without_options(pattern: Pattern) -> Pattern:
    """Takes the options block out of a pattern, and the white space before it (FLAN's "noopt").

    Example:
      "{premise}\\n\\n{options_}\\nAnswer:"   ->  "{premise}\\nAnswer:"
    """
    return pattern._replace(inputs=_OPTIONS.sub("", pattern.inputs))


def index_of(patterns: Sequence[Any], choose: Choose, *, seed: int, task: str, index: int) -> int:
    """Returns the number of the pattern that example `index` of a task gets.

    "index": example i gets pattern i mod n, as in FLAN. "hash": one drawn by (seed, task, index).
    """
    if choose == "index":
        return index % len(patterns)
    return choices.number(len(patterns), seed, task, index, "pattern")


def part_of(patterns: Sequence[Any], part: Part, *, held_out: int = 2) -> list[Any]:
    """Returns the patterns trained on ("seen"), the last ones never trained on, or all.

    Raises:
      ConfigError: nothing would be left on one side.
    """
    if part == "all":
        return list(patterns)
    if not 0 < held_out < len(patterns):
        raise errors.ConfigError(
            f"{held_out} of {len(patterns)} patterns cannot be held out; held_out; "
            "leave at least one on each side"
        )
    return list(patterns[:-held_out] if part == "seen" else patterns[-held_out:])
