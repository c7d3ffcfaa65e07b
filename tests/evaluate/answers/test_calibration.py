"""Calibration by its definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5sft.evaluate.answers import calibration


def test_worked_examples():
    bins = calibration.reliability([0.4, 0.9, 0.7], [False, True, False], 2)
    assert [(one.n, one.confidence, one.accuracy) for one in bins] == [
        (1, 0.4, 0.0), (2, pytest.approx(0.8), 0.5),
    ]  # fmt: skip
    assert calibration.expected_calibration_error(bins) == pytest.approx((0.4 + 2 * 0.3) / 3)
    assert calibration.brier([0.7, 0.2, 0.1], [0]) == pytest.approx(0.14)
    logs = np.log([0.2, 0.2, 0.1])
    assert calibration.probabilities(logs) == pytest.approx([0.4, 0.4, 0.2])
    assert calibration.probabilities([-5000.0, -5000.0]) == [0.5, 0.5]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_every_answer_is_in_one_bin(answers):
    confidences, right = zip(*answers, strict=True)
    bins = calibration.reliability(confidences, right)
    assert sum(one.n for one in bins) == len(answers)
    total = sum(one.n * one.accuracy for one in bins if one.n)
    assert total == pytest.approx(sum(right))
    for one in bins:
        mine = [c for c in confidences if one.low < c <= one.high or (c == 0 and one.low == 0)]
        assert len(mine) == one.n
    assert 0 <= calibration.expected_calibration_error(bins) <= 1


def test_a_calibrated_forecaster_has_no_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 40000)
    right = [[0] if x < q else [1] for x, q in zip(rng.uniform(size=p.size), p, strict=True)]
    values, _ = calibration.metrics([[q, 1 - q] for q in p], right)
    assert values["calibration_error"] < 0.01
    over, _ = calibration.metrics([[1.0, 0.0] for _ in p], right)
    assert over["calibration_error"] == pytest.approx(0.25, abs=0.01)
