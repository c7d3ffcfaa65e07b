"""Standard errors of metrics that are known as functions only."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5sft.evaluate.answers import statistics

_NUM_GROUPS = 20  # of the jackknife: a metric such as BLEU is computed so many times more
_ARGUMENTS = {  # of SeqIO's metric functions -> what its Evaluator calls them
    "targets": "targets",
    "predictions": "prediction",
    "scores": "score",
    "aux_values": "aux_value",
}


def standard_errors(
    metric_fns: Sequence[Callable], given: Mapping[str, Any], values: Mapping[str, float]
) -> dict[str, float | None]:
    """Returns the standard error of every metric over the examples it was computed of.

    A metric that is the mean of what it says of each example alone has the usual one. Any other
    (BLEU, AUC, ranks within a question) has that of the jackknife over up to 20 groups: each left
    out in turn (Efron and Tibshirani 1993, chapter 11). Examples with a `key` go together. No
    example comes twice, as in a bootstrap, which metrics that count examples would refuse.

    Args:
      given: SeqIO's targets, prediction, score and aux_value, in the order of the examples.
      values: of the metrics; what has no finite value has no error.

    Returns:
      None: one example, or a metric that cannot do without all of its examples.
    """
    errors: dict[str, float | None] = dict.fromkeys(values)
    size = len(given.get("targets", ()))
    for function in metric_fns:
        names = [n for n in inspect.signature(function).parameters if n in _ARGUMENTS]
        arguments = {name: given[_ARGUMENTS[name]] for name in names}
        units = _units(given["targets"])
        if len(units) < 2:
            continue
        found = _of_means(function, arguments, values, units)
        if found is None:
            found = _jackknife(function, arguments, _groups(units, size))
        errors |= {name: error for name, error in found.items() if name in errors}
    return errors


def _units(targets: Sequence[Any]) -> list[list[int]]:
    """Returns the examples that go together: the candidates of one question."""
    units: dict[Any, list[int]] = {}
    for i, target in enumerate(targets):
        units.setdefault(getattr(target, "key", i), []).append(i)
    return list(units.values())


def _groups(units: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Returns what stays when a group of units is left out, for each group."""
    count = min(len(units), _NUM_GROUPS)
    left_out = [{i for unit in units[g::count] for i in unit} for g in range(count)]
    return [[i for i in range(size) if i not in out] for out in left_out]


def _call(function: Callable, arguments: Mapping[str, Any], chosen: Sequence[int]):
    """The metrics of some examples; None where the function refuses them."""

    def pick(value):
        if isinstance(value, Mapping):  # aux_values: name -> a value of each example
            return {name: pick(one) for name, one in value.items()}
        return value[list(chosen)] if isinstance(value, np.ndarray) else [value[i] for i in chosen]

    try:
        found = function(**{name: pick(value) for name, value in arguments.items()})
    except Exception:  # somebody else's function, asked for less than it was written for
        return None
    numbers = {k: getattr(v, "value", v) for k, v in found.items()}
    return {k: float(v) for k, v in numbers.items() if np.ndim(v) == 0 and not isinstance(v, str)}


def _of_means(function, arguments, values, units) -> dict[str, float | None] | None:
    """The usual standard errors, or None if a metric is not the mean over the units."""
    columns: dict[str, list[float]] = {}
    for unit in units:
        found = _call(function, arguments, unit)
        if found is None:
            return None
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    for name, column in columns.items():
        mean = sum(column) / len(column)
        known = values.get(name, math.nan)
        if len(column) < len(units) or not math.isclose(mean, known, rel_tol=1e-9, abs_tol=1e-9):
            return None
    return {name: statistics.mean(column)[1] for name, column in columns.items()}


def _jackknife(function, arguments, groups) -> dict[str, float | None]:
    columns: dict[str, list[float]] = {}
    for kept in groups:
        found = _call(function, arguments, kept)
        if found is None:
            return {}
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    n = len(groups)
    return {
        name: math.sqrt((n - 1) / n * float(np.sum((np.array(column) - np.mean(column)) ** 2)))
        for name, column in columns.items()
        if len(column) == n and np.isfinite(column).all()
    }
