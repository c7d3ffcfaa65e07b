"""Marks: private-use characters around a message's words, which tell where they end up.

Every word of a conversation stands between two characters of its own number, so the rendering says
by itself where each came from. Strings inside tools and tool calls are marked only where they spell
a control token: so it stays text.
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from t5sft import errors
from t5sft.data import records
from t5sft.data.templates import pieces

_PLANES = (0xF0000, 0x100000)  # Unicode's two supplementary private-use planes
_LAST = 0xFFF0  # numbers of one plane; those behind mark {% generation %}


class Marks(NamedTuple):
    """Which strings are marked, and by what."""

    plane: int
    words: dict[int, tuple[int, int]]  # number -> whitespace left outside, before and after
    names: re.Pattern | None  # control tokens that a tool's string must not become

    def around(self, number: int) -> tuple[str, str]:
        """Returns the two characters of a number."""
        return chr(self.plane + 2 * number), chr(self.plane + 2 * number + 1)

    def are_kept(self, record: records.Record, found: "Found") -> bool:
        """Says whether every word that was found is written as it was given."""
        count = len(record.messages)
        for number, (before, after) in self.words.items():
            message = record.messages[number % count]
            text = content(message) if number < count else message.thinking
            begin, end = found.regions.get(number, (0, 0))
            if end and found.text[begin:end] != text[before : len(text) - after]:
                return False
        return True

    @property
    def generation(self) -> tuple[str, str]:
        """The two characters around what {% generation %} encloses."""
        return chr(self.plane + _LAST), chr(self.plane + _LAST + 1)


class Found(NamedTuple):
    """A rendering without its marks, and where they were."""

    text: str
    regions: dict[int, tuple[int, int]]  # number -> first character, one after the last
    generations: list[tuple[int, int]]

    def begin_of(self, i: int, count: int) -> int | None:
        """Returns where the words of message `i` of `count` begin: its thinking or content."""
        begins = [self.regions[k][0] for k in (i, count + i) if k in self.regions]
        return min(begins, default=None)

    def end_of(self, i: int, count: int, default: int) -> int:
        """Returns where the words of message `i` end."""
        return max([self.regions[k][1] for k in (i, count + i) if k in self.regions] + [default])

    def fragments(
        self, names: tuple[str, ...], count: int
    ) -> list[tuple[int, int, int | None, bool]]:
        """Cuts the text: (first character, one after the last, message, is a control token)."""
        out: list[tuple[int, int, int | None, bool]] = []
        at = 0
        for begin, end, number in (
            *sorted((b, e, k) for k, (b, e) in self.regions.items()),
            (len(self.text), len(self.text), 0),
        ):
            for part, is_control in pieces.split_controls(self.text[at:begin], names):
                out.append((at, at + len(part), None, is_control))
                at += len(part)
            if end > begin:
                out.append((begin, end, number % count if number < 2 * count else None, False))
                at = end
        return out


def attempts(record: records.Record, names: Sequence[str]) -> Iterator[Marks]:
    """Yields ways of marking, the one that leaves least whitespace outside first.

    Templates trim messages, some roles or all, one side or both: whitespace that is trimmed away
    must stand outside the marks, or the rendering changes.

    Raises:
      DataError: the text uses both private-use planes itself.
    """
    texts = json.dumps(record, ensure_ascii=False)
    free = [p for p in _PLANES if not any(p <= ord(c) <= p + 0xFFFF for c in set(texts))]
    if not free:
        raise errors.DataError(
            "a conversation uses characters of both private-use planes of Unicode; "
            f"{record.source}[{record.number}]; drop the row"
        )
    spelled = re.compile("|".join(map(re.escape, names))) if names else None
    count = len(record.messages)
    words = {}  # number -> (kind, text)
    for i, message in enumerate(record.messages):
        for number, kind, text in (
            (i, message.role, content(message)),
            (count + i, "thinking", message.thinking),
        ):
            if text.strip():
                words[number] = (kind, text)
    kinds = sorted({kind for kind, text in words.values() if text != text.strip()})
    cuts = list(itertools.product((None, "\n", " "), repeat=2))
    ways: dict[tuple, dict[int, tuple[int, int]]] = {}
    for chosen in itertools.product(cuts, repeat=min(len(kinds), 3)):
        by_kind = dict(zip(kinds, chosen, strict=False))
        marked = {n: _outside(text, *by_kind.get(kind, (None, None))) for n, (kind, text) in
                  words.items()}  # fmt: skip
        ways.setdefault(tuple(marked.values()), marked)
    for marked in sorted(ways.values(), key=lambda way: sum(map(sum, way.values())))[:200]:
        yield Marks(free[0], marked, spelled)


def content(message: records.Message) -> str:
    """Returns what a template gets as the message's content."""
    return f"{message.content}\n\n{message.context}" if message.context else message.content


