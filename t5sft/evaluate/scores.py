"""Scores: SeqIO metric and postprocess functions, for tasks to name.

define.add_task(name, source, metric_fns=[scores.rouge])
define.add_task(name, scores.tile(...), metric_fns=[scores.rank_classification],
                postprocess_fn=scores.option)
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from t5sft.data import records
from t5sft.evaluate.answers import calibration, ranking, text


class References(NamedTuple):
    """The right answers of an example, and what copying would answer; see `references`."""

    right: tuple[str, ...]
    input: str | None = None
    demonstration: str | None = None


def _pairs(targets: Sequence, predictions: Sequence) -> list[list[str]]:
    """The references of each prediction; a target may be several of them."""
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets and {len(predictions)} predictions")
    rights = [one.right if isinstance(one, References) else one for one in targets]
    return [[one] if isinstance(one, str) else list(one) for one in rights]


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share of predictions that equal their target, but for white space at the ends.

    Example:
      targets "red", "a cat";  predictions "red ", "cat"   exact_match 0.5
    """
    return text.exact_match(_pairs(targets, predictions), predictions).values


def squad(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """SQuAD's em and f1, in percent."""
    return text.squad(_pairs(targets, predictions), predictions).values


def rouge(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """T5's rouge1, rouge2 and rougeLsum, in percent."""
    return text.rouge(_pairs(targets, predictions), predictions).values


def rouge_l(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """Super-NaturalInstructions' rougeL, in percent: the best of the references.

    Where the targets of `references` tell what copying would answer: copy_input_rougeL and
    copy_demonstration_rougeL beside it.
    """
    copies = {
        f"{name}s": [getattr(one, name, None) for one in targets]
        for name in ("input", "demonstration")
    }
    known: dict[str, Any] = {k: column for k, column in copies.items() if None not in column}
    values = text.rouge_l(_pairs(targets, predictions), predictions, **known).values
    return {name: value for name, value in values.items() if name.endswith("rougeL")}


def bleu(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """sacrebleu's corpus BLEU: bleu (13a) and bleu_intl (T5's)."""
    return text.bleu(_pairs(targets, predictions), predictions, num_resamples=1).values


def references(target: str, *, example: dict | None = None, is_target: bool = False) -> Any:
    """SeqIO postprocess function: a target becomes the `References` of its record, predictions
    stay.

    The record's metadata: `references`, a JSON list of the right answers (without it the target is
    the only one), and `input` and `demonstration`, what the baselines copy.
    """
    if not is_target or example is None or "record" not in example:
        return target
    told = json.loads(example["record"]).get("metadata", {})
    right = tuple(json.loads(told["references"])) if "references" in told else (target,)
    return References(right, told.get("input"), told.get("demonstration"))


class Option(NamedTuple):
    """One candidate of a question, as `option` makes it of an example of `tile`."""

    key: str  # of the question
    template: str
    text: str
    is_right: bool
    num_tokens: int


def tile(
    questions: Iterable[tuple[Any, Sequence[str], Sequence[int]]],
) -> Iterator[records.Record | records.Dropped]:
    """Yields a record for every candidate of every question: what rank classification scores.

    Sanh et al. 2022 (T0), tasks `..._score_eval`; t5/data/preprocessors.py: rank_classification.

    Args:
      questions: (record, candidates, right): the record's last message is replaced by each
        candidate; its metadata `template` tells which of several templates wrote it, `question`
        which question it is (by default the record's place).
    """
    for place, (record, candidates, right) in enumerate(questions):
        if isinstance(record, records.Dropped):
            yield record
            continue
        for i, candidate in enumerate(candidates):
            own = {"question": str(place), **record.metadata, "is_right": str(int(i in right))}
            messages = (*record.messages[:-1], records.Message("assistant", candidate))
            yield record._replace(messages=messages, metadata=own)


def option(target: str, *, example: dict, is_target: bool) -> Any:
    """SeqIO postprocess function: makes an Option of an example of `tile`."""
    if not is_target:
        return target
    told = json.loads(example["record"])["metadata"]
    return Option(
        told["question"],
        told.get("template", ""),
        target,
        told["is_right"] == "1",
        int(example["num_target_tokens"]),
    )


def rank_classification(targets: Sequence[Option], scores: Sequence[float]) -> dict[str, float]:
    """Rank classification: the candidate with the greatest log-likelihood is the answer.

    accuracy_sum (T0, FLAN), accuracy_token, accuracy_character, accuracy_byte; with two candidates
    everywhere, auc_sum; calibration of the probabilities among the candidates. Where questions were
    written by several templates, the accuracies above are over all of them, and
    accuracy_sum/template_NAME, template_mean, _median, _spread, _interquartile_range tell how much
    the template matters.
    """
    groups: dict[tuple[str, str], list[tuple[Option, float]]] = {}
    for target, value in zip(targets, scores, strict=True):
        groups.setdefault((target.template, target.key), []).append((target, float(value)))
    questions = [
        ranking.Question(
            "\n".join(key),
            [one.text for one, _ in group],
            [value for _, value in group],
            [one.num_tokens for one, _ in group],
            [i for i, (one, _) in enumerate(group) if one.is_right],
        )
        for key, group in groups.items()
    ]
    return ranked(questions, [template for template, _ in groups])


def ranked(questions: Sequence[ranking.Question], templates: Sequence[str]) -> dict[str, float]:
    """Returns the metrics of `rank_classification`; templates: of each question."""
    values = dict(ranking.accuracy(questions).values)
    forecasts = [calibration.probabilities(one.logprobs) for one in questions]
    values |= calibration.metrics(forecasts, [one.right for one in questions])[0]
    names = sorted(set(templates))
    if len(names) > 1:
        by_template = {}
        for name in names:
            mine = [q for q, own in zip(questions, templates, strict=True) if own == name]
            by_template[name] = ranking.accuracy(mine).values["accuracy_sum"]
        values |= {f"accuracy_sum/template_{k}": v for k, v in by_template.items()}
        summary = ranking.over_templates(by_template)
        values |= {f"template_{name}": value for name, value in summary.items()}
    return values
