"""convert: there and back, bit for bit; what is written is what others and we read."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from convert import written
from oracles import checkpoints

from t5sft import errors, paths
from t5sft.convert import describe, families, foreign, huggingface
from t5sft.train import checkpoint, exchange, start

EACH = pytest.mark.parametrize("name", checkpoints.NAMES)


def shapes(model):
    return model.abstract()[0]


@EACH
def test_there_and_back_bit_for_bit(name, tmp_path):
    source = checkpoints.FOLDER / name
    told = exchange.convert(source=str(source), target=str(tmp_path / "ours"))
    fixture = checkpoints.load(name)
    assert told["num_params"] == sum(a.size for a in fixture.tensors.values())
    model = start.model_of(tmp_path / "ours")
    params = start.load(tmp_path / "ours", model, shapes(model))
    jax.tree.map(
        np.testing.assert_array_equal, params, checkpoints.params_of(fixture, model, "default")
    )
    exchange.convert(source=str(tmp_path / "ours"), target=str(tmp_path / "back"))
    back = huggingface.Directory(tmp_path / "back")
    assert back.config == fixture.config
    whole = "model.safetensors"  # what transformers wrote, header and all
    assert (tmp_path / "back" / whole).read_bytes() == (source / whole).read_bytes()
    assert back.tensors.keys() == fixture.tensors.keys()
    for tensor, array in fixture.tensors.items():
        got = back.read(tensor)
        assert (got.dtype, got.shape) == (array.dtype, array.shape), tensor
        assert got.tobytes() == array.tobytes(), tensor


def test_every_dtype_comes_back(tmp_path):
    kinds = [ml_dtypes.bfloat16, np.float16, np.float32, ml_dtypes.float8_e4m3fn]
    tensors = checkpoints.load("llama").tensors
    changed = {n: a.astype(kinds[i % 4]) for i, (n, a) in enumerate(tensors.items())}
    source = written.directory(tmp_path / "a", "llama", **changed)
    exchange.convert(source=str(source), target=str(tmp_path / "ours"))
    exchange.convert(source=str(tmp_path / "ours"), target=str(tmp_path / "back"))
    back = huggingface.Directory(tmp_path / "back")
    for name, array in changed.items():
        assert back.tensors[name].dtype == array.dtype
        assert back.read(name).tobytes() == array.tobytes()


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_gin_makes_the_model(name, tmp_path):
    from t5sft import launch

    exchange.convert(source=str(checkpoints.FOLDER / name), target=str(tmp_path / "ours"))
    (tmp_path / "run.gin").write_text(
        f"include '{tmp_path}/ours/model.gin'\nfrom __gin__ import dynamic_registration\n"
        "from t5sft.train import run\nrun.train.model = %MODEL\n"
    )
    needed = ("data", "optimizer", "model_dir", "steps", "batch_size")
    configuration = launch.resolve("train", [str(tmp_path / "run.gin")], arguments=needed)
    model = launch.bind(configuration)[1]["model"]
    assert model == start.model_of(tmp_path / "ours")
    assert model.dtype == "bfloat16"  # the fixtures' weights are


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_dtype_may_be_asked_for(dtype, tmp_path):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    fixture = checkpoints.load("qwen2")
    exchange.convert(source=str(checkpoints.FOLDER / "qwen2"), target=str(tmp_path / "a"))
    exchange.convert(source=str(tmp_path / "a"), target=str(tmp_path / "b"), dtype=dtype)
    back = huggingface.Directory(tmp_path / "b")
    assert back.config["dtype"] == dtype
    for name, array in fixture.tensors.items():
        assert back.read(name).tobytes() == array.astype(kind).tobytes()
    exchange.convert(
        source=str(checkpoints.FOLDER / "qwen2"), target=str(tmp_path / "c"), dtype=dtype
    )
    run = json.loads((tmp_path / "c/checkpoints/0/run/run.json").read_text())
    assert run.get("stored_dtype", "float32") == dtype


def test_files_are_split(tmp_path):
    exchange.convert(source=str(checkpoints.FOLDER / "llama"), target=str(tmp_path / "ours"))
    exchange.convert(
        source=str(tmp_path / "ours"), target=str(tmp_path / "back"), max_shard_bytes=8000
    )
    back = huggingface.Directory(tmp_path / "back")
    files = {tensor.file for tensor in back.tensors.values()}
    assert len(files) > 2 and all(file.stat().st_size < 8000 + 2000 for file in files)
    for name, array in checkpoints.load("llama").tensors.items():
        assert back.read(name).tobytes() == array.tobytes()
    index = json.loads((tmp_path / "back" / huggingface.INDEX).read_text())
    total = sum(a.nbytes for a in checkpoints.load("llama").tensors.values())
    assert index["metadata"]["total_size"] == total


@pytest.mark.parametrize("name", ["t5", "t5_1_1"])
def test_from_t5x_to_hugging_face(name, tmp_path):
    source = written.t5x(tmp_path / "checkpoint_17", name)
    exchange.convert(source=str(source), target=str(tmp_path / "ours"))
    exchange.convert(source=str(tmp_path / "ours"), target=str(tmp_path / "back"))
    opened = foreign.open_any(tmp_path / "back")
    wanted = families.find("t5").model(checkpoints.load(name).config)
    assert families.differences(opened.model, wanted) == []
    for tensor, array in checkpoints.load(name).tensors.items():
        np.testing.assert_array_equal(opened.read(tensor), array.astype(np.float32))


def test_what_training_saved_is_written_too(tmp_path):
    """Float32, with a config.json made anew."""
    fixture = checkpoints.load("qwen3")
    model = fixture.family.model(fixture.config)
    params = checkpoints.params_of(fixture, model, "default")
    checkpoint.save_params(tmp_path / "ours", params, {"step": 3})
    with pytest.raises(errors.ConfigError, match="does not say its model.*--gin_file"):
        exchange.convert(source=str(tmp_path / "ours"), target=str(tmp_path / "back"))
    told = exchange.convert(
        source=str(tmp_path / "ours"), target=str(tmp_path / "back"), model=model
    )
    assert "no tokenizer is known" in told["notes"][0]
    opened = foreign.open_any(tmp_path / "back")
    assert opened.family.name == "qwen3" and opened.config["torch_dtype"] == "float32"
    assert families.differences(opened.model, model) == []
    for name, array in fixture.tensors.items():
        np.testing.assert_array_equal(opened.read(name), array.astype(np.float32))


def test_another_model_is_not_written(tmp_path):
    fixture = checkpoints.load("qwen3")
    model = fixture.family.model(fixture.config)
    checkpoint.save_params(tmp_path / "a", checkpoints.params_of(fixture, model, "default"), {})
    other = checkpoints.load("llama")
    with pytest.raises(errors.CheckpointError, match="is of another model: decoder/layers/"):
        exchange.convert(
            source=str(tmp_path / "a"),
            target=str(tmp_path / "b"),
            model=other.family.model(other.config),
        )
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "a"}, "give SOURCE and TARGET"),
        ({"source": "a", "target": "b", "dtype": "bf16"}, "did you mean 'bfloat16'"),
        ({"source": "nothing", "target": "b"}, "no checkpoint"),
        ({"source": "nothing", "target": "b", "special_tokens": "<x>"}, "do it before training"),
    ],
)
def test_mistakes_are_told(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.T5sftError, match=message):
        exchange.convert(**arguments)


def test_nothing_is_left_of_a_conversion_that_failed(tmp_path):
    bad = {"model.norm.weight": np.full(24, np.nan, np.float32)}
    source = written.directory(tmp_path / "a", "llama", **bad)
    with pytest.raises(errors.T5sftError, match="model.norm.weight holds NaN"):
        exchange.convert(source=str(source), target=str(tmp_path / "ours"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(errors.StorageError, match="already there"):
        exchange.convert(source=str(source), target=str(source))


def test_the_tokenizer_goes_with_the_weights(tmp_path):
    """A SentencePiece model under the name that transformers looks for, with the special ids."""
    model = families.find("t5").model(checkpoints.load("t5").config)
    params = checkpoints.params_of(checkpoints.load("t5"), model, "default")
    checkpoint.save_params(tmp_path / "a", params, {"model": describe.to_json(model)})
    name = "tasks/village/vocab.model"
    told = exchange.convert(source=str(tmp_path / "a"), target=str(tmp_path / "b"), tokenizer=name)
    content = (tmp_path / "b" / "spiece.model").read_bytes()
    assert content == paths.find(name).read_bytes()
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (config["pad_token_id"], config["eos_token_id"]) == (0, 1)
    assert "puts a space before every text" in told["notes"][0]
    assert start.tokenizer_of(tmp_path / "b") == str(tmp_path / "b")
    with pytest.raises(errors.ConfigError, match="no file nowhere.model.*--tokenizer; check"):
        exchange.convert(
            source=str(tmp_path / "a"), target=str(tmp_path / "c"), tokenizer="nowhere.model"
        )
