"""Options: the block that lists the possible answers, and the answer rewritten to its name."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from t5sft import errors
from t5sft.data.flan import choices

Marks = Literal["none", "upper", "lower", "digits", "roman"]


class Format(NamedTuple):
    """How options are listed: start + before + item name + " " + option + end for every option."""

    marks: Marks  # what the options are called
    name: str  # of an item, around the mark: "({})"
    start: str = "OPTIONS:"
    before: str = "\n"
    end: str = ""


FORMATS = {
    "dash": Format("none", "-"),  # FLAN 2021
    "letters": Format("upper", "({})"),  # FLAN v2's fixed format
    "letters_dot": Format("upper", "{}.", "Options:"),
    "letters_bracket": Format("upper", "[{}]", "Possible answers:"),
    "small_letters": Format("lower", "{})", "Choose one:"),
    "small_letters_round": Format("lower", "({})", "Which of these?"),
    "numbers": Format("digits", "{}.", "Choices:"),
    "numbers_round": Format("digits", "({})", "Pick one:"),
    "numbers_plain": Format("digits", "{})", ""),
    "roman": Format("roman", "{}.", "The choices are:"),
    "star": Format("none", "*", "Answers to choose from:"),
    "plus": Format("none", "+", "One of:", end=";"),
    "inline": Format("none", "", "Options:", before=" ", end=";"),
    "inline_letters": Format("upper", "({})", "Options:", before=" ", end=","),
    "inline_numbers": Format("digits", "{}.", "Select one.", before=" "),
}
_ROMAN = ((100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"))


def get(name: str) -> Format:
    """Returns the format of this name, or raises ConfigError naming the nearest."""
    if name not in FORMATS:
        raise errors.ConfigError(
            f"unknown options format {name!r}{errors.suggest(name, FORMATS)}; options; "
            f"use one of {', '.join(FORMATS)}, random or none"
        )
    return FORMATS[name]


def random_name(*key) -> str:
    """Returns the name of a format drawn by the key alone."""
    return list(FORMATS)[choices.number(len(FORMATS), *key, "options")]


def _mark(marks: Marks, position: int) -> str:
    if marks == "none":
        return ""
    if marks == "digits":
        return str(position + 1)
    if marks == "roman":
        text, rest = "", position + 1
        for value, letters in (*_ROMAN, (1, "i")):
            text += letters * (rest // value)
            rest %= value
        return text
    letters, rest = "", position + 1  # A ... Z, AA, AB ...: more than 26 options have names too
    while rest:
        rest, letter = divmod(rest - 1, 26)
        letters = chr((65 if marks == "upper" else 97) + letter) + letters
    return letters


def names(fmt: Format, count: int) -> list[str]:
    """Returns the names of the items, in order.

    Example (format "letters"):
      names(fmt, 3)   ["(A)", "(B)", "(C)"]
    """
    return [fmt.name.format(_mark(fmt.marks, i)) for i in range(count)]


def block(options: Sequence[str], fmt: Format) -> str:
    """Returns the options block.

    Example (format "letters"):
      OPTIONS:
      (A) yes
      (B) no
    """
    lines = [
        f"{fmt.before}{name}{' ' if name else ''}{option}{fmt.end}"
        for name, option in zip(names(fmt, len(options)), options, strict=True)
    ]
    if fmt.before.isspace() and not fmt.start and lines:
        lines[0] = lines[0].removeprefix(fmt.before)
    return (fmt.start + "".join(lines)).removesuffix(fmt.end if "\n" not in fmt.before else "")


def answer(text: str, options: Sequence[str], fmt: Format) -> str:
    """Returns the name of the option that is the answer, where the format has names.

    White space at the ends is ignored, as in FLAN. An answer that is no option stays as it is;
    of two equal options the first is named.

    Example (format "letters", options "yes", "no"):
      answer("no", ...)     "(B)"
      answer("maybe", ...)  "maybe"
    """
    stripped = [option.strip() for option in options]
    if fmt.marks == "none" or text.strip() not in stripped:
        return text
    return names(fmt, len(options))[stripped.index(text.strip())]
