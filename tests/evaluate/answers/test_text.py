"""Metrics of text agree with the figures that their authors' examples have."""

import pytest

from t5sft.evaluate.answers import text

# The example of sacrebleu's README: three sentences, two references.
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]
RESPONSES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]


def test_bleu_of_the_published_example():
    values = text.bleu(REFERENCES, RESPONSES).values
    assert values["bleu"] == pytest.approx(48.530827, abs=1e-6)
    values = text.bleu([[right[0]] for right in REFERENCES], RESPONSES).values
    assert values["bleu"] == pytest.approx(45.067506, abs=1e-6)
    assert values["bleu_intl"] == pytest.approx(38.452467, abs=1e-6)
    assert text.bleu(REFERENCES, [""] * 3).values == {"bleu": 0.0, "bleu_intl": 0.0}


def test_chrf_and_ter_of_the_published_example():
    values = text.translation(REFERENCES, RESPONSES).values
    assert values["chrf"] == pytest.approx(59.727518, abs=1e-6)
    assert values["ter"] == pytest.approx(40.0)


def test_trivia_qa_puts_white_space_where_punctuation_was():
    references, responses = [["new-york"], ["the \u2018cat\u2019"]], ["New York", "cat"]
    assert text.trivia_qa(references, responses).values == {"em": 100, "f1": 100}
    assert text.squad(references, responses).values == {"em": 0, "f1": 0}


def test_bleu_with_unequal_numbers_of_references_and_its_error():
    fewer = [REFERENCES[0], REFERENCES[1][:1], REFERENCES[2]]
    found = text.bleu(fewer, RESPONSES)
    assert 45.0676 < found.values["bleu"] < 48.5309
    assert 0 < found.standard_errors["bleu"] < 30
    assert text.bleu(fewer[:1], RESPONSES[:1]).standard_errors["bleu"] is None
    assert text.bleu(fewer, RESPONSES).standard_errors == found.standard_errors


def test_rouge_of_the_published_example():
    # rouge-score's README; its rougeL is that of stemmed words.
    target = "The quick brown fox jumps over the lazy dog"
    response = "The quick brown dog jumps on the log."
    values = text.rouge([[target]], [response]).values
    assert values["rouge1"] == pytest.approx(70.5882, abs=1e-3)
    assert values["rouge2"] == pytest.approx(26.6667, abs=1e-3)
    assert text.rouge_l([[target]], [response]).values["rougeL"] == pytest.approx(58.8235, abs=1e-3)


def test_rouge_l_sum_compares_line_by_line():
    one, other = "a b c\nd e f", "d e f\na b c"
    assert text.rouge([[one]], [other]).values["rougeLsum"] == 100
    assert text.rouge_l([[one]], [other]).values["rougeL"] == 50
    assert text.rouge([["a b c . d e f"]], ["d e f . a b c"]).values["rougeLsum"] == 100
    assert set(text.rouge([[one]], [""]).values.values()) == {0}


@pytest.mark.parametrize(
    "references, responses, em, f1",
    [
        ([["abc abd", "$$$$"]], ["abd"], 0, 200 / 3),
        ([["abc abd"]], ["abd"], 0, 200 / 3),
        (
            [["big moose", "hippo"], ["correct1"], ["correct2.1", "correct2.2"], ["a", "b"]],
            ["\u2018a big moose\u2018", "wrong", "correct2.2", "c"],
            25,
            35,
        ),
        ([[""]], [""], 100, 0),
        ([["this is a string"]], [""], 0, 0),
        ([["The  Cat!"]], ["a cat"], 100, 100),
    ],
)
def test_squad_as_t5_computes_it(references, responses, em, f1):
    assert text.squad(references, responses).values == pytest.approx({"em": em, "f1": f1})


def test_rouge_l_stands_beside_what_copying_scores():
    scores = text.rouge_l(
        [["a red cat", "cats"], ["no"]],
        ["cat", "No."],
        inputs=["a red dog", "is it?"],
        demonstrations=["yes", "no"],
    )
    # "cat" and "cats" are one stem; copying shares "a red": P = R = 2/3.
    assert scores.values == pytest.approx(
        {
            "rougeL": 100,
            "exact_match": 50,
            "copy_input_rougeL": 100 / 3,
            "copy_demonstration_rougeL": 50,
        }
    )


def test_any_reference_counts_and_white_space_at_the_ends_does_not():
    scores = text.exact_match([["red", "blue"], ["cat"]], [" blue\n", "Cat"])
    assert scores.values == {"exact_match": 0.5}
    assert scores.verdicts == [{"exact_match": 1.0}, {"exact_match": 0.0}]
