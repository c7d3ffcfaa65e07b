"""Plain text as examples: language modelling and T5's span corruption."""

import functools
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from t5sft.data import policies, records, vocab
from t5sft.data.tokens import EMPTY, ROLE, Example, Tokens

MEAN_SPAN_LENGTH = 3.0


def examples(
    record: records.Record, vocabulary: vocab.Vocabulary, options: policies.Options
) -> list[Example]:
    """Turns a plain text into its example; with `too_long="split_text"`, into as many as it needs.

    Raises:
      Dropped: it is too short for span corruption.
    """
    is_split = options.too_long == "split_text"
    if options.objective == "language_model":
        whole = language_model(record, vocabulary)
        length = options.decoder_length
        return parts_of(whole, length, layout=options.layout) if is_split else [whole]
    ids = vocabulary.encode(record.messages[0].content)
    room = (options.encoder_length, options.decoder_length)
    most = longest(room, options.noise_density, len(vocabulary.sentinel_ids)) if is_split else 0
    count = max(-(-len(ids) // most), 1) if most else 1
    ends = [len(ids) * i // count for i in range(count + 1)]
    keys = [f"{key(record, options.seed)}{f'/{i}' if i else ''}" for i in range(count)]
    return [
        corrupt(ids[begin:end], vocabulary, key=name, noise_density=options.noise_density)
        for name, (begin, end) in zip(keys, itertools.pairwise(ends), strict=True)
    ]


def parts_of(whole: Example, length: int, *, layout: str) -> list[Example]:
    """Cuts a text's tokens into rows' lengths; every token is learnt in one part, and once.

    A decoder's part begins with the token before it, which does not learn there: each token of a
    row is predicted from the one before.

    Example (a decoder, 3 places):
      bos a b c d eos  ->  bos a b c | c d eos
      weights 0 1 1 1 1 1  ->  0 1 1 1 | 0 1 1
    """
    shift = 1 if layout == "decoder" else 0
    total = len(whole.targets.ids) - shift
    parts = []
    for begin in range(0, max(total, 1), length):
        part = whole.targets.cut(slice(begin, begin + length + shift))
        if shift and begin:
            part = part._replace(weights=[0.0, *part.weights[1:]])
        parts.append(Example(EMPTY, part))
    return parts


def language_model(record: records.Record, vocabulary: vocab.Vocabulary) -> Example:
    """Turns a plain text into a decoder's example in which every token learns."""
    role = ROLE["text"]
    ids = vocabulary.encode(record.messages[0].content)
    bos = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    weights = [0.0] * len(bos) + [1.0] * (len(ids) + 1)
    roles = [0] * len(bos) + [role] * len(ids) + [0]
    return Example(EMPTY, Tokens([*bos, *ids, vocabulary.eos_id], weights, roles))


def span_corruption(
    record: records.Record,
    vocabulary: vocab.Vocabulary,
    *,
    noise_density: float = 0.15,
    seed: int = 0,
) -> Example:
    """Corrupts a plain text as a whole, see `corrupt`."""
    ids = vocabulary.encode(record.messages[0].content)
    return corrupt(ids, vocabulary, key=key(record, seed), noise_density=noise_density)


def key(record: records.Record, seed: int) -> str:
    """Returns what the draws for a text depend on."""
    return f"{seed}/{record.source}/{record.number}"


@functools.lru_cache
def longest(room: tuple[int, int], noise_density: float, num_sentinels: int) -> int:
    """Returns how many tokens of text fit rows of (encoder, decoder) places once corrupted."""
    length = 2
    while True:
        noise, spans = _amounts(length + 1, noise_density, num_sentinels)
        if length + 1 - noise + spans + 1 > room[0] or noise + spans + 1 > room[1]:
            return length
        length += 1


def _amounts(length: int, noise_density: float, num_sentinels: int) -> tuple[int, int]:
    """Returns how many tokens are taken out, and in how many spans."""
    num_noise = min(max(round(length * noise_density), 1), length - 1)
    num_spans = max(round(num_noise / MEAN_SPAN_LENGTH), 1)
    return num_noise, min(num_spans, num_noise, length - num_noise, num_sentinels)


def corrupt(
    ids: Sequence[int], vocabulary: vocab.Vocabulary, *, key: str, noise_density: float
) -> Example:
    """Turns the tokens of a text into T5's denoising example (arXiv:1910.10683, section 3.1.4).

    Spans chosen at random are replaced by sentinels in the inputs; the targets list every sentinel
    with the span it stands for. The choice depends on `key` alone.

    Example (spans "two" and "five six"):
      text     one two three four five six seven
      inputs   one <0> three four <1> seven </s>
      targets  <0> two <1> five six </s>
    """
    role = ROLE["text"]
    digest = hashlib.sha256(key.encode()).digest()
    random = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little")))
    num_noise, num_spans = _amounts(len(ids), noise_density, len(vocabulary.sentinel_ids))
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
