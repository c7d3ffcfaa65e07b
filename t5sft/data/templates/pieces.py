"""Pieces: what a template makes of a conversation, and what both kinds of template share."""

import functools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from t5sft import errors
from t5sft.data import records

# Piece.role; a cache stores the place in this tuple.
ROLES = ("control", "system", "user", "assistant", "text", "tool")


class Piece(NamedTuple):
    """A stretch of text, or one control token, with what it counts for in the loss."""

    text: str  # the text; a control token: its name, "bos" and "eos" are the vocabulary's own
    role: str  # whose turn it is in; the tokens of a control token have the role "control"
    weight: float  # loss weight of its tokens
    is_control: bool = False
    starts_response: bool = False  # generation starts here: no token reaches across
    is_space: bool = False  # the template's own space before an answer, see `tokens.tokenize`
    is_ending: bool = False  # the control token that ends an assistant's turn
    is_optional: bool = False  # a control token that may also be spelled as text


class Weights(NamedTuple):
    """Loss weights of one message: what a policy of `preprocess.weigh` decides."""

    learnt: float  # an assistant's words and the token that ends its turn
    rest: float  # what the template writes around them, and every other role's words


def default_weights(record: records.Record) -> list[Weights]:
    """Returns the policy "all_assistant": assistants' messages weigh their own weight."""
    return [Weights(m.weight if m.role == "assistant" else 0.0, 0.0) for m in record.messages]


@functools.lru_cache(maxsize=4096)
def split_controls(text: str, names: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
    """Cuts a template's text at the control tokens in it: (text, whether it is one).

    Example (names "<|im_end|>"):
      "<|im_end|>\\n"  ->  ("<|im_end|>", True), ("\\n", False)
    """
    if not names:
        return ((text, False),) if text else ()
    # The longest name first: one may begin another.
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    parts = re.split(f"({pattern})", text)
    return tuple((part, i % 2 == 1) for i, part in enumerate(parts) if part)


def prompt_of(pieces: Sequence[Piece]) -> list[Piece]:
    """Returns what stands before the last place where generation starts."""
    last = max(i for i, piece in enumerate(pieces) if piece.starts_response)
    return list(pieces[:last])


def read_json(text: str, what: str, where: str) -> Any:
    """Reads JSON that a record carries; nothing is an empty list."""
    try:
        return json.loads(text) if text else []
    except ValueError as error:
        raise errors.DataError(
            f"the {what} is not JSON ({error}); {where}; mend or drop the row"
        ) from error
