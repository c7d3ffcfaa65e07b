"""Special tokens added: the tokenizer knows them, and each has an embedding."""

import json

import numpy as np
import pytest
import tokenizers
from convert import written
from oracles import checkpoints

from t5sft import errors
from t5sft.convert import huggingface, special
from t5sft.data import vocab
from t5sft.train import exchange, start

NEW = ["<|im_start|>", "<|im_end|>"]


def tokenizer(path, kind="WordLevel"):
    """A tokenizer of 64 tokens, the last of them </s>, as transformers writes one."""
    words = [f"w{i}" for i in range(63)]
    if kind == "WordLevel":
        ids = {word: i for i, word in enumerate(words)}
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="w0"))
    else:
        made = tokenizers.Tokenizer(tokenizers.models.Unigram([(w, -1.0) for w in words], 0))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["</s>"])
    made.save(str(path / "tokenizer.json"))
    settings = {"eos_token": "</s>", "added_tokens_decoder": {"63": {"content": "</s>"}}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("kind", ["WordLevel", "Unigram"])
def test_tokens_follow_the_highest_id(kind, tmp_path):
    tokenizer(tmp_path, kind)
    before = vocab.load(str(tmp_path)).encode("w3 w5")
    assert special.add(tmp_path, [*NEW, "</s>"]) == {NEW[0]: 64, NEW[1]: 65, "</s>": 63}
    vocab.opened.cache_clear()
    after = vocab.load(str(tmp_path))
    assert [after.control_id(token) for token in NEW] == [64, 65]
    assert after.encode("w3 w5") == before and after.size == 66
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("w3 <|im_end|>").ids == [3, 65]
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["added_tokens_decoder"]["65"]["content"] == NEW[1]
    assert special.add(tmp_path, NEW) == {NEW[0]: 64, NEW[1]: 65}  # once more changes nothing


def test_what_cannot_be_added(tmp_path):
    with pytest.raises(errors.ConfigError, match="special tokens need a tokenizer.json.*AutoTok"):
        special.add(tmp_path, NEW)
    tokenizer(tmp_path)
    for tokens in (["<x>", ""], ["<x>", "<x>"]):
        with pytest.raises(errors.ConfigError, match="each once, none empty"):
            special.add(tmp_path, tokens)


def test_convert_adds_them_and_their_embeddings(tmp_path):
    """64 embeddings become 128; those from 64 on are the mean of the others."""
    source = tokenizer(written.directory(tmp_path / "a", "llama"))
    told = exchange.convert(
        source=str(source), target=str(tmp_path / "ours"), special_tokens=",".join(NEW)
    )
    assert told["special_tokens"] == {NEW[0]: 64, NEW[1]: 65}
    assert "vocab_size 64 -> 128: the added embeddings are the mean of the others" in told["notes"]
    model = start.model_of(tmp_path / "ours")
    assert model.vocab_size == 128
    vocabulary = vocab.load(start.tokenizer_of(tmp_path / "ours"))
    assert vocabulary.control_id(NEW[1]) == 65
    params = start.load(tmp_path / "ours", model, model.abstract()[0], vocabulary)
    old = checkpoints.load("llama").tensors["model.embed_tokens.weight"].astype(np.float32)
    np.testing.assert_array_equal(params["embedding"][:64], old)
    added = np.asarray(params["embedding"][64:])
    assert (added == added[0]).all()
    np.testing.assert_allclose(added[0], old.mean(0), rtol=2**-8, atol=1e-6)  # bfloat16
    exchange.convert(source=str(tmp_path / "ours"), target=str(tmp_path / "back"))
    back = huggingface.Directory(tmp_path / "back")
    assert back.config["vocab_size"] == 128
    assert back.tensors["lm_head.weight"].shape == (128, 24)
    copied = tokenizers.Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert copied.token_to_id(NEW[0]) == 64


def test_embeddings_that_are_there_are_kept(tmp_path):
    """A vocabulary padded beyond its tokens needs no more."""
    source = tokenizer(written.directory(tmp_path / "a", "llama"))
    content = json.loads((source / "tokenizer.json").read_text())
    content["model"]["vocab"] = {f"w{i}": i for i in range(40)}
    content["added_tokens"][0]["id"] = 40
    (source / "tokenizer.json").write_text(json.dumps(content))
    exchange.convert(source=str(source), target=str(tmp_path / "ours"), special_tokens="<x>")
    assert start.model_of(tmp_path / "ours").vocab_size == 64
    assert vocab.load(str(tmp_path / "ours" / start.KEPT)).control_id("<x>") == 41
