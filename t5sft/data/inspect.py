"""Inspecting: examples as the model will see them, token by token."""

import dataclasses
import itertools
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from t5sft import errors
from t5sft.data import batches, cache, mixture, page, prepare, templates, vocab

_RED, _GREEN, _GREY, _BOLD, _END = "\033[31m", "\033[32m", "\033[90m", "\033[1m", "\033[0m"
_TOLD_ROWS = 200_000  # rows to plan, above which someone waits: some 3 s a core


def inspect(
    *,
    model,
    data: prepare.Data,
    task: str | None = None,
    split: str = "train",
    num: int | None = None,
    step: int | None = None,
    batch_size: int = 1,
    pack: bool = True,
    mixing: mixture.Mixing | None = None,
    seed: int = 0,
    html: str | None = None,
) -> dict:
    """Prints packed rows of a task or mixture: tokens, text, role, weight, segment.

    Args:
      model: a ModelDef; only its layout counts.
      task: another task or mixture than the run's.
      num: how many rows; None: three, or the whole batch of a step.
      step: the batch of this train step, counted as the log does: the first is 1. With the run's
        batch_size, pack, mixing and seed it is the very batch; all rows before it are planned.
        None: each example once, packed.
      html: a file to write them to as a page.

    Returns:
      {"rows": [[{"side", "token", "text", "role", "weight", "segment", "position"}, ...], ...],
       "segments": of each row [{"segment", "task", "example", "record", "label"}, ...],
       "step", "page"}
    """
    if task is not None:
        data = dataclasses.replace(data, task=task)
    if step is not None and step < 1:
        raise errors.ConfigError(f"no step {step}; --step; the first is 1")
    (prepared,) = prepare.Preparation(data, model.layout, [split]).result()
    vocabulary = vocab.load(data.vocabulary)
    source = batches.Batches(
        prepared,
        layout=model.layout,
        batch_size=1 if step is None else batch_size,
        encoder_length=data.encoder_length,
        decoder_length=data.decoder_length,
        start_id=vocabulary.pad_id,
        seed=seed,
        pack=pack,
        mixing=mixing,
    )
    if step is None:
        every = (row for many in source.once() for row in many if row)
        rows = list(itertools.islice(every, 3 if num is None else max(num, 0)))
    else:
        if step * batch_size > _TOLD_ROWS:
            before = f"{(step - 1) * batch_size:,} rows before step {step:,}"
            print(f"planning the {before}, some 0.2 s for 10,000", file=sys.stderr, flush=True)
        rows = source.batch_rows(source.position(step - 1))[0][:num]
    print(prepare.describe(split, prepared.card), file=sys.stderr)
    in_colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    tokens = [list(_tokens(source, row, vocabulary)) for row in rows]
    segments = [list(_segments(prepared, row)) for row in rows]
    for number, (named, shown) in enumerate(zip(segments, tokens, strict=True), 1):
        for line in _lines(number, named, shown, in_colour):
            print(line, file=sys.stderr)
    path = None
    if html is not None:
        title = f"{data.task}, {split}" + (f": the batch of step {step}" if step else "")
        path = pathlib.Path(html).expanduser().absolute()
        page.write(path, title, _page(title, tokens, segments, vocabulary))
        print(f"page: {path}", file=sys.stderr)
    return {"rows": tokens, "segments": segments, "step": step, "page": path and str(path)}


def _segments(prepared: cache.Split, row: batches.Row) -> Iterator[dict]:
    """Yields what shares a row, in the order of its segments."""
    for segment, (task, index) in enumerate(row, 1):
        examples = prepared.tasks[task]
        label = None if examples.labels is None else float(examples.labels[index])
        yield {
            "segment": segment,
            "task": task,
            "example": index,
            "record": int(examples.numbers[index]),
            "label": None if label is None or math.isnan(label) else label,
        }


def _tokens(source, row, vocabulary) -> Iterator[dict]:
    """Yields every token of a row from the very arrays the model gets."""
    arrays = {name: array[0] for name, array in source.convert([row]).items()}
    examples = [source.example(task, i) for task, i in row]
    for side in ("encoder", "decoder"):
        if f"{side}_segment_ids" not in arrays:
            continue
        segments = arrays[f"{side}_segment_ids"]
        name = "encoder_input_tokens" if side == "encoder" else "decoder_target_tokens"
        for place in np.flatnonzero(segments):
            segment, position = int(segments[place]), int(arrays[f"{side}_positions"][place])
            inputs, targets = examples[segment - 1]
            shift = 1 if "encoder_segment_ids" not in arrays else 0  # a decoder predicts the next
            roles = inputs.roles if side == "encoder" else targets.roles[shift:]
            weight = 0.0 if side == "encoder" else float(arrays["decoder_loss_weights"][place])
            token = int(arrays[name][place])
            yield {
                "side": side,
                "token": token,
                "text": vocabulary.piece(token),
                "role": templates.ROLES[int(roles[position])],
                "weight": weight,
                "segment": segment,
                "position": position,
            }


def _title(named: dict) -> str:
    label = "" if named["label"] is None else f", label {named['label']:g}"
    return f"segment {named['segment']}: {named['task']}[{named['record']}]{label}"


def _head(number: int, named: Sequence[dict], tokens: Sequence[dict]) -> str:
    learnt = sum(token["weight"] > 0 for token in tokens)
    return f"row {number}: {len(named)} examples, {len(tokens)} tokens, {learnt} learnt"


def _lines(
    number: int, segments: Sequence[dict], tokens: Sequence[dict], in_colour: bool
) -> Iterator[str]:
    def paint(text, colour):
        return f"{colour}{text}{_END}" if in_colour else text

    yield paint(_head(number, segments, tokens), _BOLD)
    for named in segments:
        yield paint(f"  {_title(named)}", _BOLD)
        yield paint("    side     segment  position  token  role       weight  text", _GREY)
        for token in tokens:
            if token["segment"] == named["segment"]:
                colour = _GREEN if token["weight"] > 0 else _RED
                yield paint(
                    f"    {token['side']:<8} {token['segment']:>7}  {token['position']:>8}  "
                    f"{token['token']:>5}  {token['role']:<9}  {token['weight']:>6.2g}  "
                    f"{token['text']!r}",
                    colour,
                )


def _page(title: str, rows, segments, vocabulary: vocab.Vocabulary) -> Iterator[str]:
    """The rows as a page: each token a stretch that tells its figures when pointed at."""
    yield f"<h1>{page.escape(title)}</h1>"
    yield '<p class="lead">Point at a token for its number, role, weight and position.</p>'
    yield page.legend()
    for number, (named, tokens) in enumerate(zip(segments, rows, strict=True), 1):
        yield f"<h2>{page.escape(_head(number, named, tokens))}</h2>"
        for one in named:
            parts = []
            for side in ("encoder", "decoder"):
                mine = [t for t in tokens if t["segment"] == one["segment"] and t["side"] == side]
                shown = [_shown(token, vocabulary) for token in mine]
                parts += [f'<div class="who">{side}</div>{page.spans(shown)}'] if mine else []
            yield page.box(_title(one), "".join(f'<div class="sample">{x}</div>' for x in parts))


def _shown(token: dict, vocabulary: vocab.Vocabulary) -> dict:
    hint = f"token {token['token']}, position {token['position']}, {token['role']}"
    is_control = not vocabulary.decode([token["token"]])
    return {**token, "role": hint, "is_control": is_control}
