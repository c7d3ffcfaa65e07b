"""Rank classification: the candidate a model finds likeliest is its answer.

Wei et al. 2022 (FLAN, arXiv:2109.01652), section 2.4; Sanh et al. 2022 (T0, arXiv:2110.08207),
section 5. Log-probabilities are sums over the candidate's tokens, without z-loss or label
smoothing; whether the end token is among them is the caller's to say: T5's sums hold it, those of
lm-evaluation-harness do not.
"""

import statistics as numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from t5sft.evaluate.answers import statistics

Normalisation = Literal["sum", "token", "character", "byte"]
NORMALISATIONS: tuple[Normalisation, ...] = ("sum", "token", "character", "byte")


class Question(NamedTuple):
    """The candidates of one question."""

    key: int | str  # a name that no other question has
    candidates: Sequence[str]  # [E]
    logprobs: Sequence[float]  # [E], nats
    num_tokens: Sequence[int]  # [E]
    right: Collection[int]  # any of these counts
    weight: float = 1.0


def scores(question: Question, normalisation: Normalisation = "sum") -> list[float]:
    """Returns the log-probability of each candidate, divided by its length.

    The length is 1, or counted in tokens, in characters without a space in front, or in UTF-8 bytes
    (lm-evaluation-harness: acc, -, acc_norm, acc_bytes). An empty candidate counts as 1 long.

    Example (the three find another candidate best):
      candidates  "ja"  "\\u306f\\u3044\\u3002"  "certainly"
      logprobs    -2.0  -2.7                    -6.3
      tokens       1     3                       3
      sum         -2.0  -2.7                    -6.3     the first
      token       -2.0  -0.9                    -2.1     the second
      character   -1.0  -0.9                    -0.7     the third
      byte        -1.0  -0.3                    -0.7     the second
    """
    lengths: dict[str, Sequence[int]] = {
        "sum": [1] * len(question.candidates),
        "token": question.num_tokens,
        "character": [len(text.removeprefix(" ")) for text in question.candidates],
        "byte": [len(text.removeprefix(" ").encode()) for text in question.candidates],
    }
    pairs = zip(question.logprobs, lengths[normalisation], strict=True)
    return [logprob / max(length, 1) for logprob, length in pairs]


def choose(values: Sequence[float]) -> int:
    """Returns the place of the greatest; of equal ones the first."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def accuracy(questions: Sequence[Question]) -> statistics.Scores:
    """Returns accuracy_sum, accuracy_token, accuracy_character and accuracy_byte, in [0, 1].

    With two candidates everywhere and one right, auc_sum, too.

    Raises:
      ValueError: a question comes twice (hosts that gather alike would do that unseen), lists of
        unequal length, or a right candidate that is none.
    """
    if len({question.key for question in questions}) != len(questions):
        raise ValueError("a question comes twice")
    for question in questions:
        sizes = {len(question.candidates), len(question.logprobs), len(question.num_tokens)}
        if len(sizes) != 1 or not set(question.right) <= set(range(len(question.candidates))):
            raise ValueError(f"question {question.key}: lists of {sizes}, right {question.right}")
    verdicts: list[dict] = [{} for _ in questions]
    values, errors = {}, {}
    total = sum(question.weight for question in questions)
    for name in NORMALISATIONS:
        for verdict, question in zip(verdicts, questions, strict=True):
            verdict[name] = choose(scores(question, name))
        right = [v[name] in q.right for v, q in zip(verdicts, questions, strict=True)]
        weighted = sum(q.weight * r for q, r in zip(questions, right, strict=True))
        values[f"accuracy_{name}"] = weighted / total if total else 0.0
        is_plain = len({question.weight for question in questions}) < 2
        errors[f"accuracy_{name}"] = statistics.mean(right)[1] if is_plain else None
    if questions and all(len(q.candidates) == 2 and len(q.right) == 1 for q in questions):
        margins = [q.logprobs[1] - q.logprobs[0] for q in questions]
        values["auc_sum"] = auc(margins, [1 in q.right for q in questions])
        errors["auc_sum"] = None
    return statistics.Scores(values, errors, verdicts)


def auc(margins: Sequence[float], is_positive: Sequence[bool]) -> float:
    """Returns how often a positive's margin exceeds a negative's; equal ones count half.

    Of one class only it is 0.5.
    """
    up = [m for m, positive in zip(margins, is_positive, strict=True) if positive]
    down = [m for m, positive in zip(margins, is_positive, strict=True) if not positive]
    if not (up and down):
        return 0.5
    wins = sum((p > n) + 0.5 * (p == n) for p in up for n in down)
    return wins / (len(up) * len(down))


def over_templates(
    test: Mapping[str, float], validation: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Summarises the accuracies of one task under several templates.

    Args:
      test: template -> accuracy.
      validation: likewise; the template best there gives best_validation_template (FLAN, section 3;
        ties: the first by name).

    Returns:
      mean, median, spread (the greatest minus the least; T0 shows the interquartile range, too, as
      interquartile_range), and best_validation_template.
    """
    values = sorted(test.values())
    if not values:
        raise ValueError("no template")
    quartiles = numbers.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [0.0] * 3
    out = {
        "mean": sum(values) / len(values),
        "median": numbers.median(values),
        "spread": values[-1] - values[0],
        "interquartile_range": quartiles[2] - quartiles[0],
    }
    if validation is not None:
        best = max(sorted(validation), key=lambda name: validation[name])
        out["best_validation_template"] = test[best]
    return out
