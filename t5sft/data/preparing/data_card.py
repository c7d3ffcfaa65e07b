"""The data card: what a prepared split holds, in figures.

Counted while tokenising: read, kept, dropped (by reason), truncated (by how), examples, tokens,
learnt_tokens. From the arrays: lengths, duplicates, and answers that do not vary. A sum over tasks
where sums make sense.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

PERCENTILES = (5, 25, 50, 75, 95, 99)
_ENOUGH = 20  # examples of a template from which a lack of different answers is worth a warning
_LITTLE_BITS = 0.2  # entropy of the answers of a template below which it is told


def of_task(rate: float, counts: Mapping[str, int], summary) -> dict:
    """Returns the card of one task.

    Args:
      counts: summed over the task's parts.
      summary: `parts.Summary`.
    """
    return {
        "rate": rate,
        **counts,
        "lengths": {
            side: percentiles(summary.lengths[:, i]) for i, side in enumerate(("inputs", "targets"))
        },
        "duplicates": int(len(summary.hashes) - len(np.unique(summary.hashes))),
        "content": summary.content,
        "warnings": answer_warnings(summary.answers, summary.groups, summary.names),
    }


def total(tasks: Mapping[str, Mapping]) -> dict[str, int]:
    """Sums the counts of all tasks."""
    out: Counter = Counter()
    for entry in tasks.values():
        out.update({k: v for k, v in entry.items() if isinstance(v, int)})
    return {key: out[key] for key in ("read", "kept", "dropped", "truncated", *sorted(out))}


def percentiles(lengths: np.ndarray) -> dict[str, float]:
    """Returns {"mean", "p5", ..., "p99", "max"} of token counts."""
    if not lengths.any():
        return {}
    values = np.percentile(lengths, PERCENTILES, method="lower")
    named = {f"p{p}": int(value) for p, value in zip(PERCENTILES, values, strict=True)}
    return {"mean": round(float(lengths.mean()), 1), **named, "max": int(lengths.max())}


def answer_warnings(answers: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names the templates (or the task) whose answers hardly differ.

    A set whose every answer is the same teaches nothing but that answer; some public ones are so
    because of how they were cut.

    Args:
      answers: [n], equal where answers are equal.
      groups: [n], index into `names`, the templates; "" stands for the task.
    """
    out = []
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(len(names) + 1))
    for name, start, stop in sorted(zip(names, starts, starts[1:], strict=False)):
        if stop - start < _ENOUGH:
            continue
        counts = np.unique(answers[order[start:stop]], return_counts=True)[1]
        bits = entropy(counts)
        what = f"template {name}" if name else "the task"
        if len(counts) == 1:
            out.append(f"{what}: one single answer to all {stop - start} examples")
        elif bits < _LITTLE_BITS:
            share = 100 * counts.max() / (stop - start)
            out.append(
                f"{what}: {share:.1f} % of {stop - start} examples have the same answer "
                f"({bits:.2f} bits)"
            )
    return out


def entropy(counts: np.ndarray) -> float:
    """Returns the entropy of a distribution given by counts, in bits."""
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum() + 0.0)
