"""Figures of prepared splits: how well rows fill, how long examples are, how some of them look.

Computed from the arrays of a cache when someone asks; what was counted while tokenising is in the
card itself, see `data_card`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from t5sft import errors
from t5sft.data import batches, cache, templates, units, vocab
from t5sft.data.settings import Data

_MAX_BLOCKS = 8  # of the stream, from which packing is measured
_NUM_BINS = 40


class Span(NamedTuple):
    """Tokens side by side with one role and one loss weight, as text."""

    side: str  # "inputs" or "targets"
    role: str
    weight: float
    text: str
    is_control: bool  # a control token, by its name


def parse_lengths(texts: Sequence[str], data: Data, layout: str) -> list[tuple[int, int]]:
    """Reads "2048" (a decoder's row) or "1024,512" (rows of encoder and decoder).

    Raises:
      ConfigError: it is neither.
    """
    out = []
    for text in texts:
        parts = [part.strip() for part in str(text).split(",")]
        most = 1 if layout == "decoder" else 2
        if len(parts) > most or not all(part.isdecimal() and int(part) > 0 for part in parts):
            form = "2048" if layout == "decoder" else "1024,512 (encoder,decoder)"
            raise errors.ConfigError(f"no length {text!r}; --sequence_length; write {form}")
        first, last = int(parts[0]), int(parts[-1])
        out.append((data.encoder_length if layout == "decoder" else first, last))
    return out


def packing(
    split: cache.Split, layout: str, lengths: tuple[int, int], *, seed: int
) -> dict[str, float | int | str]:
    """Measures how training's own rows of these lengths are filled.

    Units longer than such a row are left out and counted.

    Returns:
      {"sequence_length": "1024,512", "efficiency": share of places that hold tokens (of an
      encoder-decoder: on its fuller side), "inputs", "targets": of each side, "rows": of an epoch,
      "examples_per_row", "too_long": units that do not fit}
    """
    shift = 1 if layout == "decoder" else 0
    every = units.Units(split.tasks, layout)
    fits = np.all(every.costs <= np.asarray(lengths), axis=1)
    tasks, begin = {}, 0
    for task, size in every.sizes.items():
        mine = slice(begin, begin + size)
        costs = every.costs[mine][fits[mine]] + (0, shift)
        begin += size
        if len(costs):
            ends = np.concatenate([[(0, 0)], np.cumsum(costs, axis=0)])
            tasks[task] = cache.Examples({}, ends[:, 0], ends[:, 1], np.arange(len(costs)))
    two = layout == "encoder_decoder"
    name = f"{lengths[0]},{lengths[1]}" if two else str(lengths[1])
    out: dict[str, float | int | str] = {
        "sequence_length": name, "efficiency": 0.0, "inputs": 0.0, "targets": 0.0, "rows": 0,
        "examples_per_row": 0.0, "too_long": int((~fits).sum()),
    }  # fmt: skip
    if not tasks:
        return out
    # Of a unit of several examples only the sum of lengths counts: here it is one example.
    whole = split._replace(tasks=tasks, rates={task: split.rates[task] for task in tasks})
    source = batches.Batches(
        whole, layout=layout, batch_size=1, encoder_length=lengths[0], decoder_length=lengths[1],
        start_id=0, seed=seed,
    )  # fmt: skip
    rows, drawn = 0, 0
    filled = np.zeros(2)
    table = {task: one.lengths() - (0, shift) for task, one in tasks.items()}
    for block in range(_MAX_BLOCKS):
        found = source.rows(block)
        rows += len(found)
        for task, numbers in _by_task(found).items():
            drawn += len(numbers)
            filled += table[task][numbers].sum(axis=0)
        if drawn >= sum(len(one) for one in tasks.values()):
            break
    inputs, targets = (filled / (rows * np.asarray(lengths, np.float64))).tolist()
    epochs = drawn / sum(len(one) for one in tasks.values())
    out |= {"inputs": inputs if two else 0.0, "targets": targets, "rows": round(rows / epochs)}
    out |= {"efficiency": max(inputs, targets) if two else targets}
    return out | {"examples_per_row": drawn / rows}


def _by_task(rows: Sequence[batches.Row]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for row in rows:
        for task, number in row:
            out.setdefault(task, []).append(number)
    return out


class Histogram(NamedTuple):
    """Counts of lengths in bins of equal width; the last bin holds all longer ones."""

    edges: list[int]  # [bins + 1]
    counts: list[int]


def histogram(lengths: np.ndarray) -> Histogram | None:
    """Returns how often lengths occur, up to their 99.5th percentile; None if all are 0."""
    if not lengths.any():
        return None
    top = max(int(np.percentile(lengths, 99.5)), int(lengths.min()) + 1, 2)
    width = max(-(-top // _NUM_BINS), 1)
    edges = np.arange(0, top + width, width)
    counts, _ = np.histogram(np.minimum(lengths, edges[-1] - 1), edges)
    return Histogram(edges.tolist(), counts.tolist())


def lengths_of(split: cache.Split) -> np.ndarray:
    """Returns [n, 2]: tokens of inputs and targets of all examples."""
    return np.concatenate([examples.lengths() for examples in split.tasks.values()])


def samples(split: cache.Split, vocabulary: vocab.Vocabulary, num: int = 6) -> list[dict]:
    """Returns examples of different tasks as spans of text with role and weight."""
    names = list(split.tasks)
    chosen = [names[i * len(names) // num] for i in range(num)] if len(names) > num else names
    each = -(-num // len(chosen))
    out: list[dict] = []
    for turn in range(num):
        task, examples = chosen[turn % len(chosen)], split.tasks[chosen[turn % len(chosen)]]
        index = turn // len(chosen) * max(len(examples) // each, 1)
        if index >= len(examples):
            continue
        example = examples.get(index)
        out.append(
            {
                "task": task,
                "example": index,
                "record": int(examples.numbers[index]),
                "tokens": len(example.inputs.ids) + len(example.targets.ids),
                "learnt_tokens": int((example.targets.weights > 0).sum()),
                "spans": [span._asdict() for span in spans(example, vocabulary)],
            }
        )
    return out


def spans(example, vocabulary: vocab.Vocabulary) -> Iterator[Span]:
    """Yields the text of an example, cut where role or weight change; control tokens apart."""
    for side in ("inputs", "targets"):
        ids, weights, roles = getattr(example, side)
        is_control = np.array([not vocabulary.decode([int(i)]) for i in ids], bool)
        columns = (np.asarray(column).tolist() for column in (roles, weights, is_control))
        keys = list(zip(*columns, strict=True))
        begin = 0
        for end in range(1, len(keys) + 1):
            if end < len(keys) and keys[end] == keys[begin] and not is_control[begin]:
                continue
            role, weight, control = keys[begin]
            text = _text([int(i) for i in ids[begin:end]], vocabulary, control, begin == 0)
            yield Span(side, templates.ROLES[role], round(weight, 4), text, bool(control))
            begin = end


def _text(ids: list[int], vocabulary: vocab.Vocabulary, is_control: bool, is_first: bool) -> str:
    if is_control:
        return vocabulary.piece(ids[0])
    text = vocabulary.decode(ids)
    # Decoders take the first space off: here it stands between two spans.
    lost = not is_first and vocabulary.piece(ids[0]).startswith(" ") and not text.startswith(" ")
    return " " + text if lost else text
