"""Means and their standard errors."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Scores(NamedTuple):
    """What a scorer makes of one answer per question."""

    values: dict[str, float]
    standard_errors: dict[str, float | None]  # None: fewer than two questions, or not known
    verdicts: list[dict[str, Any]]  # one a question
    by_group: Mapping[str, Mapping[str, float]] = {}


class OverTasks(NamedTuple):
    """Figures of several tasks; the mean over tasks counts each alike, however long it is."""

    mean: float
    error: float | None
    by_task: Mapping[str, Mapping[str, float]]  # task -> n, accuracy


def over_tasks(tasks: Sequence[str], values: Sequence[float]) -> OverTasks:
    """Returns the mean of the tasks' means.

    Args:
      tasks: the task of each value.

    Example:
      a a a b, 1 1 1 0   0.5 (over all values 0.75)
    """
    groups: dict[str, list[float]] = {}
    for task, value in zip(tasks, values, strict=True):
        groups.setdefault(task, []).append(value)
    figures = {task: mean(group) for task, group in groups.items()}
    average = sum(value for value, _ in figures.values()) / len(figures)
    error = error_of_mean([error for _, error in figures.values()])
    by_task = {t: {"n": len(groups[t]), "accuracy": figures[t][0]} for t in sorted(groups)}
    return OverTasks(average, error, by_task)


def with_tasks(scores: Scores, found: OverTasks) -> Scores:
    """Adds accuracy_over_tasks, and each task's figures as groups."""
    return Scores(
        {**scores.values, "accuracy_over_tasks": found.mean},
        {**scores.standard_errors, "accuracy_over_tasks": found.error},
        scores.verdicts,
        found.by_task,
    )


def by_rule(verdicts: list[dict[str, Any]], rule: str, names: Iterable[str]) -> Scores:
    """Returns accuracy by the chosen rule and accuracy_NAME by each.

    Args:
      verdicts: one a question, with `right`: rule -> whether it finds the right answer; the name of
        the rule and its verdict are added to each.
    """
    columns = {"accuracy": [one["right"][rule] for one in verdicts]}
    columns |= {f"accuracy_{name}": [one["right"][name] for one in verdicts] for name in names}
    told = [{**one, "extraction": rule, "is_right": one["right"][rule]} for one in verdicts]
    return Scores(*means(columns), told)


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and its standard error: sample standard deviation / sqrt(n).

    Example:
      1 0 0 1   0.5, sqrt(1/3) / 2 = 0.2887
    """
    return clustered_mean([[value] for value in values])


def means(
    columns: Mapping[str, Sequence[float]],
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Returns the mean of each column, and its standard error."""
    figures = {name: mean(column) for name, column in columns.items()}
    return (
        {name: value for name, (value, _) in figures.items()},
        {name: error for name, (_, error) in figures.items()},
    )


def error_of_mean(errors: Sequence[float | None]) -> float | None:
    """Returns the standard error of the mean of independent figures; None if one's is not known.

    Example:
      3 4   sqrt(9 + 16) / 2 = 2.5
    """
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if known and len(known) == len(errors) else None


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Estimates without bias how likely one of k samples is right (Chen et al. 2021, equation 1).

    Chen et al. 2021 is arXiv:2107.03374.

    Example:
      5 samples, 2 right   k = 1: 0.4   k = 2: 0.7   k = 4: 1.0
    """
    if not 0 <= num_right <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"{num_right} right of {num_samples} samples, k = {k}")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def clustered_mean(groups: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """Returns the mean over all values and its standard error where values of a group go together.

    The error of a ratio of sums over groups (Cochran 1977, section 6.13); with one value a group
    the usual one. Of nothing the mean is 0.

    Example:
      (1 1) (0 0)   0.5, 0.5: as many as two independent values
    """
    total = sum(len(group) for group in groups)
    if not total:
        return 0.0, None
    average = sum(sum(group) for group in groups) / total
    n = len(groups)
    if n < 2:
        return average, None
    residuals = [sum(group) - average * len(group) for group in groups]
    return average, math.sqrt(sum(r * r for r in residuals) * n / (n - 1)) / total
