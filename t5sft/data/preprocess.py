"""Preprocessing: a record becomes examples: token ids, a loss weight and a role for each.

A conversation is rendered once and tokenised once, see `tokens`. Which tokens learn is decided for
whole messages, before a token exists.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from t5sft import errors
from t5sft.data import denoising, policies, records, templates, tokens, truncation, vocab
from t5sft.data.policies import (
    Ask,
    Candidates,
    Learn,
    Objective,
    Options,
    TooLong,
    Unlearnt,
    weigh,
)
from t5sft.data.tokens import EMPTY, Example, Tokens

__all__ = [
    "Candidates",
    "Objective",
    "TooLong",
    "Unlearnt",
]  # for those who have this module's names

tokenize, end_ids, check = tokens.tokenize, tokens.end_ids, tokens.check
language_model, span_corruption = denoising.language_model, denoising.span_corruption
fit = truncation.fit
_END = templates.Piece("eos", "control", 0.0, is_control=True)  # of an encoder's text


class Made(NamedTuple):
    """What became of one record."""

    units: list[list[Example]]  # the examples of a unit are drawn and packed together
    labels: list[float] | None  # of every example in order: preferences only
    counts: dict[str, int]  # kept, dropped, truncated, each also with its reason; tokens


def examples(
    record: records.Record,
    vocabulary: vocab.Vocabulary,
    template: templates.AnyTemplate,
    options: Options,
) -> Made:
    """Turns one record into its examples.

    A conversation is one unit of one example; with `too_long="split_turns"` several units; an
    encoder-decoder makes one of every learnt answer. A record with candidates is one unit of one
    example for each, with their labels; or of the best one, see `policies.prepared`.

    Raises:
      DataError: policy "error", or a template that cannot write the record; it names the record.
    """
    return batch([record], vocabulary, template, options)[0]


def batch(
    rows: Sequence[records.Record],
    vocabulary: vocab.Vocabulary,
    template: templates.AnyTemplate,
    options: Options,
) -> list[Made]:
    """Turns records into examples as `examples` does, in half the time for a hundred or more."""
    if options.objective != "instruction":
        return [_finish_plain(row, vocabulary, options) for row in rows]
    rows = [_prepared(row, options) for row in rows]
    asked = [
        [] if isinstance(row, records.Dropped) else policies.units(row, options) for row in rows
    ]
    flat = [one for units in asked for unit in units for one in unit]
    made = iter(_make(flat, vocabulary, template, options.layout))
    maker = functools.partial(
        _make, vocabulary=vocabulary, template=template, layout=options.layout
    )
    return [
        dropped(row)
        if isinstance(row, records.Dropped)
        else _finish(row, [(unit, [next(made) for _ in unit]) for unit in units], maker, options)
        for row, units in zip(rows, asked, strict=True)
    ]


def dropped(reason: records.Dropped) -> Made:
    """Returns what became of a record that is left out whole."""
    return Made([], None, {"dropped": 1, f"dropped: {reason}": 1})


def _prepared(record: records.Record, options: Options) -> records.Record | records.Dropped:
    try:
        return policies.prepared(record, options)
    except records.Dropped as reason:
        return reason


def instruction(
    record: records.Record,
    vocabulary: vocab.Vocabulary,
    template: templates.AnyTemplate,
    *,
    layout: str,
    learn: Learn = "all_assistant",
    prompt_weight: float = 0.0,
) -> Example:
    """Turns a conversation into an example of any length.

    Encoder-decoder: everything before the last answer, with an end token as T5 has it, is `inputs`;
    the last answer is `targets`. Decoder: [bos] and the whole conversation are `targets`.
    """
    options = Options(layout=layout, learn=learn, prompt_weight=prompt_weight)
    ask = Ask(record, weigh(record, options))
    made = _positive(_make([ask], vocabulary, template, layout)[0])
    return Example(*(side.lists() for side in made))


def prompt(
    record: records.Record,
    vocabulary: vocab.Vocabulary,
    template: templates.AnyTemplate,
    *,
    layout: str,
    system: str | None = None,
) -> list[int]:
    """Returns what the model is given to answer: `instruction` up to its last answer.

    Args:
      system: the system prompt of a conversation without one.
    """
    pieces = templates.render_prompt(policies.with_system(record, system), template)
    return _with_border(pieces, layout, template, vocabulary).ids


def _make(
    asked: Sequence[Ask],
    vocabulary: vocab.Vocabulary,
    template: templates.AnyTemplate,
    layout: str,
) -> list[Example]:
    """Renders and tokenises conversations; weights below 0 mark prompts, see `weigh`."""
    if layout == "decoder":
        start = _bos(template)
        rendered = [start + templates.render(one.record, template, one.weights) for one in asked]
        return [Example(EMPTY, one) for one in tokens.tokenize_all(rendered, vocabulary)]
    sides: list[Sequence[templates.Piece]] = []
    for one in asked:
        pieces = templates.render(one.record, template, one.weights)
        last = max([i for i, piece in enumerate(pieces) if piece.starts_response])
        prompt = [p._replace(weight=0.0) if p.weight else p for p in pieces[:last]]
        sides += [[*prompt, _END], pieces[last:]]
    made = tokens.tokenize_all(sides, vocabulary)
    return list(map(Example, made[::2], made[1::2]))


def _bos(template: templates.AnyTemplate) -> list[templates.Piece]:
    return [templates.Piece("bos", "control", 0.0, is_control=True)] if template.adds_bos else []


def _with_border(pieces, layout: str, template: templates.AnyTemplate, vocabulary) -> Tokens:
    """Tokenises a prompt with what a layout puts at its border."""
    if layout == "decoder":
        return tokenize(_bos(template) + pieces, vocabulary)
    return (tokenize(pieces, vocabulary) + tokens.single(vocabulary.eos_id)).lists()


def _positive(example: Example) -> Example:
    """Takes the marks of `weigh` off the weights."""
    targets = example.targets
    return example._replace(targets=targets._replace(weights=np.abs(targets.weights)))


def _finish_plain(record: records.Record, vocabulary: vocab.Vocabulary, options: Options) -> Made:
    """Makes the examples of a plain text."""
    try:
        made = denoising.examples(record, vocabulary, options)
    except records.Dropped as reason:
        return dropped(reason)
    done = _finish(record, [([Ask(record, [])], [one]) for one in made], None, options)
    if len(made) > 1:
        done.counts.update({"truncated": 1, "truncated: split_text": 1})
    return done


def _finish(record: records.Record, units, maker, options: Options) -> Made:
    """Brings the units of a record to the lengths of a row and counts what happens to them."""
    if len(units) == 1 and len(units[0][1]) == 1 and not record.candidates:
        quick = _finish_quickly(units[0][1][0], options)
        if quick is not None:
            return quick
    counts: Counter[str] = Counter()
    kept: list[list[Example]] = []
    where = f"{record.source or 'record'}[{record.number}]"
    lengths: dict[str, Any] = {
        "layout": options.layout,
        "encoder_length": options.encoder_length,
        "decoder_length": options.decoder_length,
    }
    for asked, made in units:
        try:
            fitted, was_cut = truncation.fit_unit(made, **lengths, too_long=options.too_long)
        except records.Dropped as reason:
            parts: list[list[Example]] = []
            if options.too_long == "split_turns" and str(reason) == "too long":
                parts = _split(asked, maker, lengths, counts, options)
            else:
                counts[f"dropped: {reason}"] += 1
            kept += parts
            continue
        except errors.DataError as error:
            raise errors.DataError(f"{where}: {error}") from error
        if was_cut:
            counts[f"truncated: {options.too_long}"] += 1
        kept.append(fitted)
    if not kept and counts["dropped: nothing to learn"] and options.unlearnt == "error":
        raise errors.DataError(
            f"no token of it learns; {where}; give a message of role assistant a weight above 0, "
            "choose another learn policy, or unlearnt='drop'"
        )
    return _counted(record, kept, counts, options)


def _finish_quickly(one: Example, options: Options) -> Made | None:
    """Does what `_finish` does where nothing happens: one example, short enough, that learns."""
    size, sources = len(one.targets.ids), len(one.inputs.ids)
    places = size - 1 if options.layout == "decoder" else size
    if places > options.decoder_length or sources > options.encoder_length:
        return None
    if options.prompt_weight or options.learn == "everything":
        return None
    learnt = truncation.num_learnt(one)
    if not learnt:
        return None
    counts = {"kept": 1, "tokens": size + sources, "learnt_tokens": learnt}
    return Made([[one]], None, counts)


def _counted(
    record: records.Record, kept: list[list[Example]], counts: Counter[str], options: Options
) -> Made:
    """Adds the totals. What a record that is kept has lost is no dropped record: "left out"."""
    learnt = [truncation.num_learnt(one) for unit in kept for one in unit]
    if options.prompt_weight or options.learn == "everything":
        kept = [[_positive(one) for one in unit] for unit in kept]
        learnt = [np.count_nonzero(one.targets.weights) for unit in kept for one in unit]
    reasons = [key for key in counts if key.startswith("dropped: ")]
    if kept:
        for key in reasons:
            counts[f"left out: {key.removeprefix('dropped: ')}"] = counts.pop(key)
    elif len(reasons) > 1 or counts[reasons[0]] > 1:  # one record, one reason
        for key in reasons[1:]:
            del counts[key]
        counts[reasons[0]] = 1
    counts["kept" if kept else "dropped"] = 1
    if any(key.startswith("truncated: ") for key in counts):
        counts["truncated"] = 1
    for unit in kept:
        for one in unit:
            counts["tokens"] += len(one.inputs.ids) + len(one.targets.ids)
    if kept:
        counts["learnt_tokens"] = int(sum(learnt))
    labels = [one.label for one in record.candidates] or None
    if options.candidates == "best":
        labels = None
    return Made(kept, labels if kept else None, dict(counts))


def _split(
    asked: Sequence[Ask], maker, lengths: dict, counts: Counter[str], options: Options
) -> list[list[Example]]:
    """Cuts a long conversation into parts that fit, by `truncation.split_turns`.

    One that learns in its last round only (as an encoder-decoder's) forgets its oldest rounds.
    """
    if len(asked) != 1 or maker is None:  # candidates share a prompt; a text has no turns
        counts["dropped: too long"] += 1
        return []
    (ask,) = asked

    def make(part: list[int]) -> list[Example]:
        messages = tuple(ask.record.messages[i] for i in part)
        return maker([Ask(ask.record._replace(messages=messages), [ask.weights[i] for i in part])])

    def fits(part: list[int]) -> bool:
        (made,) = make(part)
        return truncation.is_within([made], **lengths)

    last = truncation.rounds(ask.record.messages)[-1]
    learns = {i for i, one in enumerate(ask.weights) if one.learnt > 0}
    if options.layout == "decoder" and not learns <= set(last):
        parts, lost = truncation.split_turns(ask.record.messages, fits)
        counts["dropped: turn too long"] += lost
    else:
        part = truncation.forget_turns(ask.record.messages, fits)
        parts = [] if part is None else [part]
        counts["dropped: turn too long"] += part is None
    made = [make(part) for part in parts]
    learnt = [unit for unit in made if truncation.num_learnt(unit[0])]
    counts["dropped: nothing to learn"] += len(made) - len(learnt)
    counts["truncated: split_turns"] += bool(learnt)
    for key in [key for key, count in counts.items() if not count]:
        del counts[key]
    return learnt
