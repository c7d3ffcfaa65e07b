"""The 25 kinds of instructions of IFEval, each a function (response, its arguments) -> followed.

Zhou et al. 2023, arXiv:2311.07911, section 2 and table 1; the exact conditions are those of the
published evaluation (github.com/google-research/google-research, instruction_following_eval), which
the names of the arguments are from. What the table leaves open and the evaluation decides is told
at the function.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from t5sft.evaluate.answers import language

Arguments = Mapping[str, Any]
KINDS: dict[str, Callable[[str, Arguments], bool]] = {}
ARGUMENTS: dict[str, tuple[str, ...]] = {}  # kind -> the arguments it cannot do without
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _kind(name: str, *arguments: str):
    def add(function):
        KINDS[name], ARGUMENTS[name] = function, arguments
        return function

    return add


def _holds(count: int, relation: str, threshold: int) -> bool:
    if relation not in ("less than", "at least"):
        raise ValueError(f"unknown relation {relation!r}")
    return count < threshold if relation == "less than" else count >= threshold


@_kind("keywords:existence", "keywords")
def _existence(response, given):
    """Parts of words count."""
    return all(re.search(word, response, re.IGNORECASE) for word in given["keywords"])


@_kind("keywords:frequency", "keyword", "frequency", "relation")
def _frequency(response, given):
    found = re.findall(given["keyword"].strip(), response, re.IGNORECASE)
    return _holds(len(found), given["relation"], given["frequency"])


@_kind("keywords:forbidden_words", "forbidden_words")
def _forbidden_words(response, given):
    """Only whole words are forbidden."""
    words = (rf"\b{word}\b" for word in given["forbidden_words"])
    return not any(re.search(word, response, re.IGNORECASE) for word in words)


@_kind("keywords:letter_frequency", "letter", "let_frequency", "let_relation")
def _letter_frequency(response, given):
    # The published evaluation draws a random letter where the prompt asks for "#" or "!".
    count = response.lower().count(given["letter"].strip().lower())
    return _holds(count, given["let_relation"], given["let_frequency"])


@_kind("language:response_language", "language")
def _response_language(response, given):
    """A response whose language cannot be told passes."""
    return language.detect(response) in (given["language"], None)


@_kind("length_constraints:number_sentences", "num_sentences", "relation")
def _number_sentences(response, given):
    return _holds(len(language.sentences(response)), given["relation"], given["num_sentences"])


@_kind("length_constraints:number_words", "num_words", "relation")
def _number_words(response, given):
    return _holds(language.count_words(response), given["relation"], given["num_words"])


@_kind("length_constraints:number_paragraphs", "num_paragraphs")
def _number_paragraphs(response, given):
    """Three asterisks divide paragraphs; only the first and the last may be empty."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", response)]
    return all(parts[1:-1]) and sum(parts) == given["num_paragraphs"]


@_kind(
    "length_constraints:nth_paragraph_first_word", "first_word", "nth_paragraph", "num_paragraphs"
)
def _nth_paragraph_first_word(response, given):
    """Two line feeds divide paragraphs; empty ones do not count, but do hold their place."""
    parts = response.split("\n\n")
    count, nth = sum(bool(part.strip()) for part in parts), given["nth_paragraph"]
    if nth > count or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"').lower()
    word = re.split(r"[.,?!'\"]", word)[0]
    return count == given["num_paragraphs"] and word == given["first_word"].lower()


@_kind("detectable_content:number_placeholders", "num_placeholders")
def _number_placeholders(response, given):
    return len(re.findall(r"\[.*?\]", response)) >= given["num_placeholders"]


@_kind("detectable_content:postscript", "postscript_marker")
def _postscript(response, given):
    """The marker may stand anywhere, in any case; spaces between its letters are forgiven."""
    marker = given["postscript_marker"].strip()
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(known.get(marker, marker.lower()), response.lower()))


@_kind("detectable_format:number_bullet_lists", "num_bullets")
def _number_bullet_lists(response, given):
    """Lines that begin with a dash, or with one asterisk and something that is none."""
    # Space of the line itself only: over blank lines too, the time is quadratic in their number.
    stars = re.findall(r"^[^\S\n]*\*[^*].*$", response, re.MULTILINE)
    dashes = re.findall(r"^[^\S\n]*-.*$", response, re.MULTILINE)
    return len(stars) + len(dashes) == given["num_bullets"]


@_kind("detectable_format:number_highlighted_sections", "num_highlights")
def _number_highlighted_sections(response, given):
    """*so* counts once; in **so**, the pair inside counts, and an empty pair beside it does not."""
    single = [found.strip("*") for found in re.findall(r"\*[^\n*]*\*", response)]
    double = [found[2:-2] for found in re.findall(r"\*\*[^\n*]*\*\*", response)]
    return sum(bool(text.strip()) for text in single + double) >= given["num_highlights"]


@_kind("detectable_format:multiple_sections", "section_spliter", "num_sections")
def _multiple_sections(response, given):
    """Headings are the word and a number."""
    heading = rf"\s?{given['section_spliter'].strip()}\s?\d+\s?"
    return len(re.findall(heading, response)) >= given["num_sections"]


@_kind("detectable_format:json_format")
def _json_format(response, given):
    """A Markdown fence around it is forgiven."""
    text = response.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


@_kind("detectable_format:title")
def _title(response, given):
    titles = re.findall(r"<<[^\n]+>>", response)
    return any(title.lstrip("<").rstrip(">").strip() for title in titles)


@_kind("detectable_format:constrained_response")
def _constrained_response(response, given):
    return any(option in response for option in _OPTIONS)


@_kind("combination:two_responses")
def _two_responses(response, given):
    """Six asterisks between two different texts; they may also stand before and after."""
    parts = [part.strip() for part in response.split("******")]
    texts = [part for part in parts if part]
    return all(parts[1:-1]) and len(texts) == 2 and texts[0] != texts[1]


@_kind("combination:repeat_prompt", "prompt_to_repeat")
def _repeat_prompt(response, given):
    return response.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())


@_kind("startend:end_checker", "end_phrase")
def _end_checker(response, given):
    """Quotation marks after the phrase are forgiven."""
    return response.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())


@_kind("startend:quotation")
def _quotation(response, given):
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@_kind("change_case:capital_word_frequency", "capital_frequency", "capital_relation")
def _capital_word_frequency(response, given):
    """A hyphenated word is one word."""
    count = sum(token.isupper() for token in language.tokens(response))
    return _holds(count, given["capital_relation"], given["capital_frequency"])


@_kind("change_case:english_capital")
def _english_capital(response, given):
    return response.isupper() and language.detect(response) in ("en", None)


@_kind("change_case:english_lowercase")
def _english_lowercase(response, given):
    return response.islower() and language.detect(response) in ("en", None)


@_kind("punctuation:no_comma")
def _no_comma(response, given):
    return "," not in response
