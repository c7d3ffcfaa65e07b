"""Vocabularies give the ids of their libraries, and never a control token for a user's words."""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import vocabularies
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from t5sft import errors
from t5sft.data import preprocess, records, templates, vocab

PROBES = (
    "",
    " ",
    "  two  spaces  ",
    "line\nline\n\n\ttab\r\n",
    "caf\u00e9 nai\u0308ve \u4e2d\u6587 \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a" * 5000,
    "def f(x):\n    return x ** 2  # 1234567890",
    "\x00\x1f",
    "<|im_ <im_end> [INST <table> </table>",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
)
SPELLED = " ".join((*vocabularies.CONTROLS, "</s><s>", "<pad>", "<|begin|>", "<|end_of_text|>"))


def write(tmp_path, tokenizer, **config):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    if config:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return vocab.load(str(tmp_path))


def test_ids_of_tokenizer_json_are_those_of_the_library():
    vocabulary = vocabularies.byte_pairs()
    library = tokenizers.Tokenizer.from_file(str(vocabularies.directory() / "tokenizer.json"))
    for probe in PROBES:
        want = library.encode(probe, add_special_tokens=False)
        assert vocabulary.encode(probe) == want.ids
        ids, offsets = vocabulary.encode_with_offsets(probe)
        assert (ids, offsets) == (want.ids, want.offsets)
        assert vocabulary.decode(ids) == probe
    assert vocabulary.encode_all(PROBES) == [vocabulary.encode(probe) for probe in PROBES]
    # The library reads what a user typed as a control token. Here it stays text.
    control = vocabulary.control_id("<|im_end|>")
    assert control in library.encode("a <|im_end|>").ids
    assert control not in vocabulary.encode("a <|im_end|>")
    assert vocabulary.decode(vocabulary.encode(SPELLED)) == SPELLED


