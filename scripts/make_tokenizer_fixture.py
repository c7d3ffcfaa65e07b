"""Makes tests/convert/tokenizers: small SentencePiece models, and the ids that transformers gives.

python scripts/make_tokenizer_fixture.py      in an environment with transformers 5.23, protobuf

Trained as T5's (unigram, NFKC), Llama 2's (byte pairs, bytes for the unknown) and Gemma's (the same
without a space before the text) are. The probes are what tokenizers are known to differ in.
"""

import json
import pathlib
import tempfile

import sentencepiece
import transformers

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/convert/tokenizers"
CORPUS = [
    "The lamb is at the gate. The bell is at the well; 12 cats, 345 dogs.",
    "na\u00efve caf\u00e9 \u00fcber Stra\u00dfe \u4e2d\u6587 "
    "\u65e5\u672c\u8a9e \u041f\u0440\u0438\u0432\u0435\u0442",
    "def f(x):\n\treturn x  # two  spaces",
    'a "quoted" text: (x + y) * [z] / {w} = 100% <b>&amp;</b>',
] * 4  # fmt: skip
BYTE_PAIRS = dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, split_digits=True,
                  allow_whitespace_only_pieces=True)  # fmt: skip
KINDS = {
    "t5": (transformers.T5Tokenizer, "spiece.model",
           dict(vocab_size=220, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)),
    "llama": (transformers.LlamaTokenizer, "tokenizer.model",
              dict(vocab_size=440, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, **BYTE_PAIRS)),
    "gemma": (transformers.GemmaTokenizer, "tokenizer.model",
              dict(vocab_size=440, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
                   add_dummy_prefix=False, **BYTE_PAIRS)),
}  # fmt: skip
PROBES = [
    "", " ", "  ", "a", " a", "a ", "  a  b  ", "The lamb is at the gate.", "\n", "a\nb",
    "\n\na\t b",
    "\u00a0a\u00a0b", "\u3000a", "\u200ba", "\ufeffa", "a\u00adb", "e\u0301", "\u00e9", "\ufb01ne",
    "\u00bd", "\u2122", "\u2460", "\uff21\uff22", "\u00b2", "Stra\u00dfe", "\u0130", "\u4e2d\u6587",
    "\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u0e44\u0e17\u0e22", "\U0001f44d\U0001f3fd",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U00020000", "\u0000", "a\u0000b", "\u0007",
    "\r\n",
    "12345", "3.14", "1,000", "don't", "http://x.y/z?q=1&r=2", "def f(x):\n\treturn x", "a" * 1000,
    "ab " * 300, "\u2581", "a\u2581b", "<b>", "[INST]", "<|im_end|>", "\u2028",
    "a\u0300\u0301\u0302b",
]  # fmt: skip
# Text that spells a control token: transformers reads the token, t5sft the text.
CONTROLS = ["</s>", "a</s>b", "<pad>", "<unk>", "<s>", "<bos>", "<eos>", "<extra_id_0>"]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    told = {}
    for name, (kind, file, settings) in KINDS.items():
        path = FOLDER / f"{name}.model"
        with open(path, "wb") as out:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(CORPUS), model_writer=out, hard_vocab_limit=False,
                minloglevel=2, **settings,
            )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, file).write_bytes(path.read_bytes())
            tokenizer = kind.from_pretrained(folder)
            told[name] = {
                text: tokenizer(text, add_special_tokens=False).input_ids
                for text in (*PROBES, *CONTROLS)
            }
    content = {"transformers": transformers.__version__, "controls": CONTROLS, "ids": told}
    (FOLDER / "ids.json").write_text(json.dumps(content, indent=0))


if __name__ == "__main__":
    main()
