"""What a response says the answer is: GSM8K's and BIG-Bench Hard's rules, each by its name."""

import re
from collections.abc import Callable

_NUMBER = r"-?[$0-9.,]{2,}|-?[0-9]+"
_ANSWER_IS = re.compile(r"\banswer(?:\s+is|:)\s*:?\s*(?=(.*))", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"\n\s*(?:Q|Question)\s*:")


def _plain(number: str) -> str:
    """Without thousands separators, currency and one final full stop: "$1,000." is "1000"."""
    return re.sub(r"[,$]", "", number).removesuffix(".")


def _strict(text: str) -> str | None:
    found = re.search(r"#### (-?[0-9.,]+)", text)
    return _plain(found[1]) if found else None


def _flexible(text: str) -> str | None:
    found = re.findall(_NUMBER, text)
    return _plain(found[-1]) if found else None


def _answer_is(text: str) -> str | None:
    found = re.search(r"[Tt]he (?:final )?answer is:? *\$?(-?[0-9][0-9.,]*)", text)
    return _plain(found[1]) if found else None


def _boxed(text: str) -> str | None:
    found = re.findall(r"\\boxed\{\s*(?:\\\$)?\$?\s*(-?[0-9][0-9.,]*)\s*\}", text)
    return _plain(found[-1]) if found else None


GSM8K: dict[str, Callable[[str], str | None]] = {
    "strict": _strict,  # the number after the first "#### ", as the training solutions end
    "flexible": _flexible,  # the last number (lm-evaluation-harness: flexible-extract)
    "answer_is": _answer_is,  # "The answer is 18." (Wei et al. 2022, arXiv:2201.11903)
    "boxed": _boxed,  # the last \boxed{18}
}


def chain_of_thought(text: str) -> str | None:
    """Returns what follows the last "answer is" or "answer:" in its line; None without one.

    A question that the model went on to ask itself, and all behind it, is no part of the answer.

    Example:
      "4 is even. So the answer is (B).\\n\\nQ: And 5?"   "(B)"
    """
    found = _ANSWER_IS.findall(_NEXT_QUESTION.split(text, maxsplit=1)[0])
    return _tidy(found[-1]) or None if found else None


def direct(text: str) -> str | None:
    """Returns the whole response; None for an empty one."""
    text = _NEXT_QUESTION.split(text, maxsplit=1)[0].strip()
    return _tidy(re.sub(r"^(?:A|Answer)\s*:\s*", "", text)) or None


def either(text: str) -> str | None:
    """Returns the answer of a chain of thought; where there is none, the whole response."""
    return chain_of_thought(text) or direct(text)


def _tidy(text: str) -> str:
    """Drops Markdown emphasis, quotation marks and the full stop around an answer."""
    return text.strip().strip("*`\"'$").strip().removesuffix(".").strip("*`\"'$").strip()


BBH: dict[str, Callable[[str], str | None]] = {
    "auto": either,
    "chain_of_thought": chain_of_thought,
    "direct": direct,
}


_ANOTHER = re.compile(r"\)?\s*(?:or|and|[,/&])\s*(?:\([A-Z]\)|[A-Z][.)]*\s*$)")


def option(text: str) -> str | None:
    """The letter that the answer begins with; "(A) or (B)" chooses none."""
    found = re.match(r"\(([A-Z])\)", text) or re.match(r"([A-Z])(?:[).:,\n]|\s*$)", text)
    if found is None or _ANOTHER.match(text, found.end(1)):
        return None
    return f"({found[1]})"


def _word(*words: str) -> Callable[[str], str | None]:
    pattern = re.compile(rf"({'|'.join(words)})(?:[.,;:!*\n]|\s*$)", re.IGNORECASE)

    def find(text: str) -> str | None:
        found = pattern.match(text)
        return found[1].lower() if found else None

    return find


def _number(text: str) -> str | None:
    text = text.replace("\N{MINUS SIGN}", "-")
    found = re.search(rf"=\s*({_NUMBER})\s*$", text) or re.match(rf"({_NUMBER})", text)
    return _plain(found[1]) if found else None


def _words(text: str) -> str | None:
    return " ".join(text.lower().replace(",", " ").split()) or None


def _brackets(text: str) -> str | None:
    return "".join(text.split()) or None


# How the answers of BIG-Bench Hard's tasks look (Suzgun et al. 2022, arXiv:2210.09261, appendix).
_YES_NO = _word("yes", "no")
BBH_TASKS: dict[str, Callable[[str], str | None]] = {
    "boolean_expressions": _word("true", "false"),
    "causal_judgement": _YES_NO,
    "date_understanding": option,
    "disambiguation_qa": option,
    "dyck_languages": _brackets,
    "formal_fallacies": _word("valid", "invalid"),
    "geometric_shapes": option,
    "hyperbaton": option,
    "logical_deduction_five_objects": option,
    "logical_deduction_seven_objects": option,
    "logical_deduction_three_objects": option,
    "movie_recommendation": option,
    "multistep_arithmetic_two": _number,
    "navigate": _YES_NO,
    "object_counting": _number,
    "penguins_in_a_table": option,
    "reasoning_about_colored_objects": option,
    "ruin_names": option,
    "salient_translation_error_detection": option,
    "snarks": option,
    "sports_understanding": _YES_NO,
    "temporal_sequences": option,
    "tracking_shuffled_objects_five_objects": option,
    "tracking_shuffled_objects_seven_objects": option,
    "tracking_shuffled_objects_three_objects": option,
    "web_of_lies": _YES_NO,
    "word_sorting": _words,
}


def equals(task: str, answer: str | None, target: str) -> bool:
    """Tells whether an extracted answer of a BIG-Bench Hard task is the target.

    Forgiven are the case of words, what follows an option's letter ("(B) the dog"), thousands
    separators, and how words of a list are separated.
    """
    if answer is None:
        return False
    read = BBH_TASKS[task]
    # Some targets do not look like the others of their task, such as a movie's name: as they are.
    return answer == target or (read(target) is not None and read(answer) == read(target))
