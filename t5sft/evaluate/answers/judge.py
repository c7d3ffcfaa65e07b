"""A judge: another model that grades answers or compares two, by any OpenAI-compatible server.

Zheng et al. 2023 (arXiv:2306.05685), sections 3.1 and 3.4: a judge prefers what it sees first, so
pairs are shown in both orders, and only a verdict that stands in both counts.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from t5sft import errors
from t5sft.data import files

KEY = "T5SFT_JUDGE_KEY"  # environment: the server's key, if it asks for one
_RETRIES, _TIMEOUT_SECONDS, _AT_ONCE = 4, 120.0, 8
_RATING = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
Verdict = Literal["A", "B", "tie"]


class Ask(NamedTuple):
    """One question to the judge."""

    system: str
    user: str
    temperature: float = 0.0


Judge = Callable[[Sequence[Ask]], list[str]]


class Pair(NamedTuple):
    """One comparison, made twice."""

    question: str
    first: str  # the answer that is evaluated
    second: str  # the baseline's


def open_judge(where: str, model: str | None) -> Judge:
    """Returns the judge of an address (http://HOST/v1) or of a file of recorded judgements."""
    if where.startswith(("http://", "https://")):
        if not model:
            raise errors.ConfigError("no model for the judge; --judge; add --judge_model NAME")
        return lambda asks: _ask_all(where, model, asks)
    return recorded(where)


def recorded(path: str) -> Judge:
    """Returns a judge that says what it said before: rows of judge_prompt and judgement.

    FastChat's files of judgements (user_prompt, judgment) are read, too.

    Raises:
      ConfigError: no such file. The judge raises DataError for a question that is not in it.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise errors.ConfigError(f"no file {path}; --judge; give http://HOST/v1 or a file")
    known: dict[str, str] = {}
    for _, row in files.read_rows(file):
        # A row of `t5sft evaluate --output` holds all judgements of a question.
        for one in row.get("judgements", [row]):
            asked = one.get("judge_prompt", one.get("user_prompt"))
            said = one.get("judgement", one.get("judgment"))
            if isinstance(asked, str) and isinstance(said, str):
                known[asked] = said

    def judge(asks: Sequence[Ask]) -> list[str]:
        for ask in asks:
            if ask.user not in known:
                raise errors.DataError(
                    f"no judgement of {ask.user[:60]!r}...; {path}; the answers, questions and "
                    "prompts must be those that were judged"
                )
        return [known[ask.user] for ask in asks]

    return judge


def _ask_all(address: str, model: str, asks: Sequence[Ask]) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(lambda ask: _ask(address, model, ask), asks))


def _ask(address: str, model: str, ask: Ask, sleep: Callable[[float], Any] = time.sleep) -> str:
    """Asks once; waits and asks again where the server is busy or broken."""
    messages = [{"role": "user", "content": ask.user}]
    if ask.system:
        messages.insert(0, {"role": "system", "content": ask.system})
    body = {"model": model, "messages": messages, "temperature": ask.temperature}
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    url = address.rstrip("/") + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    reason = ""
    for attempt in range(_RETRIES):
        if attempt:
            sleep(2.0**attempt)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
                content = json.load(response)["choices"][0]["message"]["content"]
            if isinstance(content, str):
                return content
            reason = "an answer without text"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}: {error.read(200).decode('utf-8', 'replace')}"
            if error.code != 429 and error.code < 500:
                break
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
    raise errors.ConfigError(
        f"the judge does not answer ({' '.join(reason.split())[:200]}); {url}; check the address, "
        f"--judge_model and ${KEY}"
    )


def rating(judgement: str) -> float | None:
    """Returns the grade in double brackets (or single ones), None without one; 1 to 10.

    Example:
      "Clear and right. Rating: [[8.5]]"   8.5
    """
    found = next((m for pattern in _RATING if (m := pattern.search(judgement))), None)
    value = float(found[1]) if found else None
    return value if value is not None and 1 <= value <= 10 else None


def verdict(judgement: str) -> Verdict | None:
    """Returns what the last [[A]], [[B]] or [[C]] (a tie) says; None without one."""
    found = _VERDICT.findall(judgement)
    return {"A": "A", "B": "B", "C": "tie"}[found[-1]] if found else None  # type: ignore[return-value]


class Compared(NamedTuple):
    """What two judgements of a pair make together."""

    score: float | None  # 1 the first wins, 0 the second, .5 a tie; None: a judgement said nothing
    is_consistent: bool  # both orders agree
    first_shown_wins: float  # of the two judgements, the share that the answer shown first won


def combine(straight: Verdict | None, swapped: Verdict | None) -> Compared:
    """Joins the verdict of (first, second) with that of (second, first).

    Example (straight, swapped):
      A, B     the first wins in both orders        1
      A, A     whatever is shown first wins         .5, not consistent
      A, tie   one order only                       .5, not consistent
    """
    shown = ((straight == "A") + (swapped == "A")) / 2
    if straight is None or swapped is None:
        return Compared(None, False, shown)
    turned: Verdict = {"A": "B", "B": "A", "tie": "tie"}[swapped]  # type: ignore[assignment]
    if straight != turned:
        return Compared(0.5, False, shown)
    return Compared({"A": 1.0, "B": 0.0, "tie": 0.5}[straight], True, shown)