def _outside(text: str, left: str | None, right: str | None) -> tuple[int, int]:
    """Returns how much of a text is trimmed: nothing, its newlines, or all its whitespace."""
    strip = {"\n": "\n", " ": None}
    before = 0 if left is None else len(text) - len(text.lstrip(strip[left]))
    after = 0 if right is None else len(text) - len(text.rstrip(strip[right]))
    return before, after


def conversation(
    record: records.Record, count: int, marks: Marks | None, where: str
) -> dict[str, Any]:
    """Returns the variables that transformers gives a template, of the first `count` messages."""
    total = len(record.messages)
    numbers = itertools.count(2 * total)

    def word(number: int, text: str) -> str:
        if marks is None or number not in marks.words:
            return text
        before, after = marks.words[number]
        begin, end = marks.around(number)
        last = len(text) - after
        return text[:before] + begin + text[before:last] + end + text[last:]

    def data(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: data(one) for key, one in value.items()}
        if isinstance(value, list):
            return [data(one) for one in value]
        if isinstance(value, str) and marks and marks.names and marks.names.search(value):
            begin, end = marks.around(next(numbers))
            return begin + value + end
        return value

    tools = [data(tool) for tool in pieces.read_json(record.tools, "tools", where)] or None
    messages: list[dict[str, Any]] = []
    calls: list[str] = []  # ids of the calls that wait for their results
    for i, message in enumerate(record.messages[:count]):
        made: dict[str, Any] = {"role": message.role, "content": word(i, content(message))}
        if message.thinking:
            # Two names are in use: Qwen and DeepSeek have the first, gpt-oss the second.
            made["reasoning_content"] = made["thinking"] = word(total + i, message.thinking)
        if message.tool_calls:
            calls = [call.id for call in message.tool_calls]
            made["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {
                        "name": data(call.name),
                        "arguments": data(
                            pieces.read_json(call.arguments, "tool call", where) or {}
                        ),
                    },
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            made |= {"name": message.name, "tool_call_id": calls.pop(0) if calls else ""}
        messages.append(made)
    return {"messages": messages, "tools": tools}


def read(marked: str, marks: Marks) -> Found | None:
    """Takes the marks out of a rendering; None where they are torn, doubled or nested."""
    out: list[str] = []
    regions: dict[int, tuple[int, int]] = {}
    generations: list[tuple[int, int]] = []
    at = size = 0
    inside: tuple[int, int] | None = None  # number, where it began
    generation: int | None = None
    for match in re.finditer(f"[{chr(marks.plane)}-{chr(marks.plane + 0xFFFF)}]", marked):
        out.append(marked[at : match.start()])
        size += match.start() - at
        at = match.end()
        code = ord(match.group()) - marks.plane
        number, is_end = code // 2, code % 2
        if code >= _LAST:
            if (generation is not None) != bool(is_end):
                return None
            if generation is not None:
                generations.append((generation, size))
            generation = None if is_end else size
        elif not is_end:
            if inside is not None or number in regions:
                return None
            inside = (number, size)
        else:
            if inside is None or inside[0] != number:
                return None
            regions[number] = (inside[1], size)
            inside = None
    if inside is not None or generation is not None:
        return None
    return Found("".join(out) + marked[at:], regions, generations)
