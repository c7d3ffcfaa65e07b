"""IFEval: are instructions followed that a program can check? Strict and loose, by two levels.

Zhou et al. 2023, arXiv:2311.07911.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.evaluate.answers import ifeval_kinds, statistics


def loose(response: str) -> list[str]:
    """Returns the eight texts one of which must follow an instruction to follow it loosely.

    With and without its first line, last line, or both; and each without asterisks (equation 2).
    """
    lines = response.split("\n")
    texts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*texts, *(text.replace("*", "") for text in texts)]


def check(question: Mapping[str, Any]):
    """Refuses a question that cannot be scored.

    Raises:
      DataError: an unknown kind, or one without its arguments.
    """
    kinds, given = question.get("instruction_id_list"), question.get("kwargs")
    if not (isinstance(kinds, list) and isinstance(given, list) and len(kinds) == len(given)):
        raise errors.DataError(
            f"no instruction_id_list and kwargs of one length; IFEval question "
            f"{question.get('key')}; give the published input_data.jsonl"
        )
    for kind, arguments in zip(kinds, given, strict=True):
        if kind not in ifeval_kinds.KINDS:
            raise errors.DataError(
                f"unknown kind of instruction {kind!r}"
                f"{errors.suggest(kind, ifeval_kinds.KINDS)}; IFEval question "
                f"{question.get('key')}; correct it"
            )
        for name in ifeval_kinds.ARGUMENTS[kind]:
            if (arguments or {}).get(name) is None:
                raise errors.DataError(
                    f"{kind} has no {name}; IFEval question {question.get('key')}; add it to kwargs"
                )


def follows(question: Mapping[str, Any], response: str, *, is_loose: bool) -> list[bool]:
    """Tells for each instruction of a question whether a response follows it; an empty one none."""
    texts = [text for text in (loose(response) if is_loose else [response]) if text.strip()]
    out = []
    for kind, given in zip(question["instruction_id_list"], question["kwargs"], strict=True):
        try:
            out.append(any(ifeval_kinds.KINDS[kind](text, given) for text in texts))
        except (re.error, TypeError, ValueError, AttributeError) as error:
            raise errors.DataError(
                f"{kind} cannot be checked ({error}); IFEval question {question.get('key')}; "
                "correct its kwargs"
            ) from error
    return out


def score(questions: Sequence[Mapping[str, Any]], responses: Sequence[str]) -> statistics.Scores:
    """Scores responses to IFEval's questions.

    Returns:
      values prompt_level_strict_accuracy: share of prompts whose instructions are all followed;
      instruction_level_strict_accuracy: share of instructions; and the same loosely. One verdict
      a question: {"strict": [...], "loose": [...]}. `by_group` has the instruction-level figures of
      each kind.
    """
    verdicts = []
    for question, response in zip(questions, responses, strict=True):
        check(question)
        verdicts.append(
            {
                "strict": follows(question, response, is_loose=False),
                "loose": follows(question, response, is_loose=True),
            }
        )
    values: dict[str, float] = {}
    errors_: dict[str, float | None] = {}
    for level in ("strict", "loose"):
        parts = {
            f"prompt_level_{level}_accuracy": [[all(one[level])] for one in verdicts],
            f"instruction_level_{level}_accuracy": [one[level] for one in verdicts],
        }
        for name, groups in parts.items():
            values[name], errors_[name] = statistics.clustered_mean(groups)
    return statistics.Scores(values, errors_, verdicts, _by_kind(questions, verdicts))


def _by_kind(questions: Iterable[Mapping], verdicts: Sequence[Mapping]) -> dict[str, dict]:
    kinds: dict[str, dict[str, list[bool]]] = {}
    for question, verdict in zip(questions, verdicts, strict=True):
        for i, kind in enumerate(question["instruction_id_list"]):
            found = kinds.setdefault(kind, {"strict": [], "loose": []})
            for level, followed in found.items():
                followed.append(verdict[level][i])
    return {
        kind: {"n": len(found["strict"])}
        | {level: sum(followed) / len(followed) for level, followed in found.items()}
        for kind, found in sorted(kinds.items())
    }
