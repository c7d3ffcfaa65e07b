import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.data.flan import patterns
from t5sft.data.flan.patterns import Pattern


def test_fill_reads_the_template_once():
    got = patterns.fill("{a} or {b}? {}", {"a": "{b}", "b": 2})
    assert got == "{b} or 2? {}"


@settings(max_examples=50, deadline=None)
@given(a=st.text(), b=st.text())
def test_text_of_a_row_stays_as_it_is(a, b):
    assert patterns.fill("x{a}y{b}z", {"a": a, "b": b}) == f"x{a}y{b}z"


def test_names_the_missing_field():
    message = (
        r"needs the field 'premiss' \(did you mean 'premise'\?\); rte\[3\]; "
        "the row has answer, premise"
    )
    with pytest.raises(errors.DataError, match=message):
        patterns.fill("{premiss}", {"premise": "", "answer": ""}, where="rte[3]")


def test_a_list_is_no_text():
    with pytest.raises(errors.DataError, match="the field 'a' is a list, not text; t"):
        patterns.fill("{a}", {"a": ["b"]}, where="t")


def test_fields_are_those_of_all_parts():
    pattern = Pattern(
        "{a} {b}", "{a} {c}", input_pattern="{{Definition}}\n{{inputs}}{final_suffix}"
    )
    assert patterns.fields_of(pattern) == ["Definition", "a", "b", "c"]


@pytest.mark.parametrize(
    ("inputs", "without"),
    [
        ("{premise}\n\n{options_}\nAnswer:", "{premise}\nAnswer:"),
        ("{premise}\n{options_}", "{premise}"),
        ("{passage}\n\n{query}\n\n{options_str}", "{passage}\n\n{query}"),
        ("{q} ({options_})", "{q}"),
        ("{q} | {options_}", "{q}"),
        ("Choose.{options_}.\n\n{q}", "Choose..\n\n{q}"),
        ("{q}", "{q}"),
    ],
)
def test_options_block_goes_with_the_space_before_it(inputs, without):
    assert patterns.without_options(Pattern(inputs, "{answer}")).inputs == without


def test_example_i_gets_pattern_i_modulo_n():
    got = [patterns.index_of("abc", "index", seed=1, task="t", index=i) for i in range(7)]
    assert got == [0, 1, 2, 0, 1, 2, 0]


def test_hashed_choice_uses_every_pattern_about_equally():
    got = [patterns.index_of("abcd", "hash", seed=1, task="t", index=i) for i in range(4000)]
    assert all(850 < got.count(number) < 1150 for number in range(4))  # 1,000 +- 5.5 deviations
    assert got != [
        patterns.index_of("abcd", "hash", seed=2, task="t", index=i) for i in range(4000)
    ]


def test_held_out_patterns_are_the_last_and_never_seen():
    assert patterns.part_of("abcde", "all") == list("abcde")
    assert patterns.part_of("abcde", "seen", held_out=2) == list("abc")
    assert patterns.part_of("abcde", "held_out", held_out=2) == list("de")
    with pytest.raises(errors.ConfigError, match="5 of 5 patterns cannot be held out"):
        patterns.part_of("abcde", "seen", held_out=5)
