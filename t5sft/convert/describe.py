"""A model as JSON, for run.json, and as a gin file."""

import dataclasses
import importlib
import re
from collections.abc import Mapping
from typing import Any

from t5sft import errors
from t5sft.models import model as model_lib

_CLASS = re.compile(r"([a-z][a-z0-9_]*)\.([A-Z][A-Za-z0-9]*)")
_PACKAGE = "t5sft.models"


def to_json(model: Any) -> dict[str, Any]:
    """Returns the class and all fields of a model, as JSON can hold them.

    Example:
      {"class": "t5.T5", "vocab_size": 32128, "emb_dim": 512, ...}
    """
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return {"class": _class(model)} | {
        name: to_json(value) if dataclasses.is_dataclass(value) else value
        for name, value in fields.items()
    }


def from_json(description: Mapping[str, Any]) -> Any:
    """Returns the model that `to_json` described; only classes of t5sft.models are looked up.

    A field that a later t5sft added has its default.

    Raises:
      CheckpointError: there is no such class or field.
    """
    try:
        values = dict(description)
        match = _CLASS.fullmatch(str(values.pop("class", "")))
        if match is None:
            raise ValueError("no class of a model")
        made = getattr(importlib.import_module(f"{_PACKAGE}.{match[1]}"), match[2])
        if not (isinstance(made, type) and dataclasses.is_dataclass(made)):
            raise ValueError(f"{match[0]} is no model")
        return made(**{name: _value(value) for name, value in values.items()})
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise errors.CheckpointError(
            f"the description of its model cannot be read ({error}); run.json; was it written by "
            "a later t5sft?"
        ) from error


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return from_json(value)
    return tuple(map(_value, value)) if isinstance(value, list) else value


def to_gin(model: model_lib.Model, comment: str = "") -> str:
    """Returns a gin file that binds MODEL, as those of gin/models; without defaults."""
    parts: dict[str, list[str]] = {}
    name = _gin(model, parts)
    modules = sorted({selector.partition(".")[0] for selector in parts})
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += ["from __gin__ import dynamic_registration"]
    lines += [f"from {_PACKAGE} import {module}" for module in modules]
    for selector, bindings in parts.items():
        lines += ["", f"{selector}:", *bindings] if bindings else []
    return "\n".join([*lines, "", f"MODEL = @{name}()", ""])


def _gin(value: Any, parts: dict[str, list[str]]) -> str:
    """Adds the bindings of a dataclass, after those of what it holds."""
    bindings = []
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if field.default is not dataclasses.MISSING and held == field.default:
            continue
        text = f"@{_gin(held, parts)}()" if dataclasses.is_dataclass(held) else repr(held)
        bindings.append(f"  {field.name} = {text}")
    parts[_class(value)] = bindings
    return _class(value)


def _class(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
