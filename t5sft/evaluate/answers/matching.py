"""Which recorded answer belongs to which question, and what was left over."""

import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from t5sft import errors
from t5sft.data import files

_NUM_SHOWN = 5
_MIN_HELD = 16  # characters; a shorter question may stand in any prompt by chance
# Faults of data to learn from, not of answers.
_LET_PASS = ("lone surrogate", "NUL character", "byte order mark", "number is not finite")


class Matched(NamedTuple):
    """One response per question, and an account of all answers."""

    responses: list[str | None]  # None: no answer
    account: dict[str, Any]


def read(path: str | pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads answers: rows with a `response`, and the `prompt` or `index` of its question.

    Half a surrogate pair, what is left of an emoji where generation stopped in it, becomes U+FFFD;
    NUL characters stay. No response (null) is an empty one; a list of one text is that text; an
    index may be written as a text, as CSV does.

    Raises:
      DataError: a row without them, naming its place.
    """
    file = pathlib.Path(path).expanduser()
    if file.is_dir() or not file.exists():
        raise errors.ConfigError(f"no file {path}; --predictions; check the path")
    found = _rows(file) if file.is_file() else _rows_of_pipe(file)
    rows = [(where, _plain(row)) for where, row in found]
    for where, row in rows:
        if not isinstance(row.get("response"), str):
            raise errors.DataError(
                f"no text `response` among the fields {sorted(row)}; {where}; each row needs "
                "response, and prompt or index"
            )
        index, prompt = row.get("index"), row.get("prompt")
        is_index = isinstance(index, int) and not isinstance(index, bool)
        if not (is_index or (index is None and isinstance(prompt, str))):
            raise errors.DataError(
                f"no text `prompt` and no whole number `index` among the fields {sorted(row)}; "
                f"{where}; name the question by one of them"
            )
    if not rows:
        raise errors.DataError(f"no answers; {path}; give rows with prompt and response")
    return rows


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row as most write it."""
    response, index = row.get("response"), row.get("index")
    if "response" in row and response is None:
        row = {**row, "response": ""}
    if isinstance(response, list) and len(response) == 1:
        row = {**row, "response": response[0]}
    if isinstance(index, str) and index.strip().isdecimal():
        row = {**row, "index": int(index)}
    return row


def _rows_of_pipe(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads JSON lines from what can be read once and has no kind in its name: <(zcat FILE)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "answers.jsonl"
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        try:
            rows = list(_rows(copy))
        except errors.DataError as error:
            raise errors.DataError(str(error).replace(str(copy), str(path))) from None
    return [(where.replace(str(copy), str(path)), row) for where, row in rows]


def _rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, row in files.locate(path):
        if not isinstance(row, files.Bad):
            yield str(place), row
            continue
        if row.reason not in _LET_PASS:
            raise errors.DataError(f"{row.message}; {row.where}; mend the row")
        try:
            found = json.loads(row.text.removeprefix("\ufeff"), strict=False)
        except ValueError as error:  # a second fault behind the one let pass
            raise errors.DataError(f"not JSON: {error}; {row.where}; mend the row") from error
        for name, value in found.items():
            if isinstance(value, str):
                found[name] = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        yield str(place), found


def bare(prompt: str) -> str:
    """Returns the question in a prompt: the last one, without "Q:" and "A:", white space as one.

    Example:
      "Q: 1+1?\\nA: 2\\n\\nQ: 2+2?\\nA: Let's think step by step."   "2+2?"
    """
    text = re.split(r"(?:^|\n)\s*(?:(?:Q|Question)\s*:\s*)+", prompt)[-1]
    text = re.split(r"\n\s*(?:A|Answer)\s*:", text)[0]
    return " ".join(text.split())


def match(prompts: Sequence[str], rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Matched:
    """Joins answers to questions, by index or by prompt.

    A prompt is equal to the question, or holds it as its last one. Of several answers to
    one question the last counts. Questions of one wording take their answers in order, and share
    the last one if there are fewer.

    Args:
      prompts: the questions; index 0 is the first.
      rows: (where, row) of `read`.

    Returns:
      The account: answers, matched (questions), by (way -> answers), missing, unmatched and
      duplicate (count, and the first few), shared and empty (counts).

    Raises:
      DataError: index and prompt of a row contradict each other, or nothing matches.
    """
    exact, within = _places(prompts), _places([bare(prompt) for prompt in prompts])
    responses: list[str | None] = [None] * len(prompts)
    turns: dict[str, int] = {}
    by = {"index": 0, "prompt": 0, "prompt_in_template": 0}
    unmatched, duplicate, empty = [], [], 0
    for where, row in rows:
        index, prompt = row.get("index"), row.get("prompt")
        places = exact.get(prompt, []) if isinstance(prompt, str) else []
        if index is not None:
            if places and index not in places:
                raise errors.DataError(
                    f"index {index} is another question than the prompt, which is {places[0]}; "
                    f"{where}; mend the row, or leave one of them out"
                )
            way, places = "index", [index] if 0 <= index < len(prompts) else []
        else:
            way = "prompt" if places else "prompt_in_template"
            places = places or _within(prompt or "", within)
            if len({prompts[i] for i in places}) > 1:
                places = []
        if not places:
            unmatched.append(where)
            continue
        key = prompts[places[0]] if way != "index" else f"index {index}"
        turns[key] = turns.get(key, -1) + 1
        place = places[turns[key] % len(places)]
        if responses[place] is not None:
            duplicate.append(where)
        responses[place] = row["response"]
        by[way] += 1
        empty += not row["response"].strip()
    if not any(by.values()):
        raise errors.DataError(
            f"no answer belongs to a question; {unmatched[0]} is the first; give the prompts as "
            "the questions read, or their index"
        )
    shared = _share(exact, responses)
    missing = [i for i, response in enumerate(responses) if response is None]
    account = {
        "answers": len(rows),
        "matched": len(prompts) - len(missing),
        "by": {way: count for way, count in by.items() if count},
        "missing": _few(missing),
        "unmatched": _few(unmatched),
        "duplicate": _few(duplicate),
        "shared": shared,
        "empty": empty,
    }
    return Matched(responses, account)


def _within(prompt: str, places: Mapping[str, list[int]]) -> list[int]:
    """Returns the places of the question in a prompt; of several, of the one that ends last."""
    found = places.get(bare(prompt))
    if found is not None:
        return found
    parts = prompt.split("\n\n")  # the last of few shots, mostly
    for first in range(len(parts) - 1, 0, -1):
        found = places.get(bare("\n\n".join(parts[first:])))
        if found is not None:
            return found
    text = " ".join(prompt.split())
    held = [
        (text.rfind(question) + len(question), len(question), question)
        for question in places
        if len(question) >= _MIN_HELD and question in text
    ]
    return places[max(held)[2]] if held else []


def _places(texts: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        places.setdefault(text, []).append(i)
    return places


def _share(exact: Mapping[str, Sequence[int]], responses: list[str | None]) -> int:
    """Gives an answer to the other questions of its wording that have none; returns how many."""
    count = 0
    for places in exact.values():
        known = [responses[i] for i in places if responses[i] is not None]
        for i in places if known else []:
            if responses[i] is None:
                responses[i], count = known[-1], count + 1
    return count


def _few(found: Sequence) -> dict[str, Any]:
    return {"count": len(found), "first": list(found[:_NUM_SHOWN])}


def warnings(account: Mapping[str, Any]) -> list[str]:
    """Says what did not come out even, a line each."""
    texts = {
        "missing": "questions have no answer and are left out of the figures",
        "unmatched": "answers belong to no question and are left out",
        "duplicate": "answers replace an earlier one to the same question",
    }
    lines = []
    for name, text in texts.items():
        found = account[name]
        if found["count"]:
            shown = ", ".join(str(x) for x in found["first"])
            more = ", ..." if found["count"] > len(found["first"]) else ""
            lines.append(f"{found['count']} {text}: {shown}{more}")
    if account["shared"]:
        lines.append(f"{account['shared']} questions share the answer of one worded the same")
    if account["empty"]:
        lines.append(f"{account['empty']} answers are empty")
    return lines
