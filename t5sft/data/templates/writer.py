"""The writer of written templates: a conversation becomes pieces, turn by turn."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from t5sft import errors
from t5sft.data import records
from t5sft.data.templates import pieces
from t5sft.data.templates.pieces import Piece, Weights

if TYPE_CHECKING:
    from t5sft.data.templates.written import Template, Tools, Turn


def fill(pattern: str, **fields: str) -> str:
    """Puts the fields into a pattern, once: what is put in is not searched again."""
    if pattern == "{content}":
        return fields["content"]
    names = "|".join(fields)
    return re.sub(rf"\{{({names})\}}", lambda match: fields[match.group(1)], pattern)


class Writer:
    """Writes one conversation."""

    def __init__(self, template: "Template", record: records.Record, weights: Sequence[Weights]):
        self.template, self.record, self.weights = template, record, weights
        self.where = f"{record.source or 'record'}[{record.number}]"
        messages = record.messages
        users = [i for i, message in enumerate(messages) if message.role == "user"]
        self.first_user, self.last_user = (users[0], users[-1]) if users else (-1, -1)
        if not messages or messages[-1].role != "assistant":
            raise errors.DataError(
                f"the conversation ends without an answer; {self.where}; drop the row"
            )
        if record.tools and template.tools is None:
            raise self.unable("write tool definitions")

    def unable(self, what: str) -> errors.DataError:
        name = self.template.name
        return errors.DataError(
            f"the template{f' {name!r}' if name else ''} cannot {what}; {self.where}; "
            "use another template"
        )

    def text(self, text: str, role: str, weight: float) -> Iterator[Piece]:
        """Writes the template's own text, which may hold control tokens."""
        optional = self.template.optional
        for part, is_control in pieces.split_controls(text, self.template.names):
            if part == "{space}":
                yield Piece(" ", role, weight, is_space=True)
            elif is_control:
                name = "bos" if part == "{bos}" else part
                yield Piece(name, role, weight, True, is_optional=part in optional)
            else:
                yield Piece(part, role, weight)

    def pieces(self) -> Iterator[Piece]:
        for i, message in enumerate(self.record.messages):
            weights = self.weights[i]
            if i == 0 and message.role != "system":
                yield from self.default_system()
            if message.role == "assistant":
                yield from self.assistant(i, message, weights)
            elif message.role == "tool":
                yield from self.result(i, message, weights.rest)
            elif message.role == "system" and i == 0:
                yield from self.system(message, weights)
            else:
                yield from self.turn(i, message, weights.rest)

    def default_system(self) -> Iterator[Piece]:
        """Writes the system turn of a conversation that has none: the default, and tools."""
        template = self.template
        tools = template.tools if self.record.tools else None
        holds_tools = tools is not None and tools.where == "system"
        if template.default_system is not None or holds_tools:
            message = records.Message("system", template.default_system or "")
            yield from self.system(message, Weights(0.0, 0.0))

    def system(self, message: records.Message, weights: Weights) -> Iterator[Piece]:
        """Writes the system turn, or nothing where a user turn holds it."""
        template = self.template
        if template.system_in != "turn":
            return
        turn = template.turns.get("system")
        if turn is None:
            raise self.unable("write a 'system' turn")
        tools = template.tools if self.record.tools else None
        before = turn.before
        if tools and tools.system_line:
            before = before.replace("{tools_line}", tools.system_line)
        before = before.replace("{tools_line}", "")
        yield from self.text(before, "system", weights.rest)
        yield Piece(fill(turn.pattern, content=message.content), "system", weights.rest)
        if tools and tools.where == "system":
            yield from self.definitions(tools, bool(message.content), weights.rest)
        yield from self.text(turn.after, "system", weights.rest)

    def definitions(self, tools: "Tools", follows: bool, weight: float) -> Iterator[Piece]:
        """Writes the definitions of the record's tools."""
        listed = pieces.read_json(self.record.tools, "tools", self.where)
        before, after = tools.definitions.split("{tools}")
        if not follows and tools.where == "system":
            before = before.lstrip("\n")
        yield from self.text(before, "system", weight)
        for i, tool in enumerate(listed):
            yield from self.text(tools.between_tools if i else "", "system", weight)
            first, last = tools.each.split("{tool}")
            yield from self.text(first, "system", weight)
            text = json.dumps(tool, ensure_ascii=False, indent=tools.indent)
            yield Piece(text, "system", weight)
            yield from self.text(last, "system", weight)
        yield from self.text(after, "system", weight)

    def turn(self, i: int, message: records.Message, weight: float) -> Iterator[Piece]:
        """Writes a turn that nobody learns by default."""
        template, role = self.template, message.role
        turn = template.turns.get(role)
        if turn is None:
            raise self.unable(f"write a {role!r} turn")
        before, pattern = turn.before, turn.pattern
        if message.context:
            pattern = turn.with_context
            if role == "user" and template.before_with_context is not None:
                before = template.before_with_context
        tools = template.tools if self.record.tools else None
        if tools and tools.where == "last_user" and i == self.last_user:
            yield from self.definitions(tools, False, weight)
        yield from self.text(before, role, weight)
        if role == "user":
            yield from self.system_inside(i)
            if tools and tools.where == "first_user" and i == self.first_user:
                yield from self.definitions(tools, False, weight)
        yield Piece(fill(pattern, content=message.content, context=message.context), role, weight)
        yield from self.text(turn.after, role, weight)

    def system_inside(self, i: int) -> Iterator[Piece]:
        """Writes the system prompt inside a user turn (Llama-2, Gemma, Mistral)."""
        template, first = self.template, self.record.messages[0]
        place = {"first_user": self.first_user, "last_user": self.last_user}
        if template.system_in == "turn" or i != place[template.system_in]:
            return
        content, weight = template.default_system, 0.0
        if first.role == "system":
            content, weight = first.content, self.weights[0].rest
        if content:
            before, after = template.system_pattern.split("{system}")
            yield from self.text(before, "system", weight)
            yield Piece(content, "system", weight)
            yield from self.text(after, "system", weight)

    def assistant(self, i: int, message: records.Message, weights: Weights) -> Iterator[Piece]:
        """Writes an answer: what is learnt is all that a model has to write itself."""
        template = self.template
        turn = template.turns["assistant"]
        yield from self.text(turn.before, "assistant", weights.rest)
        weight, is_first = weights.learnt, True
        is_last = i + 1 == len(self.record.messages)
        for piece in self.words(i, message, weight, turn):
            # An answer may be empty: then its content still says where it starts.
            if piece.text or is_first:
                yield piece._replace(starts_response=is_first)
                is_first = False
        yield Piece(template.end, "control", weight, True, is_ending=True)
        yield from self.text(turn.after, "assistant", weights.rest)
        if not is_last:
            yield from self.text(template.separator, "assistant", weights.rest)

    def words(
        self, i: int, message: records.Message, weight: float, turn: "Turn"
    ) -> Iterator[Piece]:
        """Writes thinking, content and tool calls."""
        template, tools = self.template, self.template.tools
        if message.thinking and not template.thinking:
            raise self.unable("write an assistant's thinking")
        is_last = i + 1 == len(self.record.messages)
        if template.thinking and i > self.last_user and (message.thinking or is_last):
            before, after = template.thinking.split("{thinking}")
            yield from self.text(before, "assistant", weight)
            yield Piece(message.thinking.strip("\n"), "assistant", weight)
            yield from self.text(after, "assistant", weight)
        calls = message.tool_calls
        if not calls or message.content:
            if turn.lead:
                yield Piece(turn.lead, "assistant", weight, is_space=turn.lead == " ")
            content = fill(turn.pattern, content=message.content, context=message.context)
            yield Piece(content, "assistant", weight)
            yield from self.text(turn.tail, "assistant", weight)
        if not calls:
            return
        if tools is None:
            raise self.unable("write tool calls")
        if tools.max_calls is not None and len(calls) > tools.max_calls:
            raise self.unable(f"write {len(calls)} tool calls in one turn")
        if message.content and tools.after_content is None:
            raise self.unable("write text beside a tool call")
        between = tools.after_content if message.content else ""
        yield from self.text((between or "") + tools.before_calls, "assistant", weight)
        for k, call in enumerate(calls):
            read = pieces.read_json(call.arguments, "tool call", self.where) or {}
            arguments = json.dumps(read, ensure_ascii=False)
            text = tools.between_calls if k else ""
            yield from self.text(text, "assistant", weight)
            fields = {"name": call.name, "arguments": arguments, "id": call.id}
            yield from self.filled(tools.call, fields, "assistant", weight)
        yield from self.text(tools.after_calls, "assistant", weight)

    def filled(self, pattern: str, fields: Mapping[str, str], role: str, weight: float):
        """Writes a pattern: its own text may hold control tokens, its fields may not."""
        for part in re.split(r"(\{[a-z]+\})", pattern):
            if part[1:-1] in fields:
                yield Piece(fields[part[1:-1]], role, weight)
            elif part:
                yield from self.text(part, role, weight)

    def result(self, i: int, message: records.Message, weight: float) -> Iterator[Piece]:
        """Writes what a tool answered; results in a row share one turn."""
        tools, messages = self.template.tools, self.record.messages
        if tools is None:
            raise self.unable("write a 'tool' turn")
        is_first = i == 0 or messages[i - 1].role != "tool"
        is_last = i + 1 == len(messages) or messages[i + 1].role != "tool"
        start = tools.before_results if is_first else tools.between_results
        yield from self.text(start, "tool", weight)
        k = next(k for k in range(i + 1) if messages[i - k - 1].role != "tool" or k == i)
        calls = messages[i - k - 1].tool_calls if i - k - 1 >= 0 else ()
        fields = {
            "content": message.content,
            "json": json.dumps(message.content, ensure_ascii=False),
            "id": calls[k].id if k < len(calls) else "",
        }
        yield from self.filled(tools.result, fields, "tool", weight)
        if is_last:
            yield from self.text(tools.after_results, "tool", weight)
