"""Small vocabularies of every kind that know the control tokens of every format."""

import functools
import io
import json
import pathlib
import tempfile

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from t5sft.data import templates, tokenizer_json, vocab

CONTROLS = sorted(
    {name for one in templates.TEMPLATES.values() for name in (*one.controls, *one.optional)}
)
CORPUS = [
    "Below is an instruction that describes a task. Write a response.",
    "Hello there! \u00dcber caf\u00e9, na\u00efve; 1234567890 <|im_end|> </s> [INST] <s> #'\"{}",
    "You may call one or more functions\n\n### Response:\n\tUSER: ASSISTANT: user assistant system",
] * 8


@functools.cache
def sentence_piece():
    """A SentencePiece model: half of the markers control pieces, half user-defined."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=500,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        control_symbols=CONTROLS[::2],
        user_defined_symbols=["<table>", "\n", *CONTROLS[1::2]],
        minloglevel=2,
    )
    path = pathlib.Path(tempfile.mkdtemp()) / "tiny.model"
    path.write_bytes(model.getvalue())
    return vocab.load(str(path))


@functools.cache
def directory():
    """A byte-level BPE as Llama 3 and Qwen have it, with its settings, as a directory."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tags = [name for name in CONTROLS if "tool" in name or "think" in name]
    special = [name for name in CONTROLS if name not in tags]
    tokenizer.add_special_tokens(["<|begin|>", "<|end_of_text|>", "<|pad|>", *special])
    tokenizer.add_tokens([*tags, "<table>"])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    path = pathlib.Path(tempfile.mkdtemp())
    tokenizer.save(str(path / "tokenizer.json"))
    config = {
        "bos_token": "<|begin|>",
        "eos_token": {"content": "<|end_of_text|>", "__type": "AddedToken"},
        "pad_token": "<|pad|>",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def byte_pairs() -> tokenizer_json.TokenizerJson:
    """The tokenizer.json of `directory`."""
    return vocab.load(str(directory()))


KINDS = {
    "bytes": lambda: vocab.load("bytes"),
    "sentencepiece": sentence_piece,
    "tokenizer.json": byte_pairs,
}


def fitting(template: str, kind: str) -> str:
    """The name of the template for this vocabulary: spelled as text where it has no markers."""
    has_markers = templates.TEMPLATES[template].controls
    return f"{template}:text" if kind == "bytes" and has_markers else template
