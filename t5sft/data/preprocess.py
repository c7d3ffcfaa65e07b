"""Preprocessing: a record becomes token ids with a loss weight and a role for every token.

A conversation is rendered once and tokenised once. A token never reaches across the place where
generation starts, because at inference the prompt is tokenised before any answer exists: so the
ids of a training prompt equal those of the same prompt at inference.
"""

import hashlib
from typing import Any, Literal, NamedTuple

import numpy as np

from t5sft import errors
from t5sft.data import records, templates, vocab

Objective = Literal["instruction", "span_corruption", "language_model"]
Learn = Literal["all_assistant", "last_assistant", "everything"]
TooLong = Literal["drop", "cut_prompt", "cut_response", "error"]


class Tokens(NamedTuple):
    """Parallel columns, lists or arrays: one entry per token."""

    ids: Any  # int
    weights: Any  # float, loss weight
    roles: Any  # int, index into templates.ROLES

    def __add__(self, other):
        return Tokens(*(a + b for a, b in zip(self, other, strict=True)))

    def cut(self, part: slice):
        """Returns the same part of every column."""
        return Tokens(*(column[part] for column in self))


class Example(NamedTuple):
    """What the cache holds. For a decoder `inputs` is empty and `targets` the whole sequence."""

    inputs: Tokens
    targets: Tokens


EMPTY = Tokens([], [], [])


def tokenize(pieces: list[templates.Piece], vocabulary: vocab.Vocabulary) -> Tokens:
    """Tokenises pieces, each stretch between control tokens and starts of an answer in one go.

    A token that covers the end of one piece and the start of the next belongs to the piece of its
    first character.

    Example (two pieces "Say hi.\\n" weight 0, "hi" weight 1 that starts an answer, then eos):
      tokens   Say  hi  .  \\n  hi  </s>
      weights   0   0   0   0   1   1
    """
    out = Tokens([], [], [])
    run: list[templates.Piece] = []

    def flush():
        text = "".join(piece.text for piece in run)
        if len({(piece.role, piece.weight) for piece in run}) == 1:  # whose it is needs no offsets
            ids = vocabulary.encode(text) if text else []
            out.ids.extend(ids)
            out.weights.extend([run[0].weight] * len(ids))
            out.roles.extend([templates.ROLES.index(run[0].role)] * len(ids))
        elif text:
            ids, offsets = vocabulary.encode_with_offsets(text)
            owner, end = 0, len(run[0].text)
            for token, (begin, _) in zip(ids, offsets, strict=True):
                while begin >= end and owner + 1 < len(run):
                    owner += 1
                    end += len(run[owner].text)
                out.ids.append(token)
                out.weights.append(run[owner].weight)
                out.roles.append(templates.ROLES.index(run[owner].role))
        run.clear()

    for piece in pieces:
        if piece.is_control:
            flush()
            out.ids.append(vocabulary.eos_id)
            out.weights.append(piece.weight)
            out.roles.append(templates.ROLES.index(piece.role))
            continue
        if piece.starts_response:
            flush()
        run.append(piece)
    flush()
    return out


def _control(token: int | None, weight: float = 0.0) -> Tokens:
    return EMPTY if token is None else Tokens([token], [weight], [0])


def _learn(tokens: Tokens, learn: Learn, prompt_weight: float) -> Tokens:
    """Applies the policy that says which tokens learn to the weights of `templates.render`."""
    weights = np.asarray(tokens.weights, np.float32)
    if learn == "everything":
        weights[:] = 1.0
    elif learn == "last_assistant":
        is_learnt = weights > 0
        starts = np.flatnonzero(np.diff(np.concatenate([[False], is_learnt])) & is_learnt)
        weights[: starts[-1] if len(starts) else 0] = 0.0
    prompt = weights == 0
    return tokens._replace(weights=np.where(prompt, prompt_weight, weights).tolist())


def instruction(
    record: records.Record,
    vocabulary: vocab.Vocabulary,
    template: templates.Template,
    *,
    layout: str,
    learn: Learn = "all_assistant",
    prompt_weight: float = 0.0,
) -> Example:
    """Turns a conversation into an example.

    Encoder-decoder: everything before the last answer, with an end token as T5 has it, is `inputs`;
    the last answer is `targets`. Decoder: [bos] and the whole conversation are `targets`.
    """
    if layout == "encoder_decoder":
        pieces = templates.render(record, template)
        last = max(i for i, piece in enumerate(pieces) if piece.starts_response)
        inputs = tokenize(pieces[:last], vocabulary) + _control(vocabulary.eos_id)
        zeros = [0.0] * len(inputs.ids)
        return Example(inputs._replace(weights=zeros), tokenize(pieces[last:], vocabulary))
    tokens = tokenize(templates.render(record, template), vocabulary)
    tokens = _learn(tokens, learn, prompt_weight)
    return Example(EMPTY, _control(vocabulary.bos_id) + tokens)