def test_special_ids_come_from_the_settings(tmp_path):
    vocabulary = vocabularies.byte_pairs()
    library = tokenizers.Tokenizer.from_file(str(vocabularies.directory() / "tokenizer.json"))
    names = ("<|begin|>", "<|end_of_text|>", "<|pad|>")
    bos, eos, pad = (library.token_to_id(name) for name in names)
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id) == (bos, eos, pad)
    assert vocabulary.eos_ids == (eos,)
    assert vocabulary.size == library.get_vocab_size(with_added_tokens=True)
    generation = {"eos_token_id": [eos, library.token_to_id("<|eot_id|>")], "bos_token_id": bos}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    alone = write(tmp_path, library)
    assert alone.eos_ids == tuple(generation["eos_token_id"])
    assert alone.fingerprint() != vocabulary.fingerprint()
    other = tmp_path / "other"
    other.mkdir()
    (other / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|eot_id|>"}))
    library.post_processor = processors.ByteLevel()
    mapped = write(other, library)
    assert mapped.eos_id == library.token_to_id("<|eot_id|>")
    assert mapped.bos_id is None  # the tokenizer puts nothing in front


def test_files_that_do_not_do(tmp_path):
    with pytest.raises(errors.ConfigError, match="neither tokenizer.json nor a .model"):
        vocab.load(str(tmp_path))
    bare = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    with pytest.raises(errors.DataError, match="no end-of-text token.*tokenizer_config.json"):
        write(tmp_path, bare)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(errors.DataError, match="no usable tokenizer"):
        vocab.load(str(tmp_path / "tokenizer.json"))


def unigram():
    """As T5's tokenizer.json: every control token is a piece of the model as well."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(chr(c), -5.0) for c in range(33, 127)] + [("\u2581hello", -3.0), ("lo", -4.0)]
    pieces += [("<extra_id_0>", 0.0)]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    return made


def test_a_unigram_model_reads_no_control_token_either(tmp_path):
    vocabulary = write(tmp_path, unigram(), eos_token="</s>", pad_token="<pad>")
    assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.bos_id) == (1, 0, None)
    assert vocabulary.sentinel_ids == (unigram().token_to_id("<extra_id_0>"),)
    assert vocabulary.adds_space
    for probe in ("hello", "hello hello", "lo & behold"):
        assert vocabulary.encode(probe) == unigram().encode(probe, add_special_tokens=False).ids
    text = "a </s> <pad> <extra_id_0> b"
    ids = vocabulary.encode(text)
    assert not {0, 1, *vocabulary.sentinel_ids} & set(ids)
    assert vocabulary.decode(ids) == text


def test_byte_pairs_with_control_words_in_the_model(tmp_path):
    """As Llama 2's: <s> and </s> are words of the model, though no merge makes them."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3}
    words |= {chr(c): c - 29 for c in range(33, 127)}
    words |= {"lo": 99}
    made = tokenizers.Tokenizer(models.BPE(words, [("l", "o")], unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    vocabulary = write(tmp_path, made, eos_token="</s>", bos_token="<s>")
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id) == (1, 2, 2)
    assert vocabulary.adds_space
    for probe in ("lo lo", "hello, world"):
        assert vocabulary.encode(probe) == made.encode(probe, add_special_tokens=False).ids
    assert not {1, 2} & set(vocabulary.encode("<s> </s>"))
    assert vocabulary.decode(vocabulary.encode("<s> </s>")) == "<s> </s>"


@pytest.mark.parametrize("name", ["mistral", "llama2"])
def test_a_space_at_the_first_word_only_is_not_put_after_every_control_token(tmp_path, name):
    """As Mistral's: ids of a conversation are those of its whole text, read by the library."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "[INST]": 3, "[/INST]": 4, "\u2581": 5}
    words |= {chr(c): c - 20 for c in range(33, 127)} | {"\n": 107, "\u2581a": 108}
    made = tokenizers.Tokenizer(models.BPE(words, [("\u2581", "a")], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    if name == "mistral":
        made.add_special_tokens(["[INST]", "[/INST]"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    vocabulary = write(tmp_path, made, eos_token="</s>", bos_token="<s>")
    turns = [("user", "a b"), ("assistant", "a."), ("user", "an a"), ("assistant", "a a")]
    record = records.Record(tuple(records.Message(*turn) for turn in turns))
    template = templates.get(name)
    got = preprocess.instruction(record, vocabulary, template, layout="decoder").targets.ids
    text = {
        "mistral": "<s>[INST] a b[/INST] a.</s>[INST] an a[/INST] a a</s>",
        "llama2": "<s>[INST] a b [/INST] a. </s><s>[INST] an a [/INST] a a </s>",
    }
    assert got == made.encode(text[name], add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["chatml", "qwen3", "llama3", "gemma", "alpaca"])
def test_ids_of_a_conversation_are_those_of_its_whole_text(name):
    """What is cut at control tokens and answers is, for plain words, what the library makes."""
    vocabulary, template = vocabularies.byte_pairs(), templates.get(name)
    library = tokenizers.Tokenizer.from_file(str(vocabularies.directory() / "tokenizer.json"))
    turns = [("user", "Write a response!"), ("assistant", "Hello there."), ("user", "a task")]
    record = records.Record(
        tuple(records.Message(*t) for t in (*turns, ("assistant", "caf\u00e9")))
    )
    text = "".join(
        "<|end_of_text|>" if piece.text == "eos" and piece.is_control else piece.text
        for piece in templates.render(record, template)
    )
    got = preprocess.instruction(record, vocabulary, template, layout="decoder").targets.ids
    assert got == library.encode(text).ids  # the library puts <|begin|> in front


def test_user_defined_markers_of_sentencepiece_are_no_text():
    vocabulary = vocabularies.sentence_piece()
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_file=vocabulary.name)
    spelled = vocabularies.CONTROLS[1]  # a user-defined piece
    marker, table = library.piece_to_id(spelled), library.piece_to_id("<table>")
    assert marker in library.encode(f"a {spelled}")
    assert marker not in vocabulary.encode(f"a {spelled}")
    assert vocabulary.control_id(spelled) == marker
    assert table in vocabulary.encode("a <table>")  # text that has an id of its own
    assert vocabulary.control_id("<table>") is None
    for probe in PROBES[:-2]:
        assert vocabulary.encode(probe) == library.encode(probe)


@pytest.mark.parametrize("kind", vocabularies.KINDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\u2581")))
def test_text_survives_and_offsets_cover_it(kind, text):
    vocabulary = vocabularies.KINDS[kind]()
    ids, offsets = vocabulary.encode_with_offsets(text)
    assert ids == vocabulary.encode(text) == vocabulary.encode_all([text])[0]
    assert vocabulary.decode(ids) == text
    begins = [begin for begin, _ in offsets]
    assert begins == sorted(begins) and all(0 <= b <= e <= len(text) for b, e in offsets)
    covered = {i for begin, end in offsets for i in range(begin, end)}
    assert covered == set(range(len(text)))
