"""Standard errors: the usual ones for means, the jackknife for what is no mean."""

import math
from typing import NamedTuple

import numpy as np
import pytest

from t5sft.evaluate import scores, uncertainty
from t5sft.evaluate.answers import statistics


def test_a_mean_has_the_usual_error():
    targets, predictions = list("abcdefgh"), list("abcdxxxx")
    values = scores.exact_match(targets, predictions)
    given = {"targets": targets, "prediction": predictions}
    got = uncertainty.standard_errors([scores.exact_match], given, values)
    assert got["exact_match"] == pytest.approx(statistics.mean([1] * 4 + [0] * 4)[1])


def test_what_is_no_mean_has_the_jackknifes_error():
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)

    def deviation(targets, scores):
        return {"deviation": float(np.std(scores))}

    given = {"targets": list(range(2000)), "score": x}
    got = uncertainty.standard_errors([deviation], given, deviation([], x))["deviation"]
    assert got == pytest.approx(1 / math.sqrt(2 * 2000), rel=0.35)  # normal: sigma / sqrt(2 n)

    def mean_of_all(targets, scores):
        return {"m": float(np.mean(scores)) if len(scores) > 1 else 0.0}  # no mean of singles

    small = {"targets": list(range(10)), "score": x[:10]}
    got = uncertainty.standard_errors([mean_of_all], small, mean_of_all([], x[:10]))["m"]
    assert got == pytest.approx(np.std(x[:10], ddof=1) / math.sqrt(10))  # groups of one: exact


class Keyed(NamedTuple):
    key: str
    value: float


def test_examples_of_one_key_go_together():
    targets = [Keyed(str(i // 2), float(i // 2 % 2)) for i in range(8)]

    def mean(targets, scores):
        return {"m": sum(one.value for one in targets) / len(targets)}

    given = {"targets": targets, "score": np.zeros(8)}
    got = uncertainty.standard_errors([mean], given, mean(targets, None))
    assert got["m"] == pytest.approx(statistics.mean([0, 1, 0, 1])[1])


def test_a_metric_that_needs_all_examples_has_no_error():
    def whole(targets, predictions):
        if len(targets) < 4:
            raise ValueError("all of them")
        return {"x": 1.0}

    given = {"targets": list("abcd"), "prediction": list("abcd")}
    assert uncertainty.standard_errors([whole], given, {"x": 1.0}) == {"x": None}
    one = {"targets": ["a"], "prediction": ["a"]}
    assert uncertainty.standard_errors([scores.exact_match], one, {"exact_match": 1.0}) == {
        "exact_match": None
    }
