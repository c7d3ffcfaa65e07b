"""Each rule finds what it says, and nothing where it says nothing."""

import pytest

from t5sft.evaluate.answers import extraction


@pytest.mark.parametrize(
    "response, strict, flexible, answer_is, boxed",
    [
        ("2*9 = <<2*9=18>>18.\n#### 18", "18", "18", None, None),
        ("#### 1,450,000", "1450000", "1450000", None, None),
        ("#### 18\n#### 19", "18", "19", None, None),
        ("####18", None, "18", None, None),
        ("#### -7.", "-7", "-7", None, None),
        # lm-evaluation-harness drops one full stop: "18.." is not 18.
        ("#### 18...", "18..", "18..", None, None),
        ("The answer is $1,200. Then 5.", None, "5", "1200", None),
        ("so the final answer is: 3", None, "3", "3", None),
        (r"\[\boxed{5}\] and \boxed{\$1,002}", None, "1002", None, "1002"),
        ("eighteen", None, None, None, None),
        ("", None, None, None, None),
    ],
)
def test_gsm8k(response, strict, flexible, answer_is, boxed):
    found = {name: rule(response) for name, rule in extraction.GSM8K.items()}
    assert found == {
        "strict": strict,
        "flexible": flexible,
        "answer_is": answer_is,
        "boxed": boxed,
    }


@pytest.mark.parametrize(
    "response, chain, direct",
    [
        ("So the answer is (B).", "(B)", "So the answer is (B)"),
        ("The answer is no? No: the answer is yes.", "yes", None),
        ("So the answer is (A).\n\nQ: More?\nA: So the answer is (B).", "(A)", None),
        ("**Answer:** (C)", "(C)", None),
        ("So the answer is:\n\n(C)", "(C)", None),
        ("I shall say what the answer is", None, "I shall say what the answer is"),
        ("The answer is: ] } >.", "] } >", None),
        ("(B)", None, "(B)"),
        ("A: (B)\n\nQ: next", None, "(B)"),
        (" valid. ", None, "valid"),
        ("", None, None),
    ],
)
def test_bbh(response, chain, direct):
    assert extraction.chain_of_thought(response) == chain
    if direct or not response:
        assert extraction.direct(response) == direct


@pytest.mark.parametrize(
    "task, answer, target, is_right",
    [
        ("snarks", "(B)", "(B)", True),
        ("snarks", "B", "(B)", True),
        ("snarks", "(B) the dog", "(B)", True),
        ("snarks", "B dogs", "(B)", False),
        ("snarks", "(A) or (B)", "(B)", False),
        ("snarks", "(A) or (B)", "(A)", False),  # Suzgun et al. count none right: 5 of 178
        ("ruin_names", "(B), (C)", "(B)", False),
        ("ruin_names", "A and B.", "(A)", False),
        ("snarks", "(B) A dog and (A)", "(B)", True),
        ("navigate", "no", "No", True),
        ("navigate", "Yes, because it is", "Yes", True),
        ("navigate", "No one does", "No", False),
        ("boolean_expressions", "true", "True", True),
        ("formal_fallacies", "valid", "invalid", False),
        ("object_counting", "8 apples", "8", True),
        ("multistep_arithmetic_two", "3 - 14 = -11", "-11", True),
        ("multistep_arithmetic_two", "\u221211,520", "-11520", True),
        ("object_counting", "18", "8", False),
        ("word_sorting", "barn, damp, dot", "barn damp dot", True),
        ("word_sorting", "damp barn dot", "barn damp dot", False),
        ("dyck_languages", "])>", "] ) >", True),
        ("dyck_languages", "] )", "] ) >", False),
        ("movie_recommendation", "Monsters, Inc", "Monsters, Inc", True),
        ("movie_recommendation", "Something Else", "Monsters, Inc", False),
        ("navigate", None, "No", False),
    ],
)
def test_answers_are_compared_as_the_task_writes_them(task, answer, target, is_right):
    assert extraction.equals(task, answer, target) is is_right


def test_there_are_27_tasks():
    assert len(extraction.BBH_TASKS) == 27
