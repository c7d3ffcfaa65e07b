"""promptsource's templates: YAML files of Jinja prompts (bigscience-workshop/promptsource).

279 files, 2,085 templates, Apache 2.0; none is shipped here. Only plain YAML and promptsource's two
tags are read, and the Jinja runs in `sandbox`: a file from a stranger cannot run code.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from t5sft import errors
from t5sft.data.flan import choices, sandbox

MAX_BYTES = 8 << 20  # promptsource's largest has 60 kB
MAX_DEPTH = 20  # of YAML; a template lies three deep
_SEPARATOR = "|||"
_GUARD = "\ue000"  # stands for the separator in a row's own text


class Prompt(NamedTuple):
    """One template of a data set."""

    name: str
    jinja: str
    answer_choices: str | None
    metadata: Mapping[str, Any]
    where: str


class Applied(NamedTuple):
    """What a template makes of a row."""

    inputs: str
    targets: str
    choices: list[str] | None  # the possible answers, where the template knows them


_Plain: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first where C code was built


class _Loader(_Plain):
    """Plain YAML and two tags that become dicts; any other tag is an error."""


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_mapping(node, deep=True))


def read(path: pathlib.Path) -> list[Prompt]:
    """Returns the templates of a templates.yaml, by name.

    Raises:
      DataError: no such YAML, with line and column where known.
    """
    if path.stat().st_size > MAX_BYTES:
        raise errors.DataError(f"larger than {MAX_BYTES} bytes; {path}; give a templates.yaml")
    try:
        text = path.read_bytes().decode("utf-8")
        _check_events(text)
        tree = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise errors.DataError(f"not promptsource's YAML: {what}; {path}; mend it") from error
    found = tree.get("templates") if isinstance(tree, dict) else None
    if not isinstance(found, dict) or not found:
        raise errors.DataError(f"no `templates`; {path}; give a templates.yaml of promptsource")
    prompts = [_prompt(path, key, fields) for key, fields in found.items()]
    return sorted(prompts, key=lambda prompt: (prompt.name, prompt.where))


def _check_events(text: str):
    """Refuses what could grow: depth, and merged mappings. An alias alone copies nothing."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise ValueError(f"a merged mapping, line {event.start_mark.line + 1}")


def _prompt(path, key, fields) -> Prompt:
    where = f"{path}, template {key}"
    if not isinstance(fields, dict):
        raise errors.DataError(f"a template is no mapping; {where}; mend it")
    name, jinja, answers = (fields.get(x) for x in ("name", "jinja", "answer_choices"))
    if not isinstance(name, str) or not isinstance(jinja, str):
        raise errors.DataError(f"a template has no text `name` or `jinja`; {where}; mend it")
    if answers is not None and not isinstance(answers, str):
        raise errors.DataError(f"answer_choices is no text; {where}; mend it")
    metadata = fields.get("metadata")
    return Prompt(name, jinja, answers, metadata if isinstance(metadata, dict) else {}, where)


class Writer:
    """Applies one template to rows."""

    def __init__(self, prompt: Prompt):
        self.prompt = prompt
        self._jinja = self._compile(prompt.jinja)
        self._answers = self._compile(prompt.answer_choices) if prompt.answer_choices else None

    def _compile(self, source: str) -> sandbox.Template:
        try:
            return sandbox.Template(source)
        except sandbox.Bounded as error:
            raise errors.DataError(f"{error}; {self.prompt.where}; mend the template") from error

    def apply(self, row: Mapping[str, Any], *key) -> Applied | None:
        """Writes a row, or returns None where the template has no target for it.

        Args:
          key: of the draws of the filter `choice`: (seed, task, index).

        Raises:
          DataError: the row lacks a field that the template reads, or the template fails or asks
            for more than `sandbox` allows.

        Example ("{{a}}? ||| {{answer_choices[b]}}", choices "no ||| yes"):
          {"a": "Ready", "b": 1}   Applied("Ready?", "yes", ["no", "yes"])
        """
        guard = _GUARD
        while _holds(row, guard):
            guard += _GUARD
        values = _replaced(row, _SEPARATOR, guard)
        needed = self._jinja.names | (self._answers.names if self._answers else set())
        for name in sorted(needed - {"answer_choices"} - set(row)):
            raise errors.DataError(
                f"the template needs the field {name!r}{errors.suggest(name, row)}; "
                f"{self.prompt.where}; the row has {', '.join(sorted(row)) or 'no fields'}"
            )
        draws = iter(range(1 << 62))

        def choose(count):
            return choices.number(count, *key, self.prompt.name, next(draws))

        def split(template, values):
            parts = template.render(values, choose).split(_SEPARATOR)
            return [part.strip().replace(guard, _SEPARATOR) for part in parts]

        try:
            answers = split(self._answers, values) if self._answers else None
            listed = answers and [_replaced(answer, _SEPARATOR, guard) for answer in answers]
            parts = split(self._jinja, {**values, "answer_choices": listed})
        except sandbox.Bounded as error:
            raise errors.DataError(f"{error}; {self.prompt.where}; mend the template") from error
        if len(parts) > 2:
            raise errors.DataError(f"more than one |||; {self.prompt.where}; mend the template")
        if len(parts) < 2 or not parts[1] or not parts[0]:
            return None
        return Applied(parts[0], parts[1], answers)


def _holds(value: Any, text: str) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(item, text) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_holds(item, text) for item in value)
    return isinstance(value, str) and text in value


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value
