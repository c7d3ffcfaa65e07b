"""Plain text as examples: language modelling and T5's span corruption."""

import hashlib

import numpy as np

from t5sft.data import records, vocab
from t5sft.data.tokens import EMPTY, ROLE, Example, Tokens


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
    role = ROLE["text"]
    ids = vocabulary.encode(record.messages[0].content)
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
