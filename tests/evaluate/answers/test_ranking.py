"""Four normalisations, four winners; ties and several right answers."""

import pytest

from t5sft.evaluate.answers import ranking

CHOICES = ["ja", "\u306f\u3044\u3002", "certainly"]


def question(index=0, right=(0,), logprobs=(-2.0, -2.7, -6.3), **rest):
    return ranking.Question(index, CHOICES, logprobs, (1, 3, 3), right, **rest)


@pytest.mark.parametrize(
    "normalisation, expected, best",
    [
        ("sum", [-2.0, -2.7, -6.3], 0),
        ("token", [-2.0, -0.9, -2.1], 1),
        ("character", [-1.0, -0.9, -0.7], 2),
        ("byte", [-1.0, -0.3, -0.7], 1),
    ],
)
def test_worked_example(normalisation, expected, best):
    values = ranking.scores(question(), normalisation)
    assert values == pytest.approx(expected)
    assert ranking.choose(values) == best


def test_a_space_in_front_is_no_character():
    spaced = ranking.Question(0, [" ab", "ab"], [-2.0, -2.0], [1, 1], [0])
    assert ranking.scores(spaced, "character") == ranking.scores(spaced, "byte") == [-1.0, -1.0]


def test_the_first_of_equals_wins_and_any_right_one_counts():
    assert ranking.choose([-1.0, -0.5, -0.5]) == 1
    scores = ranking.accuracy([question(0, right=(0, 2)), question(1, right=(1,))])
    assert scores.values == {
        "accuracy_sum": 0.5,
        "accuracy_token": 0.5,
        "accuracy_character": 0.5,
        "accuracy_byte": 0.5,
    }
    assert scores.standard_errors["accuracy_sum"] == pytest.approx(0.5)


def test_weights_apply():
    scores = ranking.accuracy([question(0, weight=3.0), question(1, right=(1,), weight=1.0)])
    assert scores.values["accuracy_sum"] == 0.75


def test_a_question_that_comes_twice_and_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="twice"):
        ranking.accuracy([question(), question()])
    with pytest.raises(ValueError, match="question 7"):
        ranking.accuracy([ranking.Question(7, ["a", "b"], [-1.0], [1, 1], [0])])
    with pytest.raises(ValueError, match="question 0"):
        ranking.accuracy([question(right=(3,))])


def test_auc_counts_pairs():
    # positives 2 and 0, negatives 1 and 0: wins 2 > 1, 2 > 0, a tie, and a loss.
    assert ranking.auc([2, 0, 1, 0], [True, True, False, False]) == 2.5 / 4
    assert ranking.auc([1, 2], [True, True]) == 0.5
    two = [ranking.Question(i, "ab", (-1.0, -2.0 + i), (1, 1), [i > 1]) for i in range(4)]
    assert ranking.accuracy(two).values["auc_sum"] == 1.0


def test_templates_are_summarised():
    test = {"a": 0.5, "b": 0.9, "c": 0.7}
    assert ranking.over_templates(test, {"a": 0.8, "b": 0.1, "c": 0.8}) == pytest.approx(
        {
            "mean": 0.7,
            "median": 0.7,
            "spread": 0.4,
            "interquartile_range": 0.2,
            "best_validation_template": 0.5,
        }
    )
