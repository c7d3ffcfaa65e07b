"""Written templates: how each role's turn is written, as data, and the one renderer of them all."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from t5sft import errors
from t5sft.data import records
from t5sft.data.templates import pieces, writer
from t5sft.data.templates.pieces import Piece, Weights


@dataclasses.dataclass(frozen=True)
class Turn:
    """How a message of one role is written: `before`, content, `after`.

    `{content}` and `{context}` stand for the message's own text; nothing else is replaced, and
    the text put in is not searched again. `before` and `after` may hold control tokens: the names
    in the template's `controls`, and `{bos}`; and `{space}`, see `Piece.is_space`.

    An assistant's turn is `before`, then generation starts, then `lead`, content, `tail`, the end
    token, `after`.
    """

    before: str = ""
    pattern: str = "{content}"
    with_context: str = "{content}\n\n{context}"
    after: str = ""
    lead: str = ""
    tail: str = ""


@dataclasses.dataclass(frozen=True)
class Tools:
    """How tools are defined, called and answered. `{...}` as named below, nothing else.

    Args:
      where: definitions stand at the end of the system turn, at the start of the first user turn's
        text, or before the last user turn.
      definitions: around `{tools}`; each: one tool, `{tool}` being its JSON.
      call: one call, of `{name}`, `{arguments}` (JSON), `{id}`; with content before it, `{call}`
        follows `after_content`, or "" where a call must stand alone.
      result: one result: `{content}` as it is, or `{json}`, the content as JSON; and `{id}`.
    """

    where: Literal["system", "first_user", "last_user"]
    definitions: str
    each: str
    call: str
    result: str
    between_tools: str = ""
    before_calls: str = ""
    between_calls: str = "\n"
    after_calls: str = ""
    after_content: str | None = "\n"
    before_results: str = ""
    between_results: str = "\n"
    after_results: str = ""
    indent: int | None = None
    max_calls: int | None = None
    system_line: str = ""  # begins the system turn of a conversation with tools


@dataclasses.dataclass(frozen=True)
class Template:
    """One way of writing conversations. Every assistant turn ends with the token `end`.

    Args:
      turns: role -> how its turn is written.
      before_with_context: replaces the user turn's `before` where there is context (Alpaca).
      controls: control tokens in the texts above; a vocabulary must have them.
      optional: control tokens that are spelled as text where a vocabulary lacks them.
      end: the control token that ends an assistant's turn; "eos": the vocabulary's own.
      default_system: the system prompt of a conversation without one; None: no system turn.
      system_in: where system prompts go in formats that have no turn for them, by
        `system_pattern` of `{system}`, followed by the user's text.
      separator: written after every assistant turn but the last.
      thinking: around `{thinking}`, in the turns after the last user message; the thinking of
        earlier turns is left out (Qwen 3).
    """

    turns: Mapping[str, Turn]
    before_with_context: str | None = None
    controls: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    end: str = "eos"
    default_system: str | None = None
    system_in: Literal["turn", "first_user", "last_user"] = "turn"
    system_pattern: str = "{system}\n\n"
    separator: str = ""
    thinking: str = ""
    tools: Tools | None = None
    name: str = ""
    adds_bos: bool = True  # a decoder's sequence begins with the vocabulary's bos, if it has one

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Every control token that the texts may hold."""
        return (*self.controls, *self.optional, "{bos}", "{space}")

    def __hash__(self):
        return id(self)

    def ending(self) -> str:
        """Returns the name of the control token that ends a turn."""
        return self.end

    def render(
        self, record: records.Record, weights: Sequence[Weights] | None = None
    ) -> list[Piece]:
        """See `templates.render`."""
        weights = weights or pieces.default_weights(record)
        if not record.tools and all(map(_is_plain, record.messages)):
            shape = tuple((m.role, bool(m.context)) for m in record.messages)
            with contextlib.suppress(errors.DataError):  # raised below, of this very record
                mould = _mould(self, shape, tuple(weights))
                return [_cast(part, record.messages) for part in mould]
        return list(writer.Writer(self, record, weights).pieces())

    def render_prompt(self, record: records.Record) -> list[Piece]:
        """See `templates.render_prompt`."""
        return pieces.prompt_of(self.render(record))


def _is_plain(message: records.Message) -> bool:
    return bool(message.content and not message.thinking and not message.tool_calls)


class _Part(NamedTuple):
    """A piece with gaps: `texts` are constant text, or (message, whether its context)."""

    piece: Piece
    texts: tuple[str | tuple[int, bool], ...]


@functools.lru_cache(maxsize=4096)
def _mould(template: Template, shape, weights: tuple[Weights, ...]) -> tuple[_Part, ...]:
    """Writes a conversation of this shape once, with gaps: filling them is quick.

    Pieces that differ in nothing but the text become one.
    """
    gaps: dict[str, tuple[int, bool]] = {}
    messages = []
    for i, (role, has_context) in enumerate(shape):
        names = [f"\0{i}\0", f"\0{i}c\0" if has_context else ""]
        gaps |= {names[0]: (i, False), names[1]: (i, True)}
        messages.append(records.Message(role, names[0], names[1]))
    record = records.Record(tuple(messages), "a conversation", 0)
    out: list[_Part] = []
    for piece in writer.Writer(template, record, weights).pieces():
        parts = [part for part in re.split("(\0[0-9]+c?\0)", piece.text) if part]
        texts = tuple(gaps[part] if part in gaps else part for part in parts)
        if out and _is_text(piece) and _continues(out[-1].piece, piece):
            out[-1] = out[-1]._replace(texts=out[-1].texts + texts)
        else:
            out.append(_Part(piece, texts))
    return tuple(out)


def _is_text(piece: Piece) -> bool:
    return not (piece.is_control or piece.starts_response or piece.is_space)


def _continues(last: Piece, piece: Piece) -> bool:
    """Says whether a piece only goes on with the one before, which may start an answer."""
    same = last.role == piece.role and last.weight == piece.weight
    return same and not (last.is_control or last.is_space)


def _cast(part: _Part, messages: Sequence[records.Message]) -> Piece:
    """Fills the gaps of a part."""
    texts = part.texts
    if len(texts) == 1 and isinstance(texts[0], str):
        return part.piece
    words = []
    for text in texts:
        if isinstance(text, str):
            words.append(text)
        else:
            message = messages[text[0]]
            words.append(message.context if text[1] else message.content)
    return Piece("".join(words), *part.piece[1:])
