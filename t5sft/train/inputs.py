"""What a run learns from: its vocabulary and the batches of its splits."""

from t5sft import errors
from t5sft.data import batches as batches_lib
from t5sft.data import prepare, vocab
from t5sft.data import stream as stream_lib
from t5sft.train.metrics import say

SPLITS = ("train", "validation")


def vocabulary(model, data, steps) -> vocab.Vocabulary:
    """Opens the vocabulary and checks that the model has an embedding for each of its pieces."""
    if steps < 1:
        raise errors.ConfigError(f"steps is {steps}; train; give at least 1")
    loaded = vocab.load(data.vocabulary)
    if model.vocab_size < loaded.size:
        raise errors.ConfigError(
            f"the model has {model.vocab_size} embeddings, the vocabulary {loaded.size} "
            f"pieces; vocab_size; use at least {loaded.size}"
        )
    return loaded


def batches(splits, data, model, vocabulary, **options) -> list[batches_lib.Batches]:
    """Opens the prepared splits, and says what is in them; "train" may be streamed."""
    for name, split in zip(SPLITS[data.streaming :], splits, strict=True):
        say(prepare.describe(name, split.card))
        _refuse_labels(name, split)
        check_positions(name, split.card, model)
    options |= {"layout": model.layout, "start_id": vocabulary.pad_id}
    lengths = {"encoder_length": data.encoder_length, "decoder_length": data.decoder_length}
    if not data.streaming:
        return [batches_lib.Batches(split, **lengths, **options) for split in splits]
    say("train: streamed; to resume, the pipeline is read again from its start")
    most = model.max_position_embeddings
    if most is not None and data.decoder_length > most:
        say(f"rows hold {data.decoder_length:,} places, the weights are for {most:,} positions")
    held_out = batches_lib.Batches(splits[0], **lengths, **options | {"mixing": None})
    return [stream_lib.Streamed(data, split=SPLITS[0], **options), held_out]


def _refuse_labels(name: str, split):
    """Refuses preferences: no objective here reads labels, so rejected answers would be learnt."""
    labelled = [task for task, examples in split.tasks.items() if examples.labels is not None]
    if labelled:
        raise errors.ConfigError(
            f"task {labelled[0]!r} holds answers with labels, {name}: the rejected ones would be "
            "learnt, too; Data.candidates; set it to 'best' to learn the best answer of each "
            "(--gin.CANDIDATES='\"best\"')"
        )


def check_positions(name: str, card, model):
    """Refuses examples that are longer than the rows the weights were made for.

    Rows may be longer: in packed ones every example counts its positions from 0.
    """
    most = model.max_position_embeddings
    if most is None:
        return
    for task, entry in card["tasks"].items():
        longest = entry["lengths"]["targets"].get("max", 0) - 1
        if longest > most:
            raise errors.ConfigError(
                f"an example takes {longest:,} places, the weights were made for {most:,} "
                f"positions; task {task!r}, {name}; set DECODER_LENGTH to {most} (too_long says "
                "what becomes of longer ones), or give more max_position_embeddings (config.json "
                "of the weights, or the model's gin; far beyond, with a rope_scaling)"
            )
