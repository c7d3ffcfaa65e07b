"""Trains the SentencePiece model that the village ships, tasks/village/vocab.model.

    python scripts/train_vocab.py [--output tasks/village/vocab.model]

Two runs with one version of sentencepiece give the same bytes. The corpus is the almanac and the
training examples in all their wordings; validation examples are not used.
"""

import argparse
import hashlib
import io
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from t5sft.tasks import village_templates, village_world  # noqa: E402

VOCAB_SIZE = 2048
NUM_SENTINELS = 32
NUM_DOCUMENTS = 6_000
EXAMPLES_PER_TEMPLATE = 12
WORD_LIST_REPEATS = 10
MARKS = ("", ".", ",", ":")


def instructions():
    """Renders training examples of every task with every one of its templates."""
    texts = []
    for tasks in village_world.CLUSTERS.values():
        for task in tasks:
            templates = village_templates.TEMPLATES[task]
            drawn = village_world.examples(task, "train", EXAMPLES_PER_TEMPLATE * len(templates))
            for index, fields in enumerate(drawn):
                for pattern in templates[index % len(templates)]:
                    texts.append(village_templates.render(pattern, fields))
    return texts


def word_lists(texts):
    """Lists every word of the texts at the start of a line and after a space, with marks.

    Without a dummy prefix a word needs two pieces, one with the space and one for the start of a
    line. And the trainer takes for pieces only what occurs in two different chunks between spaces:
    "of" would be no piece if it never stood before a mark.
    """
    words = sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)})
    forms = [f"{before}{word}{after}" for word in words for before in ("", ": ") for after in MARKS]
    return forms * WORD_LIST_REPEATS


def train() -> bytes:
    """Returns the trained model as the bytes of its file."""
    import sentencepiece

    texts = village_world.plain_text(NUM_DOCUMENTS, seed=0) + instructions()
    # A newline is a symbol of its own; a sentence of the trainer is therefore a line.
    lines = [line for text in texts for line in text.split("\n") if line]
    lines += word_lists(texts)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCAB_SIZE,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3,
        # Control symbols: text of a user that spells a sentinel stays text.
        control_symbols=[f"<extra_id_{index}>" for index in range(NUM_SENTINELS)],
        user_defined_symbols=["\n"],
        input_sentence_size=0,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=pathlib.Path, default=ROOT / "tasks" / "village" / "vocab.model"
    )
    output = parser.parse_args().output
    model = train()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(model)
    print(f"{output}  {len(model)} bytes  sha256 {hashlib.sha256(model).hexdigest()}")


if __name__ == "__main__":
    main()
