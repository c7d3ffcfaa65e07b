"""Templates: a record becomes one string, cut into pieces that know their role and loss weight.

A template is data. Control tokens (beginning of text, end of turn) come from the template alone:
text from a user is never read for them.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from t5sft import errors
from t5sft.data import records

ROLES = ("control", "system", "user", "assistant", "text")  # Piece.role, in this order on disk


class Piece(NamedTuple):
    """A stretch of text, or one control token, with what it counts for in the loss."""

    text: str  # the text; "eos" for the end token, the one control token inside a conversation
    role: str
    weight: float  # loss weight of its tokens
    is_control: bool = False
    starts_response: bool = False  # generation starts here: no token reaches across


@dataclasses.dataclass(frozen=True)
class Turn:
    """How a message of one role is written: `before`, content, `after`.

    `{content}` and `{context}` stand for the message's own text; nothing else is replaced, and
    the text put in is not searched again.
    """

    before: str = ""
    pattern: str = "{content}"
    with_context: str = "{content}\n\n{context}"
    after: str = ""


@dataclasses.dataclass(frozen=True)
class Template:
    """One way of writing conversations. Every assistant turn ends with the end-of-text token."""

    turns: Mapping[str, Turn]
    before_with_context: str | None = None  # replaces the user turn's `before` (Alpaca)


_ALPACA = "Below is an instruction that describes a task{}. " + (
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
)
TEMPLATES = {
    # T5: the instruction is the encoder's text as it stands, the answer the decoder's.
    "plain": Template({"user": Turn(), "assistant": Turn()}),
    # A decoder needs a border between instruction and answer.
    "lines": Template({"user": Turn(after="\n"), "assistant": Turn()}),
    # The two prompts of github.com/tatsu-lab/stanford_alpaca, train.py.
    "alpaca": Template(
        {
            "user": Turn(
                before=_ALPACA.format(""),
                with_context="{content}\n\n### Input:\n{context}",
                after="\n\n### Response:\n",
            ),
            "assistant": Turn(after=""),
        },
        before_with_context=_ALPACA.format(", paired with an input that provides further context"),
    ),
}


def get(name: str) -> Template:
    """Returns the template of this name, or raises ConfigError naming the nearest."""
    if name not in TEMPLATES:
        raise errors.ConfigError(
            f"unknown template {name!r}{errors.suggest(name, TEMPLATES)}; template; "
            f"use one of {', '.join(TEMPLATES)}"
        )
    return TEMPLATES[name]


def _fill(pattern: str, message: records.Message) -> str:
    fields = {"{content}": message.content, "{context}": message.context}
    return re.sub(r"\{content\}|\{context\}", lambda match: fields[match.group()], pattern)


def render(record: records.Record, template: Template) -> list[Piece]:
    """Writes a whole conversation once. The weights are those of the policy "targets".

    Every assistant turn and the end token after it weigh the message's own weight, all else 0.

    Raises:
      DataError: a role the template cannot write, or no assistant turn at the end.

    Example (template "lines"):
      user "Name a prime."  ->  "Name a prime." "\\n"   weight 0
      assistant "2"         ->  "2" <eos>               weight 1
    """
    where = f"{record.source or 'record'}[{record.number}]"
    pieces = []
    for message in record.messages:
        turn = template.turns.get(message.role)
        if turn is None:
            raise errors.DataError(
                f"the template has no {message.role!r} turn; {where}; use another template"
            )
        before, pattern = turn.before, turn.pattern
        if message.context:
            pattern = turn.with_context
            if message.role == "user" and template.before_with_context is not None:
                before = template.before_with_context
        learns = message.role == "assistant"
        weight = message.weight if learns else 0.0
        pieces.append(Piece(before, message.role, 0.0))
        content = _fill(pattern, message)
        pieces.append(Piece(content, message.role, weight, starts_response=learns))
        if learns:
            pieces.append(Piece("eos", "control", weight, is_control=True))
        pieces.append(Piece(turn.after, message.role, 0.0))
    if record.messages[-1].role != "assistant":
        raise errors.DataError(f"the conversation ends without an answer; {where}; drop the row")
    return [piece for piece in pieces if piece.text or piece.starts_response]


def render_prompt(record: records.Record, template: Template) -> list[Piece]:
    """Writes the conversation up to its last answer: what a model is given to answer.

    It is the front part of `render` by construction, so that training and inference cannot differ.
    """
    pieces = render(record, template)
    last = max(i for i, piece in enumerate(pieces) if piece.starts_response)
    return pieces[:last]
