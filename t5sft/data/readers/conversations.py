"""Conversations: OpenAI's `messages` and ShareGPT's `conversations`, to messages in good order.

The two differ in names only, and files mix them. Rules for what is out of order (each is told in
the record's metadata as `mended`, or drops the record by name; nothing is silent):

- turns before the first user's are removed, system ones excepted: "leading turns removed"
- users' or tools' turns after the last assistant's are removed: "trailing turns removed"
- turns of one user, assistant or system in a row are joined by an empty line: "turns joined"
- an empty system turn is removed: "empty system turn removed"
- dropped: "empty turn", "empty response", "no user turn", "no answer", "tool result without call",
  "answer after a call without result"
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from t5sft.data.readers import fields
from t5sft.data.records import Dropped, Message, Record, ToolCall

_SPELLINGS = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter", "customer"),
    "assistant": ("assistant", "gpt", "bot", "chatgpt", "model", "bard", "bing", "ai", "agent"),
    "tool": (
        "tool", "function", "observation", "ipython", "tool_response", "tool_result",
        "function_response", "tool response", "function response", "environment",
    ),
    "call": ("function_call", "tool_call", "function call", "tool call"),
}  # fmt: skip
_ROLES = {spelling: role for role, names in _SPELLINGS.items() for spelling in names}


def messages(row: Mapping[str, Any], where: str) -> Record:
    """Reads OpenAI's format: `messages` of role and content, with tools, calls and results.

    Example: {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", ...}]}
    """
    return _record(row, "messages", where)


def sharegpt(row: Mapping[str, Any], where: str) -> Record:
    """Reads ShareGPT's format: `conversations` of from and value.

    Example: {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", ...}]}
    """
    return _record(row, fields.one_of(row, ("conversations", "conversation"), where), where)


def _record(row: Mapping[str, Any], name: str, where: str) -> Record:
    found = with_system(row, turns(row[name], name, where) if name in row else (), where)
    if name not in row:
        fields.fail(f"no field {name!r}", where)
    ordered, mended = tidy(found)
    return Record(ordered, tools=tools(row, where), metadata=noted(fields.metadata(row), mended))


def noted(metadata: dict[str, str], mended: Sequence[str]) -> dict[str, str]:
    """Adds to a record's metadata what was put in order."""
    return {**metadata, "mended": ", ".join(mended)} if mended else metadata


def with_system(row: Mapping[str, Any], found: Sequence[Message], where: str):
    """Puts a row's own `system` text first."""
    name = fields.one_of(row, ("system", "system_prompt"), where, "system")
    system = fields.as_text(row.get(name, ""), name, where)
    if not system.strip():
        return tuple(found)
    if found and found[0].role == "system":
        if found[0].content.strip() != system.strip():
            fields.fail(f"field {name!r} and the first turn are two system prompts", where)
        return tuple(found)
    return (Message("system", system), *found)


def tools(row: Mapping[str, Any], where: str) -> str:
    """Returns the tools of a row as JSON text, "" if there are none."""
    name = fields.one_of(row, ("tools", "functions"), where, "tools")
    value = row.get(name, "")
    if not value or (isinstance(value, str) and not value.strip()):
        return ""
    listed = fields.as_json(value, name, where)
    return "" if json.loads(listed) in ([], {}, None) else listed


def turns(value: Any, name: str, where: str) -> tuple[Message, ...]:
    """Reads a list of turns.

    Raises:
      DataError: a turn of unknown role, without content, or with a part that is not text.
    """
    found: list[Message] = []
    names: dict[str, str] = {}  # of the tools, by the id of their call
    for number, one in enumerate(fields.as_list(value, name, where)):
        place = f"{where}, {name}[{number}]"
        if not isinstance(one, Mapping):
            fields.fail(f"a turn is {fields.kind(one)}, not an object", place)
        message = turn(fields.present(one), names, place)
        names |= {call.id: call.name for call in message.tool_calls if call.id}
        found.append(message)
    return tuple(found)


def turn(one: Mapping[str, Any], names: Mapping[str, str], where: str) -> Message:
    """Reads one turn, with its role in any spelling."""
    role = role_of(fields.text(one, "role", "from", where=where), where)
    content = _content(one, where)
    if role == "call":
        return Message(
            "assistant", "", weight=_weight(one, where), tool_calls=_calls(content, where)
        )
    calls: tuple[ToolCall, ...] = ()
    if role == "assistant":
        calls = _openai_calls(one, where)
    elif "tool_calls" in one and one["tool_calls"]:
        fields.fail(f"a {role}'s turn has tool_calls", where)
    speaker = ""
    if role == "tool":
        speaker = fields.optional_text(one, "name", where=where)
        call_id = one.get("tool_call_id")
        if call_id and not speaker:
            if call_id not in names:
                fields.fail(f"no earlier tool call {call_id!r}", where)
            speaker = names[call_id]
    thinking = fields.optional_text(one, "reasoning_content", "thinking", "reasoning", where=where)
    if thinking and role != "assistant":
        fields.fail(f"a {role}'s turn has thinking", where)
    return Message(
        role, content, weight=_weight(one, where), thinking=thinking, tool_calls=calls, name=speaker
    )


def role_of(spelling: str, where: str) -> str:
    """Returns system, user, assistant, tool, or call (an assistant that calls a tool)."""
    role = _ROLES.get(spelling.strip().lower().replace("-", "_")) or _ROLES.get(spelling.lower())
    if role is None:
        fields.fail(f"unknown role {spelling!r}", where, f"known: {', '.join(_ROLES)}")
    return role  # type: ignore[return-value]


def _content(one: Mapping[str, Any], where: str) -> str:
    name = fields.one_of(one, ("content", "value"), where, "content")
    if name not in one:
        if one.get("tool_calls") or one.get("function_call"):
            return ""  # null where an assistant only calls
        fields.fail("a turn without content", where)
    value = one[name]
    if isinstance(value, str):
        return value
    texts = []
    for part in fields.as_list(value, name, where):
        if not isinstance(part, Mapping) or part.get("type", "text") != "text":
            type_ = part.get("type") if isinstance(part, Mapping) else fields.kind(part)
            fields.fail(f"a part of the content is {type_!r}, not text", where)
        texts.append(fields.text(part, "text", where=where))
    return "".join(texts)


def _weight(one: Mapping[str, Any], where: str) -> float:
    if "weight" not in one:
        return 1.0
    weight = fields.as_number(one["weight"], "weight", where)
    if not math.isfinite(weight) or weight < 0:
        fields.fail(f"field 'weight' is {weight}, not a number from 0", where)
    return weight


def _openai_calls(one: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:
    listed = fields.as_list(one.get("tool_calls") or [], "tool_calls", where)
    if one.get("function_call"):  # before there were several
        listed.append(one["function_call"])
    return tuple(_call(call, where) for call in listed)


def _calls(content: str, where: str) -> tuple[ToolCall, ...]:
    """Reads a turn that is a call: JSON of one call or a list of them."""
    value = json.loads(fields.as_json(content, "a function call", where))
    return tuple(_call(call, where) for call in (value if isinstance(value, list) else [value]))


def _call(call: Any, where: str) -> ToolCall:
    if not isinstance(call, Mapping):
        fields.fail(f"a tool call is {fields.kind(call)}, not an object", where)
    call = fields.present(call)
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        fields.fail(f"a tool call's function is {fields.kind(function)}, not an object", where)
    arguments = fields.present(function).get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    name = fields.text(fields.present(function), "name", where=where)
    return ToolCall(name, arguments, fields.optional_text(call, "id", where=where))


def tidy(
    found: Sequence[Message], *, ends: str = "assistant"
) -> tuple[tuple[Message, ...], list[str]]:
    """Puts a conversation in order; returns it and what was mended (the rules are above).

    Args:
      ends: role of the last turn: "assistant", or "user" for the prompt of a preference.

    Raises:
      Dropped: what cannot be mended, by name.
    """
    mended: list[str] = []
    kept = [one for one in found if one.role != "system" or one.content.strip()]
    if len(kept) != len(found):
        mended.append("empty system turn removed")
    start = next((n for n, one in enumerate(kept) if one.role == "user"), None)
    if start is None:
        raise Dropped("no user turn")
    leading = [one for one in kept[:start] if one.role == "system"]
    if len(leading) != start:
        mended.append("leading turns removed")
    kept = [*leading, *kept[start:]]
    wanted = ("assistant",) if ends == "assistant" else ("user", "tool")
    end = max((n for n, one in enumerate(kept, 1) if one.role in wanted), default=0)
    if not end:
        raise Dropped("no answer")
    if end != len(kept):
        mended.append("trailing turns removed")
    joined: list[Message] = []
    for one in kept[:end]:
        if one.role in ("user", "assistant") and not (one.content.strip() or one.tool_calls):
            is_last = len(joined) and one is kept[end - 1] and one.role == "assistant"
            raise Dropped("empty response" if is_last else "empty turn")
        before = joined[-1] if joined else None
        if one.role == "tool" and (before is None or before.role not in ("assistant", "tool")):
            raise Dropped("tool result without call")
        if before is not None and before.role == one.role != "tool":
            joined[-1] = _join(before, one)
            if "turns joined" not in mended:
                mended.append("turns joined")
        else:
            joined.append(one)
    return tuple(joined), mended


def _join(first: Message, second: Message) -> Message:
    if first.weight != second.weight:
        raise Dropped("turns in a row with two weights")
    if first.tool_calls and (second.content or second.thinking):
        raise Dropped("answer after a call without result")
    texts = (first.content, first.context, second.content)
    return first._replace(
        content="\n\n".join(text for text in texts if text),
        context=second.context,
        thinking="\n\n".join(text for text in (first.thinking, second.thinking) if text),
        tool_calls=first.tool_calls + second.tool_calls,
    )
