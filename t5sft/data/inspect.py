"""Inspecting: examples as the model will see them, token by token."""

import dataclasses
import os
import sys
from collections.abc import Iterator

import numpy as np

from t5sft.data import batches, prepare, templates, vocab

_RED, _GREEN, _GREY, _BOLD, _END = "\033[31m", "\033[32m", "\033[90m", "\033[1m", "\033[0m"


def inspect(
    *, model, data: prepare.Data, task: str | None = None, split: str = "train", num: int = 3
) -> dict:
    """Prints the first packed rows of a task or mixture: tokens, text, role, weight, segment.

    Args:
      model: a ModelDef; only its layout counts.
      task: another task or mixture than the run's.
      num: how many rows.

    Returns:
      {"rows": [[{"side", "token", "text", "role", "weight", "segment", "position"}, ...], ...]}
    """
    if task is not None:
        data = dataclasses.replace(data, task=task)
    (prepared,) = prepare.Preparation(data, model.layout, [split]).result()
    vocabulary = vocab.load(data.vocabulary)
    source = batches.Batches(
        prepared,
        layout=model.layout,
        batch_size=1,
        encoder_length=data.encoder_length,
        decoder_length=data.decoder_length,
        start_id=vocabulary.pad_id,
        seed=data.seed,
    )
    print(prepare.describe(split, prepared.card), file=sys.stderr)
    in_colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    out, rows = [], iter(_first_rows(source, num))
    for number, row in enumerate(rows, 1):
        tokens = list(_tokens(source, row, vocabulary))
        out.append(tokens)
        for line in _lines(number, row, tokens, in_colour):
            print(line, file=sys.stderr)
    return {"rows": out}


def _first_rows(source, num: int) -> Iterator[list]:
    for rows in source.once():
        for row in rows:
            if num <= 0 or not row:
                return
            num -= 1
            yield row


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


def _lines(number: int, row, tokens, in_colour: bool) -> Iterator[str]:
    def paint(text, colour):
        return f"{colour}{text}{_END}" if in_colour else text

    learnt = sum(token["weight"] > 0 for token in tokens)
    yield paint(f"row {number}: {len(row)} examples, {len(tokens)} tokens, {learnt} learnt", _BOLD)
    for segment, (task, index) in enumerate(row, 1):
        yield paint(f"  segment {segment}: {task}[{index}]", _BOLD)
        yield paint("    side     segment  position  token  role       weight  text", _GREY)
        for token in tokens:
            if token["segment"] == segment:
                colour = _GREEN if token["weight"] > 0 else _RED
                yield paint(
                    f"    {token['side']:<8} {token['segment']:>7}  {token['position']:>8}  "
                    f"{token['token']:>5}  {token['role']:<9}  {token['weight']:>6.2g}  "
                    f"{token['text']!r}",
                    colour,
                )
