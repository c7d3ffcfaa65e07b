"""Templates: a record becomes one string, cut into pieces that know their role and loss weight.

A template is data: a name of `TEMPLATES`, or the Jinja `chat_template` of a model on Hugging Face.
Control tokens (beginning of text, end of turn) come from the template alone: text from a user is
never read for them.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence

from t5sft import errors
from t5sft.data import records
from t5sft.data.templates import jinja, pieces
from t5sft.data.templates.formats import TEMPLATES
from t5sft.data.templates.pieces import ROLES, Piece, Weights
from t5sft.data.templates.written import Template, Turn

__all__ = [
    "ROLES",
    "TEMPLATES",
    "Piece",
    "AnyTemplate",
    "Template",
    "Turn",
    "Weights",
    "get",
    "render",
]

AnyTemplate = Template | jinja.JinjaTemplate
AS_TEXT = ":text"  # a name with this end: control tokens spelled as text


def get(name: str) -> AnyTemplate:
    """Returns the template of this name, or raises ConfigError naming the nearest.

    "chatml:text" is "chatml" for a vocabulary that lacks its control tokens: they are spelled as
    ordinary text, and the vocabulary's own end token ends an answer. A path is that of a .jinja
    file, of a tokenizer_config.json, or of a directory that holds one of them, see `jinja`.
    """
    plain = name.removesuffix(AS_TEXT)
    path = pathlib.Path(name).expanduser()
    if plain not in TEMPLATES and path.exists():
        directory = path if path.is_dir() else path.parent
        files = [file for file in (path, *map(directory.joinpath, jinja.FILES)) if file.exists()]
        return _load(path, name, tuple(file.stat().st_mtime_ns for file in files))
    if plain not in TEMPLATES:
        raise errors.ConfigError(
            f"unknown template {name!r}{errors.suggest(name, TEMPLATES)}; template; "
            f"use one of {', '.join(TEMPLATES)}, or the path of a chat template (.jinja, "
            "tokenizer_config.json)"
        )
    return TEMPLATES[name] if plain == name else _as_text(name)


@functools.lru_cache(maxsize=32)
def _load(path: pathlib.Path, name: str, changed: tuple[int, ...]) -> jinja.JinjaTemplate:
    del changed  # when: a changed file is another template
    return jinja.load(path, name)


@functools.lru_cache(maxsize=64)
def _as_text(name: str) -> Template:
    template = TEMPLATES[name.removesuffix(AS_TEXT)]
    return dataclasses.replace(template, controls=(), optional=(), end="eos", name=name)


def fingerprint(name: str) -> str:
    """Returns what changes whenever the template's text changes: part of a cache's name."""
    return hashlib.sha256(repr(_told(get(name))).encode()).hexdigest()


def _told(value):
    """Returns a template as plain values; what is as by default is left out, so that an upgrade
    may add fields."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _told(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        }
    return {key: _told(one) for key, one in value.items()} if isinstance(value, dict) else value


def render(
    record: records.Record, template: AnyTemplate, weights: Sequence[Weights] | None = None
) -> list[Piece]:
    """Writes a whole conversation once.

    Args:
      weights: for each message; default: every assistant turn and the end token after it weigh
        the message's own weight, all else 0.

    Raises:
      DataError: something the template cannot write, or no assistant turn at the end.

    Example (template "lines"):
      user "Name a prime."  ->  "Name a prime." "\\n"   weight 0
      assistant "2"         ->  "2" <eos>               weight 1
    """
    written = template.render(record, weights)
    return [piece for piece in written if piece.text or piece.starts_response]


def render_prompt(record: records.Record, template: AnyTemplate) -> list[Piece]:
    """Writes the conversation up to its last answer: what a model is given to answer.

    It is the front part of `render` by construction, so that training and inference cannot differ.
    """
    return [piece for piece in template.render_prompt(record) if piece.text]


def ending(template: AnyTemplate) -> str:
    """Returns the name of the control token that ends an assistant's turn ("eos": the own one)."""
    return template.ending()


prompt_of = pieces.prompt_of
