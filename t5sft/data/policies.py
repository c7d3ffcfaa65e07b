"""Policies: which conversations a record stands for, and what each of their messages weighs."""

import dataclasses
from typing import Literal, NamedTuple

from t5sft import errors
from t5sft.data import records, templates, truncation

Objective = Literal["instruction", "span_corruption", "language_model"]
Learn = Literal["targets", "all_assistant", "last_assistant", "everything"]
Unlearnt = Literal["drop", "error"]
Candidates = Literal["all", "best"]
TooLong = truncation.TooLong


@dataclasses.dataclass(frozen=True)
class Options:
    """How records become examples.

    Args:
      layout: "decoder" or "encoder_decoder".
      learn: which messages learn, each scaled by its own weight. "all_assistant": every answer;
        "last_assistant": the last one; "targets": all answers after the last user message (tool
        calls, then words); "everything": all tokens. Of a preference only the candidates' answers
        learn ("everything": all).
      prompt_weight: loss weight of all other tokens of a decoder.
      candidates: of a preference; see `prepared`. "all": a unit of one example for each, labelled.
      system: the system prompt of conversations that have none; None: the template's own default.
      encoder_length, decoder_length: S and T, lengths of a row.
      too_long: see `truncation`.
      unlearnt: what happens to a record without a learnt token.
      noise_density, seed: of span corruption.
    """

    layout: str
    objective: Objective = "instruction"
    learn: Learn = "all_assistant"
    prompt_weight: float = 0.0
    candidates: Candidates = "all"
    system: str | None = None
    encoder_length: int = 512
    decoder_length: int = 512
    too_long: TooLong = "drop"
    unlearnt: Unlearnt = "drop"
    noise_density: float = 0.15
    seed: int = 0


class Ask(NamedTuple):
    """A conversation to be tokenised, with the weights of its messages."""

    record: records.Record
    weights: list[templates.Weights]


def weigh(record: records.Record, options: Options, first: int = 0) -> list[templates.Weights]:
    """Decides what each message weighs, by the policies `learn` and `prompt_weight`.

    Args:
      first: messages before this one do not learn (the shared prompt of candidates).

    Returns:
      The weights of each message. Those of tokens that are no answer are negative until lengths
      are settled: only so can "cut_prompt" tell a prompt that weighs something from an answer.

    Example (user, assistant, user, assistant; learn "last_assistant", prompt_weight 0.1):
      learnt  -0.1  -0.1  -0.1   1.0
      rest    -0.1  -0.1  -0.1  -0.1
    """
    messages, learn = record.messages, options.learn
    last_user = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    share = 1.0 if learn == "everything" else options.prompt_weight
    out = []
    for i, message in enumerate(messages):
        rest = -share * message.weight
        learns = message.role == "assistant" and i >= first
        if learn == "last_assistant" and not first:
            learns = learns and i + 1 == len(messages)
        elif learn == "targets":
            learns = learns and i > last_user
        out.append(templates.Weights(message.weight if learns else rest, rest))
    return out


def prepared(record: records.Record, options: Options) -> records.Record:
    """Gives a conversation the system prompt it lacks, and chooses among candidates.

    With `candidates="best"` the one of the highest label stays (the first of several), to be
    learnt like any answer: what supervised fine-tuning can make of preferences.

    Raises:
      Dropped: there is no answer, or, of an unpaired label, an unwanted one only.
      DataError: a plain text.
    """
    if not record.candidates and record.messages[-1].role != "assistant":
        if record.messages[-1].role == "text":
            where = f"{record.source or 'record'}[{record.number}]"
            raise errors.DataError(
                f"a plain text has no answer to learn; {where}; set Data.objective to "
                "'language_model' or 'span_corruption'"
            )
        raise records.Dropped("no answer")
    if options.candidates == "best" and record.candidates:
        best = max(record.candidates, key=lambda one: one.label)
        if len(record.candidates) == 1 and best.label <= 0:
            raise records.Dropped("unwanted answer")
        record = record._replace(candidates=(best,))
    return with_system(record, options.system)


def with_system(record: records.Record, system: str | None) -> records.Record:
    """Puts a system prompt before a conversation that has none."""
    if not system or any(message.role in ("system", "text") for message in record.messages):
        return record
    return record._replace(messages=(records.Message("system", system), *record.messages))


def units(record: records.Record, options: Options) -> list[list[Ask]]:
    """Returns the conversations of a record, grouped into units."""
    if record.candidates:
        first = len(record.messages)
        return [[Ask(one, weigh(one, options, first)) for one in records.alternatives(record)]]
    weights = weigh(record, options)
    if options.layout == "decoder":
        return [[Ask(record, weights)]]
    learnt = [
        i
        for i, message in enumerate(record.messages)
        if message.role == "assistant" and weights[i].learnt > 0
    ]
    if learnt in ([], [len(weights) - 1]):
        return [[Ask(record, weights)]]
    # Of an encoder-decoder's conversation only the last answer is learnt: one example for each.
    return [
        [Ask(record._replace(messages=record.messages[: i + 1]), weights[: i + 1])] for i in learnt
    ]
