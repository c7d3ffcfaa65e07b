"""Means carry the error that the questions, not the instructions in them, leave."""

import math
import statistics as numbers

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft.evaluate.answers import statistics


def test_worked_examples():
    assert statistics.mean([1, 0, 0, 1]) == (0.5, pytest.approx(math.sqrt(1 / 3) / 2))
    assert statistics.clustered_mean([[1, 1], [0, 0]]) == (0.5, pytest.approx(0.5))
    assert statistics.mean([1.0]) == (1.0, None)
    assert statistics.mean([]) == (0.0, None)


def test_error_of_a_mean_of_figures():
    assert statistics.error_of_mean([3, 4]) == 2.5
    assert statistics.error_of_mean([3, None]) is None
    assert statistics.error_of_mean([]) is None


def test_pass_at_k():
    found = [statistics.pass_at_k(5, 2, k) for k in (1, 2, 4)]
    assert found == pytest.approx([0.4, 0.7, 1.0])
    assert statistics.pass_at_k(5, 0, 5) == 0
    for wrong in ((5, 6, 1), (5, 2, 0), (5, 2, 6)):
        with pytest.raises(ValueError):
            statistics.pass_at_k(*wrong)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_one_value_a_group_has_the_usual_error(values):
    _, error = statistics.mean(values)
    assert error == pytest.approx(numbers.stdev(values) / math.sqrt(len(values)), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(2, 4))
def test_repeating_values_within_groups_adds_no_certainty(values, times):
    once = statistics.clustered_mean([[value] for value in values])
    assert statistics.clustered_mean([[value] * times for value in values]) == pytest.approx(once)
