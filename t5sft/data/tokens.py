"""Tokens: pieces of a rendered conversation become token ids, weights and roles.

A conversation is tokenised once, each stretch between control tokens and starts of an answer in one
go. A token never reaches across the place where generation starts, because at inference the prompt
is tokenised before any answer exists: so the ids of a training prompt equal those of the same
prompt at inference.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from t5sft import errors
from t5sft.data import records, templates, vocab

ROLE = {name: i for i, name in enumerate(templates.ROLES)}


class Tokens(NamedTuple):
    """Parallel columns, lists or arrays: one entry per token."""

    ids: Any  # int32
    weights: Any  # float32, loss weight
    roles: Any  # int8, index into templates.ROLES

    def __add__(self, other):
        return Tokens(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def lists(self):
        """Returns the columns as lists."""
        return Tokens(*(np.asarray(column).tolist() for column in self))

    def cut(self, part: slice):
        """Returns the same part of every column."""
        return Tokens(*(column[part] for column in self))


class Example(NamedTuple):
    """What the cache holds. For a decoder `inputs` is empty and `targets` the whole sequence."""

    inputs: Tokens
    targets: Tokens


EMPTY = Tokens([], [], [])


def single(token: int, weight: float = 0.0) -> Tokens:
    """Returns one control token."""
    return Tokens(np.array([token], np.int32), np.array([weight], np.float32), np.zeros(1, np.int8))


def tokenize(pieces: Sequence[templates.Piece], vocabulary: vocab.Vocabulary) -> Tokens:
    """Tokenises the pieces of one conversation.

    A token that covers the end of one piece and the start of the next belongs to the piece of its
    first character. A space that the template writes where generation starts (`is_space`) is left
    out for a vocabulary that begins every text with a space of its own.

    Raises:
      DataError: the vocabulary lacks a control token of the template.

    Example (two pieces "Say hi.\\n" weight 0, "hi" weight 1 that starts an answer, then eos):
      tokens   Say  hi  .  \\n  hi  </s>
      weights   0   0   0   0   1   1
    """
    return tokenize_all([pieces], vocabulary)[0].lists()


def tokenize_all(
    conversations: Sequence[Sequence[templates.Piece]], vocabulary: vocab.Vocabulary
) -> list[Tokens]:
    """Tokenises many conversations: their texts go to the vocabulary in one call."""
    plans = [_plan(pieces, vocabulary) for pieces in conversations]
    texts = [p[0] for plan in plans for p in plan if p[3] is None and p[0].__class__ is str]
    encoded = iter(vocabulary.encode_all(texts))
    ids: list[list[int]] = []  # of each part
    runs: list[tuple[int, float, int]] = []  # length, weight, role
    ends = [0]
    for plan in plans:
        size = ends[-1]
        for text, weight, role, run in plan:
            if run is not None:
                new, owners = _mixed(text, run, vocabulary)
                runs += owners
            else:
                new = next(encoded) if text.__class__ is str else text
                runs.append((len(new), weight, role))
            ids.append(new)
            size += len(new)
        ends.append(size)
    # One array for all: small ones would cost more than the tokenising.
    lengths, weights, roles = zip(*runs, strict=True) if runs else ((), (), ())
    columns = (
        np.fromiter(itertools.chain.from_iterable(ids), np.int32, ends[-1]),
        np.repeat(np.asarray(weights, np.float32), lengths),
        np.repeat(np.asarray(roles, np.int8), lengths),
    )
    return [
        Tokens(*(column[begin:end] for column in columns))
        for begin, end in itertools.pairwise(ends)
    ]


def _plan(pieces: Sequence[templates.Piece], vocabulary: vocab.Vocabulary) -> list[tuple]:
    """Cuts pieces into (text or ids, weight, role, None) and (text, 0, 0, pieces of the text)."""
    plan: list[tuple] = []
    run: list[templates.Piece] = []

    def flush():
        first = run[0]
        if len(run) == 1:
            plan.append((first.text, first.weight, ROLE[first.role], None))
        else:
            text = "".join([piece.text for piece in run])
            if _is_uniform(run):
                plan.append((text, first.weight, ROLE[first.role], None))
            else:  # whose a token is needs offsets
                plan.append((text, 0.0, 0, list(run)))
        run.clear()

    for piece in pieces:
        token = control_id(piece, vocabulary) if piece.is_control else None
        if token is not None:
            if run:
                flush()
            if token >= 0:
                plan.append(([token], piece.weight, 0, None))
            continue
        if piece.starts_response and run:
            flush()
        if piece.text and not (piece.is_space and vocabulary.adds_space):
            run.append(piece)
    if run:
        flush()
    return plan


def _is_uniform(run: Sequence[templates.Piece]) -> bool:
    role, weight = run[0].role, run[0].weight
    return all([piece.weight == weight and piece.role == role for piece in run])


def control_id(piece: templates.Piece, vocabulary: vocab.Vocabulary) -> int | None:
    """Returns the id of a control token; -1 for none to write; None where it is text.

    A vocabulary without a beginning token needs none; a token the template calls optional is
    spelled as text; every other one must be there.
    """
    return _control_id(piece.text, piece.is_optional, vocabulary)


@functools.lru_cache(maxsize=4096)
def _control_id(name: str, is_optional: bool, vocabulary: vocab.Vocabulary) -> int | None:
    if name == "eos":
        return vocabulary.eos_id
    if name == "bos":
        return -1 if vocabulary.bos_id is None else vocabulary.bos_id
    token = vocabulary.control_id(name)
    if token is None and not is_optional:
        raise errors.DataError(
            f"the vocabulary has no control token {name!r}, which the template writes; "
            f"{vocabulary.name}; use a vocabulary that has it, another template, or this template "
            f"with {templates.AS_TEXT!r} after its name, which spells control tokens as text"
        )
    return token


def end_ids(template: templates.AnyTemplate, vocabulary: vocab.Vocabulary) -> tuple[int, ...]:
    """Returns the ids that end an answer: the template's end of turn, and every end of text."""
    piece = templates.Piece(templates.ending(template), "control", 0.0, is_control=True)
    token = control_id(piece, vocabulary)
    assert token is not None
    return tuple(dict.fromkeys([token, *vocabulary.eos_ids]))


def check(template: templates.AnyTemplate, vocabulary: vocab.Vocabulary, system: str | None = None):
    """Finds out, before any record is read, whether a vocabulary can write a template.

    Raises:
      DataError: it lacks a control token; or the chat template cannot be learnt from, or cannot
        write the system prompt.
    """
    end_ids(template, vocabulary)
    for name in getattr(template, "controls", ()):
        control_id(templates.Piece(name, "control", 0.0, is_control=True), vocabulary)
    if system:
        roles = {"system": system, "user": "a", "assistant": "b"}
        messages = tuple(records.Message(role, text) for role, text in roles.items())
        templates.render(records.Record(messages, "Data.system", 0), template)


def _mixed(text: str, run: Sequence[templates.Piece], vocabulary: vocab.Vocabulary):
    """Tokenises a stretch of several roles or weights, by offsets; returns ids and runs."""
    ids, offsets = vocabulary.encode_with_offsets(text)
    owner, end = 0, len(run[0].text)
    counts = [0] * len(run)
    for begin, _ in offsets:
        while begin >= end and owner + 1 < len(run):
            owner += 1
            end += len(run[owner].text)
        counts[owner] += 1
    return ids, [(n, p.weight, ROLE[p.role]) for n, p in zip(counts, run, strict=True)]
