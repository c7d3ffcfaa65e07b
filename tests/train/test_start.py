"""Where parameters come from: any kind of checkpoint, checked before anything is compiled."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from convert import written
from oracles import checkpoints

from t5sft import errors
from t5sft.convert import describe
from t5sft.data import vocab
from t5sft.train import checkpoint, exchange, start

LLAMA, T5 = "llama", "t5_1_1"
VILLAGE = "tasks/village/vocab.model"


def model_of(name, **changes):
    fixture = checkpoints.load(name)
    return dataclasses.replace(fixture.family.model(fixture.config), **changes)


def params_of(name):
    return checkpoints.params_of(checkpoints.load(name), model_of(name), "default")


def assert_equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def kinds(tmp_path):
    """One T5 in every form it may come in."""
    folder = checkpoints.FOLDER / T5
    exchange.convert(source=str(folder), target=str(tmp_path / "ours"))
    checkpoint.save_params(tmp_path / "old", params_of(T5), {})
    run = {"model": describe.to_json(model_of(T5))}
    checkpoint.save_params(tmp_path / "params", params_of(T5), run)
    t5x = written.t5x(tmp_path / "checkpoint_1", T5)
    return [folder, tmp_path / "ours", tmp_path / "old", tmp_path / "params", t5x]


def test_every_kind_of_checkpoint(tmp_path):
    model = model_of(T5, dtype="bfloat16", remat="full")
    for path in kinds(tmp_path):
        assert_equal(start.load(path, model, model.abstract()[0]), params_of(T5))


def test_another_model_is_refused_before_arrays_are_read(tmp_path):
    model = model_of(T5, norm_epsilon=1e-5)
    for path in kinds(tmp_path):
        if path.name == "old":  # which does not say its model
            continue
        with pytest.raises(
            errors.CheckpointError, match="norm_epsilon is 1e-06, in the model 1e-0"
        ):
            start.find(path, model)


def test_a_checkpoint_of_ours_grows_too(tmp_path):
    """The mean of the rows there are, in the embedding and in the head."""
    exchange.convert(source=str(checkpoints.FOLDER / LLAMA), target=str(tmp_path / "ours"))
    model = model_of(LLAMA, vocab_size=70)
    found = start.find(tmp_path / "ours", model)
    assert found.notes == ["6 embeddings added to 64, each the mean of these"]
    params = found.read(model.abstract()[0])
    before = params_of(LLAMA)
    for leaf, axis in (("embedding", 0), ("head", 1)):
        old, added = np.split(np.asarray(params[leaf]), [64], axis)
        np.testing.assert_array_equal(old, before[leaf])
        mean = before[leaf].mean(axis, keepdims=True)
        np.testing.assert_allclose(added, np.repeat(mean, 6, axis), rtol=1e-5, atol=1e-8)
    assert_equal(params["decoder"], before["decoder"])


def with_tokenizer(path, tokenizer, name=LLAMA):
    written.directory(path, name)
    (path / "tokenizer.model").write_bytes(tokenizer)
    return path


@pytest.fixture(scope="module")
def village():
    return vocab.load(VILLAGE)


def test_the_tokenizer_of_the_weights_must_be_the_tasks(tmp_path, village):
    """The fixture has too few embeddings for these tokenizers, which does not matter here."""
    tokenizer = open(village.name, "rb").read()
    path = with_tokenizer(tmp_path / "a", tokenizer)
    assert start.find(path, model_of(LLAMA), village).notes == []
    with pytest.raises(errors.CheckpointError, match="eos_id|bos_id"):
        start.find(path, model_of(LLAMA), vocab.load("bytes"))
    exchange.convert(source=str(path), target=str(tmp_path / "ours"))
    assert start.find(tmp_path / "ours", model_of(LLAMA), village).notes == []
    with pytest.raises(errors.CheckpointError, match="the task's tokenizer is not that of the wei"):
        start.find(tmp_path / "ours", model_of(LLAMA), vocab.load("bytes"))


def test_no_tokenizer_is_noted(village):
    found = start.find(checkpoints.FOLDER / LLAMA, model_of(LLAMA), village)
    assert "it was not compared" in found.notes[0]


class Spelled:
    """Two letters a token, or one."""

    eos_id, bos_id, pad_id, size = 1, None, 0, 300

    def __init__(self, step):
        self.step = step

    def encode(self, text):
        parts = range(0, len(text), self.step)
        return [sum(map(ord, text[i : i + self.step])) for i in parts]


def test_the_first_text_with_other_ids_is_shown():
    same = start.differs(Spelled(1), Spelled(1), "decoder")
    assert same is None
    told = start.differs(Spelled(1), Spelled(2), "decoder")
    assert told.startswith("'Hello, world!' is [72, 101, 108, ")
    assert ", ...], the weights' [173, 216, " in told
    other = Spelled(1)
    other.pad_id = 5
    assert start.differs(Spelled(1), other, "decoder") is None
    assert start.differs(Spelled(1), other, "encoder_decoder") == "pad_id is 0, the weights' 5"


def test_what_weights_came_with_is_kept(tmp_path):
    path = written.directory(tmp_path / "a", LLAMA)
    (path / "tokenizer.model").write_bytes(b"pieces")
    (path / "modeling_evil.py").write_text("import os")
    start.keep(path, tmp_path / "run")
    kept = tmp_path / "run" / start.KEPT
    assert {file.name for file in kept.iterdir()} == {"config.json", "tokenizer.model"}
    (tmp_path / "run/checkpoints/1").mkdir(parents=True)
    checkpoint.save_params(tmp_path / "run/checkpoints/2", params_of(LLAMA), {})
    start.keep(tmp_path / "run", tmp_path / "next")
    assert (tmp_path / "next" / start.KEPT / "tokenizer.model").read_bytes() == b"pieces"
    start.keep(checkpoints.FOLDER / T5, tmp_path / "next")  # never over what is there
    config = json.loads((tmp_path / "next" / start.KEPT / "config.json").read_text())
    assert config["model_type"] == "llama"


@pytest.mark.parametrize("name", ["t5", "decoder"])
def test_shipped_bases_tell_their_model_and_tokenizer(name):
    """So that score, generate and convert of them need no recipe."""
    path = f"tasks/village/base_{name}"
    model = start.model_of(path)
    assert model.layout == ("decoder" if name == "decoder" else "encoder_decoder")
    vocabulary = vocab.load("tasks/village/vocab.model")
    assert start.tokenizer_of(path) == vocabulary.name
    assert start.find(path, model, vocabulary).notes == []


def test_a_tokenizer_is_named_from_where_one_is(tmp_path, monkeypatch):
    """It was named as in the directory in which it had been opened first."""
    here = vocab.load("tasks/village/vocab.model").name
    monkeypatch.chdir(tmp_path)
    assert vocab.load("tasks/village/vocab.model").name != here == "tasks/village/vocab.model"
