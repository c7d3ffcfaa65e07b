"""Each of IFEval's kinds is followed where it is, and is not where it is not."""

import pytest

from t5sft import errors
from t5sft.evaluate.answers import ifeval, ifeval_kinds, language

LEAST, LESS = "at least", "less than"
ENGLISH = "this is the story of a small town by the sea and of its people"
CASES = [  # kind, arguments, responses that follow, responses that do not
    ("keywords:existence", {"keywords": ["cat", "Dog"]}, ["CATs and dogs"], ["cat"]),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": LEAST},
        ["War, wars"],
        ["war"],
    ),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": LESS},
        ["war", "peace"],
        ["war war"],
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, ["rocks"], ["Rock."]),
    (
        "keywords:letter_frequency",
        {"letter": "T", "let_frequency": 2, "let_relation": LEAST},
        ["Test"],
        ["tea"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": LEAST},
        ["# a\n# b"],
        ["# tttt"],
    ),
    (
        "language:response_language",
        {"language": "hi"},
        ["\u092f\u0939 \u090f\u0915 \u0935\u093e\u0915\u094d\u092f \u0939\u0948", "123"],
        [ENGLISH],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": LEAST},
        ["Dr. No left. He did."],
        ["Dr. No left"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": LESS},
        ["two words"],
        ["it's two"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "*** a *** b ***"],
        ["a\n\nb", "a *** *** b", "a *** b *** c"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"first_word": "Summary", "num_paragraphs": 2, "nth_paragraph": 2},
        ["a\n\n'summary', so", "a\n\nSummary. b"],
        ["a\n\nb summary", "summary", "a\n\nsummary\n\nc", "a\n\n\n\nsummary"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] [b c]"],
        ["[a [b]", "[a\n] [b]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\np. s. x"],
        ["ps x", "P.S"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P. P.S x"], ["P.S. x"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n * b", "- a\n* b"],
        ["* a", "* a\n**b**", "- a\n- b\n- c", "*\n* a", "\n" * 200_000],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* *b*", "**a** x **b**", "**a** *b*"],
        ["*a*", "** ** *a*", "*a\n*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1 a\nSection 2"],
        ["SECTION 1 SECTION 2", "Section one Section two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', "```json\n[1]\n```", " 3 "],
        ["{'a': 1}", "x {}", "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["x <<a title>>"], ["<a>", "<< >>", "<<a\nb>>"]),
    ("detectable_format:constrained_response", {}, ["So: My answer is no. Bye"], ["no", ""]),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "****** a ****** b ******"],
        ["a ****** a", "a ****** b ****** c", "a ****** ****** b", "a"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say it. "},
        [" say IT. So"],
        ["It: say it."],
    ),
    ("startend:end_checker", {"end_phrase": "The End."}, ['x the end."', "the end. "], ["The end"]),
    ("startend:quotation", {}, ['"a"\n'], ['"a', '"', "'a'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": LEAST},
        ["AN APPLE", "WELL-KNOWN. I am"],
        ["WELL-KNOWN Apple", "US2-b"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper() + "!"], [ENGLISH, ENGLISH.title()]),
    (
        "change_case:english_lowercase",
        {},
        [ENGLISH + "!"],
        [ENGLISH.upper(), "c'est une petite ville au bord de la mer et ses gens"],
    ),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]


def question(kinds, given, key=1):
    return {"key": key, "prompt": f"p{key}", "instruction_id_list": kinds, "kwargs": given}


@pytest.mark.parametrize("kind, given, good, bad", CASES)
def test_each_kind(kind, given, good, bad):
    asked = question([kind], [given])
    ifeval.check(asked)
    for response in good:
        assert ifeval.follows(asked, response, is_loose=False) == [True], response
    for response in bad:
        assert ifeval.follows(asked, response, is_loose=False) == [False], response


def test_all_25_kinds_have_a_case():
    assert len(ifeval_kinds.KINDS) == 25
    assert {kind for kind, *_ in CASES} == set(ifeval_kinds.KINDS)


def test_loose_forgives_the_first_line_the_last_line_and_asterisks():
    assert ifeval.loose("a\n*b*\nc") == [
        *("a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*"),
        *("a\nb\nc", "b\nc", "a\nb", "b"),
    ]
    asked = question(["startend:quotation"], [{}])
    for response in ('Sure:\n"a"', '"a"\nBye', 'Sure:\n"a"\nBye', '**"a"**'):
        assert ifeval.follows(asked, response, is_loose=False) == [False]
        assert ifeval.follows(asked, response, is_loose=True) == [True]


def test_an_empty_response_follows_nothing():
    asked = question(["punctuation:no_comma"], [{}])
    for response in ("", " \n "):
        assert ifeval.follows(asked, response, is_loose=False) == [False]
        assert ifeval.follows(asked, response, is_loose=True) == [False]


def test_prompts_need_all_instructions_and_instructions_are_averaged_flat():
    questions = [
        question(["punctuation:no_comma", "startend:quotation"], [{}, {}], 1),
        question(["punctuation:no_comma"], [{}], 2),
        question(["detectable_format:title"], [{}], 3),
    ]
    scores = ifeval.score(questions, ['*"a"*', "b", "c"])
    assert scores.values == {
        "prompt_level_strict_accuracy": pytest.approx(1 / 3),
        "instruction_level_strict_accuracy": 2 / 4,
        "prompt_level_loose_accuracy": pytest.approx(2 / 3),
        "instruction_level_loose_accuracy": 3 / 4,
    }
    assert scores.verdicts[0] == {"strict": [True, False], "loose": [True, True]}
    assert scores.by_group["startend:quotation"] == {"n": 1, "strict": 0.0, "loose": 1.0}
    assert scores.by_group["punctuation:no_comma"]["n"] == 2


@pytest.mark.parametrize(
    "kinds, given, message",
    [
        (["punctuation:no_coma"], [{}], "did you mean 'punctuation:no_comma'"),
        (["startend:end_checker"], [{}], "has no end_phrase"),
        (["startend:end_checker"], [{"end_phrase": None}], "has no end_phrase"),
        (["startend:quotation"], [], "of one length"),
    ],
)
def test_a_question_that_cannot_be_scored_is_refused(kinds, given, message):
    with pytest.raises(errors.DataError, match=f"{message}.*question 1"):
        ifeval.score([question(kinds, given)], ["a"])


def test_a_threshold_of_zero_is_a_threshold():
    given = [{"keyword": "war", "frequency": 0, "relation": LEAST}]
    assert ifeval.follows(question(["keywords:frequency"], given), "a", is_loose=False) == [True]


def test_an_unknown_relation_is_told():
    given = [{"num_words": 3, "relation": "more than"}]
    with pytest.raises(errors.DataError, match="unknown relation 'more than'"):
        ifeval.score([question(["length_constraints:number_words"], given)], ["a"])


def test_languages_do_not_change_from_call_to_call():
    # Unseeded, langdetect takes this for English in some calls and for Tagalog in others.
    assert len({language.detect.__wrapped__("an in") for _ in range(20)}) == 1
    assert language.detect("") is None
    assert language.detect(ENGLISH) == "en"


@pytest.mark.parametrize(
    "text, count",
    [
        ("Dr. Smith left. He was tired.", 2),
        ("It fell 3.5 percent in Jan. 1990. So it was.", 2),
        ("He said no. so", 2),
        ("Wait . . . what?", 4),
        ("?! Hello", 3),
        ("What?! No!!! Yes...", 3),
        ("1. Go\n2. Stop", 3),
        ("one\n\ntwo", 1),
        ("", 0),
    ],
)
def test_sentences_as_nltk_counts_them(text, count):
    # What NLTK 3.10 with its downloaded punkt_tab gives, oddities too.
    assert len(language.sentences(text)) == count


def test_a_package_that_is_missing_says_what_to_install():
    with pytest.raises(errors.ConfigError, match="pip install some-package"):
        language.package("no_such_module.part", "some-package")
