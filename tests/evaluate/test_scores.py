"""Exact match is the share of answers that are right."""

import json

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


def test_each_reference_is_one_answer_whatever_it_holds():
    """A poem of two lines is one right answer; neither of its lines is."""
    told = {"references": json.dumps(["one\ntwo", "three"]), "input": "one", "demonstration": "x"}
    example = {"record": json.dumps({"metadata": told})}
    target = scores.references("three", example=example, is_target=True)
    assert target.right == ("one\ntwo", "three")
    given = ["one", "one\ntwo", "three"]
    assert scores.exact_match([target] * 3, given) == {"exact_match": pytest.approx(2 / 3)}
    assert scores.rouge_l([target], ["one"]) == {
        "rougeL": pytest.approx(200 / 3),
        "copy_input_rougeL": pytest.approx(200 / 3),
        "copy_demonstration_rougeL": 0.0,
    }
    assert scores.references("one", example=example, is_target=False) == "one"
    alone = scores.references("a\nb", example={"record": "{}"}, is_target=True)
    assert alone == (("a\nb",), None, None)
    assert set(scores.rouge_l([target, alone], ["a", "b"])) == {"rougeL"}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("ab")), min_size=1, max_size=9))
def test_agrees_with_the_definition_in_any_order(pairs):
    def score(pairs):
        return scores.exact_match(*zip(*pairs, strict=True))["exact_match"]

    assert score(pairs) == sum(a == b for a, b in pairs) / len(pairs) == score(pairs[::-1])


def test_of_nothing_is_zero_and_of_unequal_lengths_refused():
    assert scores.exact_match([], []) == {"exact_match": 0.0}
    with pytest.raises(ValueError, match="2 targets and 1 predictions"):
        scores.exact_match(["a", "b"], ["a"])
