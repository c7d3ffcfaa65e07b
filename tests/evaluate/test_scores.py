"""Exact match is the share of answers that are right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5sft.evaluate import scores


def test_worked_example():
    assert scores.exact_match(["red", "a cat"], ["red ", "cat"]) == {"exact_match": 0.5}


@pytest.mark.parametrize(
    "target, prediction, is_right",
    [
        ("red", "red", 1),
        ("red", " red\n", 1),
        ("red\n", "red", 1),
        ("red", "Red", 0),
        ("red", "red.", 0),
        ("a cat", "a  cat", 0),
        ("red", "", 0),
        ("\u00e9", "e\u0301", 0),
    ],
)
def test_only_white_space_at_the_ends_is_forgiven(target, prediction, is_right):
    assert scores.exact_match([target], [prediction]) == {"exact_match": is_right}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("ab")), min_size=1, max_size=9))
def test_agrees_with_the_definition_in_any_order(pairs):
    def score(pairs):
        return scores.exact_match(*zip(*pairs, strict=True))["exact_match"]

    assert score(pairs) == sum(a == b for a, b in pairs) / len(pairs) == score(pairs[::-1])


def test_of_nothing_is_zero_and_of_unequal_lengths_refused():
    assert scores.exact_match([], []) == {"exact_match": 0.0}
    with pytest.raises(ValueError, match="2 targets and 1 predictions"):
        scores.exact_match(["a", "b"], ["a"])
