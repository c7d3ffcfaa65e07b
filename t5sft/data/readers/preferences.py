"""Formats that say which answer is better: pairs, single labels, and K ranked answers.

The record's messages are the prompt, its candidates the answers. Dropped by name: "chosen equals
rejected", "empty response", "the dialogues part before an answer".
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from t5sft.data.readers import conversations, fields, texts
from t5sft.data.records import Candidate, Dropped, Message, Record

_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
PROMPTS = ("prompt", "instruction", "question")
ANSWERS = ("responses", "completions", "answers", "candidates", "outputs")
_ANSWER_TEXTS = ("text", "response", "answer", "content", "completion", "output")
_ANSWER_SCORES = ("score", "overall_score", "reward", "rank")


def _prompt(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    name = fields.one_of(row, PROMPTS, where)
    found = texts.prompt_turns(row, name, where)
    if name == "instruction" and found[-1].role == "user":
        context = fields.optional_text(row, "input", "context", where=where)
        found = (*found[:-1], found[-1]._replace(context=context))
    return found


def _record(row, prompt, candidates: list[Candidate], where: str) -> Record:
    for candidate in candidates:
        last = candidate.messages[-1]
        if last.role != "assistant":
            fields.fail(f"an answer is a {last.role}'s", where)
        if not (last.content.strip() or last.tool_calls):
            raise Dropped("empty response")
    ordered, mended = conversations.tidy(prompt, ends="user")
    metadata = conversations.noted(fields.metadata(row, "topic", "stance"), mended)
    tools = conversations.tools(row, where)
    return Record(ordered, tools=tools, candidates=tuple(candidates), metadata=metadata)


def _pair(row, prompt, chosen, rejected, where: str) -> Record:
    if chosen == rejected:
        raise Dropped("chosen equals rejected")
    return _record(row, prompt, [Candidate(chosen, 1.0), Candidate(rejected, 0.0)], where)


Turns = tuple[Message, ...]


def _part(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """Splits two whole dialogues into what they share and how each goes on."""
    if chosen == rejected:
        raise Dropped("chosen equals rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    first, second = chosen[shared:], rejected[shared:]
    if not first or not second or first[0].role != "assistant" or second[0].role != "assistant":
        raise Dropped("the dialogues part before an answer")
    return chosen[:shared], first, second


def preference(row: Mapping[str, Any], where: str) -> Record:
    """Reads pairs with a prompt (`prompt`, `instruction`, `question`), texts or messages.

    Without a prompt, chosen and rejected are whole conversations that begin alike; they may also
    repeat the prompt.
    Example: {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    """
    chosen = texts.answer_turns(row.get("chosen", 0), "chosen", where)
    rejected = texts.answer_turns(row.get("rejected", 0), "rejected", where)
    if not any(name in row for name in PROMPTS):
        if isinstance(row["chosen"], str):
            fields.fail("chosen and rejected without a prompt", where)
        return _pair(row, *_part(chosen, rejected), where)
    prompt = _prompt(row, where)
    if len(chosen) > 1 and len(rejected) > 1 and chosen[0] == rejected[0]:
        shared, chosen, rejected = _part(chosen, rejected)
        if [one.content for one in shared if one.role == "user"][-1:] != [prompt[-1].content]:
            fields.fail("the prompt and the conversations' begin are two prompts", where)
        prompt = shared
    return _pair(row, prompt, chosen, rejected, where)


def preference_sharegpt(row: Mapping[str, Any], where: str) -> Record:
    """Reads pairs after a conversation, in ShareGPT's or OpenAI's names.

    Example: {"conversations": [...], "chosen": {"from": "gpt", "value": "4"}, "rejected": {...}}
    """
    name = fields.one_of(row, ("conversations", "messages"), where)
    prompt = conversations.with_system(row, conversations.turns(row[name], name, where), where)
    chosen = texts.answer_turns(row.get("chosen", 0), "chosen", where)
    rejected = texts.answer_turns(row.get("rejected", 0), "rejected", where)
    return _pair(row, prompt, chosen, rejected, where)


def hh(row: Mapping[str, Any], where: str) -> Record:
    r"""Reads pairs of whole dialogues as Anthropic's HH-RLHF writes them (arXiv:2204.05862).

    Example: {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?..."}
    """
    chosen, rejected = (
        _dialogue(fields.text(row, name, where=where), f"{where}, {name}")
        for name in ("chosen", "rejected")
    )
    return _pair(row, *_part(chosen, rejected), where)


def _dialogue(content: str, where: str) -> tuple[Message, ...]:
    parts = _HH_TURN.split(content)
    if parts[0].strip() or len(parts) < 3 or parts[1] != "Human":
        fields.fail("a dialogue that does not begin with a blank line and Human:", where)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(Message(roles[who], what.strip()) for who, what in turns)


def kto(row: Mapping[str, Any], where: str) -> Record:
    """Reads one answer with a label: true wanted, false unwanted (arXiv:2402.01306).

    The prompt and answer are a conversation, or prompt/completion, or Alpaca's fields.
    Example: {"prompt": "2+2?", "completion": "4", "label": true}; `kto_tag` is a label, too
    """
    name = fields.one_of(row, ("label", "kto_tag"), where)
    label = row[name]
    if label not in (0, 1) or not isinstance(label, bool | int):
        fields.fail(f"field {name!r} is {label!r}, not true or false", where)
    if "messages" in row:
        record = conversations.messages(row, where)
    elif "conversations" in row:
        record = conversations.sharegpt(row, where)
    elif "prompt" in row:
        record = texts.prompt_completion(row, where)
    else:
        record = texts.alpaca(row, where)
    answer = Candidate(record.messages[-1:], float(label))
    return record._replace(messages=record.messages[:-1], candidates=(answer,))


def ranked(row: Mapping[str, Any], where: str) -> Record:
    """Reads K answers to a prompt, with scores (higher is better) or ranks (1 is the best).

    Scores stand beside the answers (`scores`, `ranks`), or in each (`score`, `overall_score`,
    `reward`, `rank`).
    Example: {"prompt": "2+2?", "responses": ["4", "5", "four"], "scores": [1.0, 0.0, 0.8]}
    """
    name = fields.one_of(row, ANSWERS, where)
    listed = fields.as_list(row[name], name, where)
    if len(listed) < 2:
        raise Dropped("fewer than two answers")
    outside = fields.one_of(row, ("scores", "ranks", "rankings"), where, "inside")
    if outside != "inside":
        scores = [
            fields.as_number(one, outside, where)
            for one in fields.as_list(row[outside], outside, where)
        ]
        if len(scores) != len(listed):
            fields.fail(f"{len(listed)} answers, but {len(scores)} {outside}", where)
        answers = [_answer(one, name, where) for one in listed]
        by_rank = outside != "scores"
    else:
        answers, scores, kinds = [], [], set()
        for one in listed:
            if not isinstance(one, Mapping):
                fields.fail("answers without scores", where)
            one = fields.present(one)
            kind = fields.one_of(one, _ANSWER_SCORES, where)
            kinds.add(kind == "rank")
            scores.append(fields.as_number(one[kind], kind, where))
            answers.append(_answer(one, name, where))
        if len(kinds) > 1:
            fields.fail("answers with scores and answers with ranks", where)
        by_rank = kinds == {True}
    if not all(math.isfinite(score) for score in scores):
        fields.fail("a score that is not finite", where)
    candidates = [
        Candidate(turns, -score if by_rank else score)
        for turns, score in zip(answers, scores, strict=True)
    ]
    return _record(row, _prompt(row, where), candidates, where)


def _answer(value: Any, name: str, where: str) -> tuple[Message, ...]:
    if isinstance(value, Mapping) and not ({"role", "from"} & set(value)):
        value = fields.text(fields.present(value), *_ANSWER_TEXTS, where=where)
    return texts.answer_turns(value, name, where)
