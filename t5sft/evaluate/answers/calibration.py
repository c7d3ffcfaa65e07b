"""Calibration: whether what is held likely comes true as often as it should.

Guo et al. 2017 (arXiv:1706.04599), section 2; Brier 1950 (Monthly Weather Review 78, 1).
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

NUM_BINS = 15  # as Guo et al.


class Bin(NamedTuple):
    """Answers of like confidence: a point of the reliability diagram."""

    low: float  # confidence in (low, high]
    high: float
    n: int
    confidence: float | None  # mean; None: no answer
    accuracy: float | None


def probabilities(logprobs: Sequence[float]) -> list[float]:
    """Returns what the candidates' log-probabilities are among themselves: they add up to 1.

    Example:
      ln .2, ln .2, ln .1   .4 .4 .2
    """
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return [weight / sum(weights) for weight in weights]


def reliability(
    confidences: Sequence[float], is_right: Sequence[bool], num_bins: int = NUM_BINS
) -> list[Bin]:
    """Returns bins of equal width; a confidence of 0 is in the first.

    Example (two bins):
      confidences .4 .9 .7, right no yes no   (0, .5] 1 of .4, 0;  (.5, 1] 2 of .8, .5
    """
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(num_bins)]
    for confidence, right in zip(confidences, is_right, strict=True):
        if not 0 <= confidence <= 1 + 1e-9:
            raise ValueError(f"confidence is {confidence}, expected [0, 1]")
        place = min(max(math.ceil(confidence * num_bins) - 1, 0), num_bins - 1)
        groups[place].append((confidence, bool(right)))
    bins = []
    for i, group in enumerate(groups):
        means = [sum(column) / len(group) for column in zip(*group, strict=True)] or [None, None]
        bins.append(Bin(i / num_bins, (i + 1) / num_bins, len(group), *means))
    return bins


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Returns the mean gap between confidence and accuracy over all answers (Guo et al., eq. 3)."""
    total = sum(one.n for one in bins)
    gaps = (one.n * abs(one.confidence - one.accuracy) for one in bins if one.n)  # type: ignore[operator]
    return sum(gaps) / total if total else 0.0


def brier(forecast: Sequence[float], right: Collection[int]) -> float:
    """Returns the squared distance of a forecast from what came true; in [0, 2].

    Of several right candidates, each is taken to come true in equal shares.

    Example:
      .7 .2 .1, the first is right   .09 + .04 + .01 = .14
    """
    truth = [1 / len(right) if i in right else 0.0 for i in range(len(forecast))]
    return sum((p - t) ** 2 for p, t in zip(forecast, truth, strict=True))


def metrics(
    forecasts: Sequence[Sequence[float]], right: Sequence[Collection[int]]
) -> tuple[dict[str, float], list[Bin]]:
    """Returns calibration_error, brier, mean confidence, and the reliability diagram.

    The confidence is that of the likeliest candidate.
    """
    if not forecasts:
        return {}, []
    chosen = [max(range(len(p)), key=lambda i: (p[i], -i)) for p in forecasts]  # noqa: B023
    confidences = [p[i] for p, i in zip(forecasts, chosen, strict=True)]
    bins = reliability(confidences, [i in r for i, r in zip(chosen, right, strict=True)])
    scores = [brier(p, r) for p, r in zip(forecasts, right, strict=True)]
    return {
        "calibration_error": expected_calibration_error(bins),
        "brier": sum(scores) / len(scores),
        "confidence": sum(confidences) / len(confidences),
    }, bins
