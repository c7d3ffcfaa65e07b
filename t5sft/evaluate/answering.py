"""A loaded model that answers conversations and tells how likely an answer is.

Both see what training sees: the run's template, tokenised once, so that the prompt asked is the
prompt learnt and the tokens scored are the tokens that learn.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from t5sft import errors
from t5sft.data import policies, preprocess, records, templates, vocab
from t5sft.evaluate import likelihoods
from t5sft.generate import decode, sampling, stopping
from t5sft.parallel import rules as rules_lib


class Ready(NamedTuple):
    """A model with all that turns texts into its tokens and back."""

    model: Any
    params: Any
    vocabulary: vocab.Vocabulary
    template: templates.AnyTemplate
    system: str | None = None  # of conversations without a system prompt
    start_id: int = 0  # the first decoder token of an encoder-decoder
    batch_size: int = 32
    buckets: Sequence[int] | None = None  # padded prompt lengths, see `decode.generate`
    mesh: Any = None
    rules: Sequence = rules_lib.DEFAULT_RULES
    template_name: str = "plain"  # as `templates.get` takes it
    vocabulary_name: str = (
        ""  # as it was asked for: the vocabulary's own may be this machine's path
    )


class Reply(NamedTuple):
    """What a model answered to one prompt."""

    tokens: list[int]  # without the end token
    text: str  # up to the first stop string
    finished: bool  # False: cut at max_new_tokens


class Decoding(NamedTuple):
    """How answers are decoded: written into every result."""

    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()  # an answer ends before the first of them
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    seed: int = 0


class Continuation(NamedTuple):
    """An answer behind its prompt, as training has it."""

    ids: likelihoods.Ids
    weights: list[float]  # loss weight of each target token


def prompt(ready: Ready, messages: Sequence[records.Message]) -> list[int]:
    """Returns the ids that a conversation is asked by; its last message is the user's."""
    record = records.Record((*messages, records.Message("assistant", "")))
    return preprocess.prompt(
        record, ready.vocabulary, ready.template, layout=ready.model.layout, system=ready.system
    )


def continuation(ready: Ready, record: records.Record) -> Continuation:
    """Returns the last answer of a conversation as the tokens that learn, and what is before it.

    An end token that training learns is among them (T5's sums hold it; those of
    lm-evaluation-harness do not: see `harness`).
    """
    *before, last = policies.with_system(record, ready.system).messages
    record = record._replace(messages=(*before, last._replace(weight=1.0)))
    layout = ready.model.layout
    example = preprocess.instruction(
        record, ready.vocabulary, ready.template, layout=layout, learn="last_assistant"
    )
    weights = list(example.targets.weights)
    if layout == "encoder_decoder":
        ids = likelihoods.Ids(list(example.inputs.ids), list(example.targets.ids))
        return Continuation(ids, weights)
    first = next((i for i, weight in enumerate(weights) if weight), len(weights))
    ids = likelihoods.Ids(list(example.targets.ids[:first]), list(example.targets.ids[first:]))
    return Continuation(ids, weights[first:])


def check_positions(ready: Ready, longest: int) -> None:
    """Refuses rows longer than the weights were made for: what is answered there means nothing.

    Args:
      longest: tokens of a decoder's row, prompt and answer.

    Raises:
      DataError: more than model.max_position_embeddings.
    """
    if ready.model.layout != "decoder":
        return
    most = ready.model.max_position_embeddings
    if most is not None and longest - 1 > most:  # the last token is not read
        raise errors.DataError(
            f"prompt and answer take {longest - 1:,} places, the weights were made for {most:,} "
            "positions; the longest prompt; ask fewer new tokens, fewer shots or a shorter prompt"
        )


def reply(ready: Ready, prompts: Sequence[Sequence[int]], how: Decoding) -> list[Reply]:
    """Answers prompts, in order; an answer depends on its own prompt and place alone."""
    check_positions(ready, max(map(len, prompts), default=0) + how.max_new_tokens)
    stop = (
        stopping.Stop(ready.vocabulary.decode, tuple(filter(None, how.stop)))
        if any(how.stop)
        else None
    )
    generated = decode.generate(
        ready.model,
        ready.params,
        prompts,
        max_new_tokens=how.max_new_tokens,
        eos_id=preprocess.end_ids(ready.template, ready.vocabulary),
        start_id=ready.start_id,
        batch_size=ready.batch_size,
        buckets=ready.buckets,
        sampler=sampling.Sampler(temperature=how.temperature, top_p=how.top_p),
        seed=how.seed,
        stop=stop,
        mesh=ready.mesh,
        rules=ready.rules,
    )
    texts = [ready.vocabulary.decode(one.tokens) for one in generated]
    return [
        Reply(one.tokens, stop.cut(text) if stop else text, one.finished)
        for one, text in zip(generated, texts, strict=True)
    ]


def judge(ready: Ready, rows: Sequence[likelihoods.Ids]) -> list[likelihoods.Judged]:
    """Tells of every target token how likely it is, see `likelihoods.judge`."""
    check_positions(ready, max((len(row.inputs) + len(row.targets) for row in rows), default=0))
    return likelihoods.judge(
        ready.model,
        ready.params,
        rows,
        start_id=ready.start_id,
        batch_size=ready.batch_size,
        mesh=ready.mesh,
        rules=ready.rules,
    )


def log_likelihoods(ready: Ready, rows: Sequence[Continuation]) -> list[float]:
    """Returns the weighted sum of log-probabilities of every answer, nats; no z-loss, no smoothing.

    As in T5X (models.py, score_batch); not divided by any length.
    """
    found = judge(ready, [row.ids for row in rows])
    return [
        float(np.dot(one.logprobs.astype(np.float64), np.asarray(row.weights, np.float64)))
        for one, row in zip(found, rows, strict=True)
    ]


def generated_log_likelihoods(
    ready: Ready, prompts: Sequence[Sequence[int]], replies: Sequence[Reply]
) -> list[float]:
    """Returns how likely the model held its own answers, the end token among them where it came.

    Computed again from the whole row, not collected while decoding: the same figures whatever
    decoding did (batches, cache, beams).
    """
    end = preprocess.end_ids(ready.template, ready.vocabulary)[0]
    rows = [
        likelihoods.Ids(list(asked), one.tokens + ([end] if one.finished else []))
        for asked, one in zip(prompts, replies, strict=True)
    ]
    return [one.total() for one in judge(ready, rows)]
