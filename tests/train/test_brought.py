"""A recipe takes model, tokenizer and chat template from the weights, and later from the run."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from convert import written
from oracles import checkpoints

from t5sft import cli, errors, launch, paths
from t5sft.train import brought, exchange

VILLAGE = paths.folder("tasks") / "village/vocab.model"
CHATML = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"


@pytest.fixture
def llama(tmp_path):
    path = written.directory(tmp_path / "llama", "llama3")
    shutil.copyfile(VILLAGE, path / "tokenizer.model")
    return path


def with_template(path):
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    return path


def test_all_of_it_lies_in_a_hugging_face_directory(llama):
    found = brought.model(str(llama))
    assert (found.emb_dim, found.rope_theta, found.logits_via_embedding) == (24, 500.0, True)
    assert brought.vocabulary(str(llama)) == str(llama)
    assert brought.template(str(llama), otherwise="alpaca") == "alpaca"
    assert brought.template(str(with_template(llama))) == str(llama)


def test_computes_as_the_weights_are_unless_told(llama, tmp_path):
    tensors = checkpoints.load("llama3").tensors  # bfloat16
    floats = {name: array.astype(np.float32) for name, array in tensors.items()}
    wide = written.directory(tmp_path / "wide", "llama3", **floats)
    assert brought.model(str(llama)).dtype == "bfloat16"
    assert brought.model(str(wide)).dtype == "float32"
    told = brought.model(str(llama), dtype="float32", remat="full", dropout_rate=0.25)
    assert (told.dtype, told.remat, told.dropout_rate) == ("float32", "full", 0.25)


def test_what_the_run_holds_comes_first(llama, tmp_path):
    run = tmp_path / "run"
    exchange.convert(source=str(with_template(llama)), target=str(run))
    shutil.rmtree(llama)
    found = brought.model(str(llama), str(run))
    assert (found.emb_dim, found.dtype) == (24, "bfloat16")
    assert brought.vocabulary(str(llama), str(run)) == str(run / "huggingface")
    assert brought.template(str(llama), str(run)) == str(run / "huggingface")


def test_a_directory_that_holds_nothing_yet_is_passed_over(llama, tmp_path):
    (tmp_path / "run").mkdir()
    assert brought.vocabulary(str(llama), str(tmp_path / "run")) == str(llama)


def test_says_what_is_missing(llama):
    with pytest.raises(errors.ConfigError, match=r"none are given; .*add --init_from DIR"):
        brought.model()
    with pytest.raises(errors.ConfigError, match=r"weights are of a 'decoder'.*tune_decoder.gin"):
        brought.model(str(llama), layout="encoder_decoder")
    (llama / "tokenizer.model").unlink()
    with pytest.raises(errors.ConfigError, match="no tokenizer beside the weights; .*VOCABULARY"):
        brought.vocabulary(str(llama))


@pytest.mark.parametrize("verb", ["prepare", "inspect"])
def test_no_directory_of_a_run_is_needed_where_none_is_used(verb):
    launch.resolve(verb, ["gin/recipes/tune_decoder.gin"])


def test_train_asks_for_one(capsys):
    assert cli.main(["train", "--gin_file", "gin/recipes/tune_decoder.gin"]) == 2
    assert "MODEL_DIR is not bound" in (told := capsys.readouterr().err)
    assert "add --model_dir" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name", "table"),
    [("t5", "t5", "shared.weight"), ("decoder", "llama3", "model.embed_tokens.weight")],
)
def test_from_a_directory_and_a_file_to_an_answer(recipe, name, table, tmp_path):
    """And on from the run alone, when the directory is gone."""
    embedding = np.random.default_rng(0).normal(size=(2048, 24)).astype(ml_dtypes.bfloat16)
    size = {"vocab_size": 2048, "max_position_embeddings": 512}
    hf = written.directory(tmp_path / "hf", name, config=size, **{table: embedding})
    shutil.copyfile(VILLAGE, hf / "tokenizer.model")
    data = [{"instruction": f"Say {i}.", "input": "", "output": f"{i}"} for i in range(120)]
    (tmp_path / "rows.json").write_text(json.dumps(data))
    run = str(tmp_path / "run")
    command = ["train", "--gin_file", f"gin/recipes/tune_{recipe}.gin", "--init_from", str(hf)]
    command += ["--data", str(tmp_path / "rows.json"), "--model_dir", run]
    command += ["--steps", "2", "--batch_size", "8", "--gin.DECODER_LENGTH=128"]
    assert cli.main(command) == 0
    shutil.rmtree(hf)
    assert cli.main(["generate", "--model_dir", run, "--prompt", "Say 3."]) == 0
    assert cli.main(["convert", run, str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "tokenizer.model").is_file()