def prompt(
    record: records.Record,
    vocabulary: vocab.Vocabulary,
    template: templates.Template,
    *,
    layout: str,
) -> list[int]:
    """Returns what the model is given to answer: `instruction` up to its last answer."""
    ids = tokenize(templates.render_prompt(record, template), vocabulary).ids
    if layout == "encoder_decoder":
        return [*ids, vocabulary.eos_id]
    return [*([] if vocabulary.bos_id is None else [vocabulary.bos_id]), *ids]


def language_model(record: records.Record, vocabulary: vocab.Vocabulary) -> Example:
    """Turns a plain text into a decoder's example in which every token learns."""
    role = templates.ROLES.index("text")
    ids, _ = vocabulary.encode_with_offsets(record.messages[0].content)
    body = Tokens(ids, [1.0] * len(ids), [role] * len(ids))
    return Example(EMPTY, _control(vocabulary.bos_id) + body + _control(vocabulary.eos_id, 1.0))


def span_corruption(
    record: records.Record,
    vocabulary: vocab.Vocabulary,
    *,
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
    seed: int = 0,
) -> Example:
    """Turns a plain text into T5's denoising example (arXiv:1910.10683, section 3.1.4).

    Spans chosen at random are replaced by sentinels in the inputs; the targets list every sentinel
    with the span it stands for. The choice depends on (seed, task, index) alone.

    Example (spans "two" and "five six"):
      text     one two three four five six seven
      inputs   one <0> three four <1> seven </s>
      targets  <0> two <1> five six </s>
    """
    role = templates.ROLES.index("text")
    ids, _ = vocabulary.encode_with_offsets(record.messages[0].content)
    digest = hashlib.sha256(f"{seed}/{record.source}/{record.number}".encode()).digest()
    random = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little")))
    num_noise = min(max(round(len(ids) * noise_density), 1), len(ids) - 1)
    num_spans = max(round(num_noise / mean_span_length), 1)
    num_spans = min(num_spans, num_noise, len(ids) - num_noise, len(vocabulary.sentinel_ids))
    if num_spans < 1:
        raise records.Dropped("too short for span corruption")

    def split(total, parts):
        """Cuts `total` into `parts` positive lengths, every way equally likely."""
        cuts = np.sort(random.permutation(total - 1)[: parts - 1]) + 1
        return np.diff(np.concatenate([[0], cuts, [total]]))

    inputs, targets, position = [], [], 0
    kept = split(len(ids) - num_noise, num_spans)
    for sentinel, keep, noise in zip(
        vocabulary.sentinel_ids, kept, split(num_noise, num_spans), strict=False
    ):
        inputs += [*ids[position : position + keep], sentinel]
        targets += [sentinel, *ids[position + keep : position + keep + noise]]
        position += keep + noise
    inputs, targets = [*inputs, vocabulary.eos_id], [*targets, vocabulary.eos_id]
    return Example(
        Tokens(inputs, [0.0] * len(inputs), [role] * len(inputs)),
        Tokens(targets, [1.0] * len(targets), [role] * len(targets)),
    )


def fit(
    example: Example, *, layout: str, encoder_length: int, decoder_length: int, too_long: TooLong
) -> tuple[Example, bool]:
    """Brings an example to the lengths of a row, by a stated policy; says whether it was cut.

    A decoder's sequence of n tokens takes n - 1 places of a row (each predicts its successor).
    "cut_prompt" takes tokens from the left of the prompt and keeps the first one (bos) and the
    whole answer; "cut_response" cuts the end of the answer, the end token included.

    Raises:
      Dropped: policy "drop", or nothing learnt is left.
      DataError: policy "error".
    """
    room = decoder_length if layout == "encoder_decoder" else decoder_length + 1
    inputs, targets = example
    over_inputs, over_targets = len(inputs.ids) - encoder_length, len(targets.ids) - room
    is_long = over_inputs > 0 or over_targets > 0
    if is_long:
        have = f"{len(inputs.ids)} input and {len(targets.ids)} target tokens"
        want = f"{encoder_length} and {room}"
        if too_long == "error":
            raise errors.DataError(
                f"an example has {have}, rows hold {want}; too_long='error'; "
                "raise encoder_length/decoder_length or choose another too_long policy"
            )
        if too_long == "drop":
            raise records.Dropped("too long")
        if too_long == "cut_prompt":
            if layout == "encoder_decoder" and over_targets > 0:
                raise records.Dropped("answer too long")
            inputs = inputs.cut(slice(max(over_inputs, 0), None))
            if over_targets > 0:
                targets = _cut_prompt(targets, over_targets)
        else:
            if over_inputs > 0:
                raise records.Dropped("prompt too long")
            targets = targets.cut(slice(0, room))
    if not any(weight > 0 for weight in targets.weights):
        raise records.Dropped("nothing to learn")
    return Example(inputs, targets), is_long


def _cut_prompt(targets: Tokens, over: int) -> Tokens:
    """Takes `over` tokens after the first one, all of them before the first learnt token."""
    first_learnt = next((i for i, weight in enumerate(targets.weights) if weight > 0), 0)
    if 1 + over > first_learnt:
        raise records.Dropped("answer too long")
    return targets.cut(slice(0, 1)) + targets.cut(slice(1 + over, None))
