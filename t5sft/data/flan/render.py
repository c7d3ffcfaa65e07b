"""Rendering: rows and patterns become inputs and targets, by (seed, task, index) alone."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from t5sft import errors
from t5sft.data import records
from t5sft.data.flan import choices, options, patterns, shots

NUM_DRAWN = 25  # of FLAN v2's x-shot tasks; on average 2.5 have the query's own pattern of ten


@dataclasses.dataclass(frozen=True)
class Style:
    """How the examples of a task are written, as plain values.

    Args:
      choose: which pattern an example gets; see `patterns.index_of`.
      options: a name in `options.FORMATS`, "random" (drawn for every example), or "none": the
        patterns lose their options block and the answer stays text.
      shots: exemplars before the query; "x" draws 25 and keeps those that have the query's pattern
        themselves, as FLAN v2 does.
      max_length: characters of the inputs of a few-shot example: about FLAN's 1,920 tokens.
      seed: of all draws.
    """

    choose: patterns.Choose = "index"
    options: str = "dash"
    shots: int | Literal["x"] = 0
    max_length: int = 7680
    seed: int = 0

    def __post_init__(self):
        if self.choose not in typing.get_args(patterns.Choose):
            raise errors.ConfigError(f"unknown choose {self.choose!r}; Style; use index or hash")
        if self.options not in ("random", "none"):
            options.get(self.options)
        if self.shots != "x" and not (isinstance(self.shots, int) and self.shots >= 0):
            raise errors.ConfigError(
                f"shots is {self.shots!r}; Style; give a number from 0, or 'x'"
            )


class Rendered(NamedTuple):
    """One written example."""

    inputs: str
    targets: str
    metadata: dict[str, str]  # template: number of the pattern; options: format; shots: how many


def render(
    task: str,
    rows: Sequence[Mapping[str, Any]],
    templates: Sequence[patterns.Pattern],
    style: Style | None = None,
    *,
    exemplars: Sequence[Mapping[str, Any]] | None = None,
) -> Iterator[Rendered | records.Dropped]:
    """Yields every row of a task written, or why it was dropped: no exemplar fitted.

    Args:
      task: its name, part of every draw's key: other tasks never change this one.
      rows: fields of the patterns; `options` a list, which becomes the field `options_`.
      exemplars: rows of the training split for the queries of another split; default `rows`
        themselves, where a query is never its own exemplar.

    Raises:
      DataError: a row lacks a field, or has no list of options where a pattern shows them.
    """
    style = style or Style()
    if not templates:
        raise errors.ConfigError(f"no patterns; task {task!r}; give at least one")
    pool = rows if exemplars is None else exemplars
    for index, row in enumerate(rows):
        number = patterns.index_of(templates, style.choose, seed=style.seed, task=task, index=index)
        pattern = templates[number]
        if style.options == "none":
            pattern = patterns.without_options(pattern)
        name = style.options
        if name == "random":
            name = options.random_name(style.seed, task, index)
        where = f"{task}[{index}], template {number}"
        query, row = write(pattern, row, name, where=where)
        metadata = {"template": str(number)}
        if patterns.shows_options(pattern):
            metadata["options"] = name
        if not style.shots:
            yield Rendered(query.inputs, query.targets, metadata)
            continue
        drawn = _draw(task, templates, style, index, number, len(pool), exemplars is None)
        kept = shots.select(
            query,
            (write(pattern, pool[i], name, where=f"{task}[{i}]")[0] for i in drawn),
            pattern,
            wanted=NUM_DRAWN if style.shots == "x" else style.shots,
            max_length=style.max_length,
        )
        if not kept:
            yield records.Dropped("no exemplar fits")
            continue
        metadata["shots"] = str(len(kept))
        yield Rendered(shots.inputs(query, kept, pattern, row), query.targets, metadata)


def _draw(task, templates, style, index, number, count, is_pool) -> Iterator[int]:
    """Yields the exemplars' rows in the order drawn, never the query's own row."""
    drawn = choices.draw(count, style.seed, task, index, "shots")
    rows = (i for i in drawn if not (is_pool and i == index))
    if style.shots != "x":
        yield from rows
        return
    for _, i in zip(range(NUM_DRAWN), rows, strict=False):
        own = patterns.index_of(templates, style.choose, seed=style.seed, task=task, index=i)
        if own == number:
            yield i


def write(
    pattern: patterns.Pattern, row: Mapping[str, Any], format_name: str, *, where: str = ""
) -> tuple[shots.Shot, Mapping[str, Any]]:
    """Writes one row by one pattern; returns it, and the row with its options block and answer.

    Only where the pattern shows the options is the answer rewritten to the option's name: without
    them a letter would mean nothing. (FLAN v2 rewrites it there too.)
    """
    if patterns.shows_options(pattern):
        row = _with_options(row, format_name, where)
    text = patterns.fill(pattern.inputs, row, where=where)
    return shots.Shot(text, patterns.fill(pattern.targets, row, where=where)), row


def _with_options(row, format_name, where):
    listed = row.get("options")
    if not isinstance(listed, list | tuple) or not listed:
        if any(isinstance(row.get(field), str) for field in patterns.OPTIONS_FIELDS):
            return row  # the row brings its block as text
        raise errors.DataError(
            f"the template shows options, the row has no list `options`; {where}; "
            "add it, or use options='none'"
        )
    fmt = options.get(format_name)
    listed = [str(option) for option in listed]
    text = options.block(listed, fmt)
    row = {**row, **dict.fromkeys(patterns.OPTIONS_FIELDS, text)}
    if "answer" in row:
        row["answer"] = options.answer(str(row["answer"]), listed, fmt)
    return row
