import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.data.flan import options

GOLDEN = {
    "dash": ("OPTIONS:\n- yes\n- no\n- maybe", "no"),
    "letters": ("OPTIONS:\n(A) yes\n(B) no\n(C) maybe", "(B)"),
    "letters_dot": ("Options:\nA. yes\nB. no\nC. maybe", "B."),
    "letters_bracket": ("Possible answers:\n[A] yes\n[B] no\n[C] maybe", "[B]"),
    "small_letters": ("Choose one:\na) yes\nb) no\nc) maybe", "b)"),
    "small_letters_round": ("Which of these?\n(a) yes\n(b) no\n(c) maybe", "(b)"),
    "numbers": ("Choices:\n1. yes\n2. no\n3. maybe", "2."),
    "numbers_round": ("Pick one:\n(1) yes\n(2) no\n(3) maybe", "(2)"),
    "numbers_plain": ("1) yes\n2) no\n3) maybe", "2)"),
    "roman": ("The choices are:\ni. yes\nii. no\niii. maybe", "ii."),
    "star": ("Answers to choose from:\n* yes\n* no\n* maybe", "no"),
    "plus": ("One of:\n+ yes;\n+ no;\n+ maybe;", "no"),
    "inline": ("Options: yes; no; maybe", "no"),
    "inline_letters": ("Options: (A) yes, (B) no, (C) maybe", "(B)"),
    "inline_numbers": ("Select one. 1. yes 2. no 3. maybe", "2."),
}


def test_every_format_in_full():
    listed = ["yes", "no", "maybe"]
    got = {
        name: (options.block(listed, fmt), options.answer("no", listed, fmt))
        for name, fmt in options.FORMATS.items()
    }
    assert got == GOLDEN


def test_unknown_format_names_the_nearest():
    with pytest.raises(errors.ConfigError, match="'leters' \\(did you mean 'letters'"):
        options.get("leters")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    listed=st.lists(texts, min_size=1, max_size=40, unique_by=str.strip),
    name=st.sampled_from(list(options.FORMATS)),
    data=st.data(),
)
def test_the_name_points_at_the_answer(listed, name, data):
    """Whoever looks the rewritten answer up in the block, from above, finds the answer."""
    fmt = options.FORMATS[name]
    right = data.draw(st.integers(0, len(listed) - 1))
    rewritten = options.answer(f" {listed[right]}\n", listed, fmt)
    block = options.block(listed, fmt)
    if fmt.marks == "none":
        assert rewritten == f" {listed[right]}\n"
        return
    expected = f"{fmt.start}{fmt.before}" if fmt.start else ""
    for position, option in enumerate(listed):
        mark = {
            "upper": spreadsheet(position),
            "lower": spreadsheet(position).lower(),
            "digits": str(position + 1),
            "roman": ROMAN[position],
        }[fmt.marks]
        if position:
            expected += fmt.end + fmt.before
        item = fmt.name.replace("{}", mark)
        if position == right:
            assert rewritten == item
        expected += f"{item} {option}"
    assert block in (expected, expected + fmt.end)


def spreadsheet(position):
    """The columns of a spreadsheet, counted up one by one."""
    names = [chr(65 + i) for i in range(26)]
    names += [a + b for a in names for b in names]
    return names[position]


ROMAN = (
    "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx xxi xxii xxiii xxiv "
    "xxv xxvi xxvii xxviii xxix xxx xxxi xxxii xxxiii xxxiv xxxv xxxvi xxxvii xxxviii xxxix xl"
).split()


@settings(max_examples=50, deadline=None)
@given(listed=st.lists(texts, max_size=5), name=st.sampled_from(list(options.FORMATS)))
def test_an_answer_that_is_no_option_stays(listed, name):
    assert options.answer("not among them", listed, options.FORMATS[name]) == "not among them"


def test_of_equal_options_the_first_is_named():
    assert options.answer("a", ["b", "a", "a "], options.FORMATS["letters"]) == "(B)"


def test_every_format_is_drawn_and_a_draw_stays():
    drawn = [options.random_name(0, "rte", index) for index in range(500)]
    assert set(drawn) == set(options.FORMATS)
    assert drawn[7] == options.random_name(0, "rte", 7)
