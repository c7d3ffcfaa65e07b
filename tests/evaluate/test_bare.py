"""evaluate at weights without a configuration: they tell their model, a benchmark its prompts."""

import json
import pathlib
import shutil

import pytest
from oracles import tiny

from t5sft import cli
from t5sft.data import prepare
from t5sft.evaluate import opening, run

FIXTURE = pathlib.Path(__file__).parents[1] / "convert" / "fixtures" / "t5_1_1"
MODEL = pathlib.Path(__file__).parents[2] / "tasks" / "village" / "vocab.model"


@pytest.fixture
def weights(tmp_path):
    """A Hugging Face directory with a tokenizer, its vocabulary made to fit."""
    import numpy as np
    import safetensors.numpy

    shutil.copytree(FIXTURE, tmp_path / "hf", ignore=shutil.ignore_patterns("*.npz"))
    shutil.copy(MODEL, tmp_path / "hf" / "spiece.model")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    tensors = safetensors.numpy.load_file(FIXTURE / "model.safetensors")
    for name, array in tensors.items():
        if array.shape[0] == config["vocab_size"]:
            tensors[name] = np.resize(array, (2048, *array.shape[1:]))
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "vocab_size": 2048}))
    safetensors.numpy.save_file(tensors, tmp_path / "hf" / "model.safetensors")
    return str(tmp_path / "hf")


def test_a_benchmark_needs_no_gin_file(weights, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = tmp_path / "rank.jsonl"
    asked.write_text(json.dumps({"prompt": "2+2?", "options": ["4", "5"], "answer": 0}) + "\n")
    arguments = ["evaluate", "--model_dir", weights, "--json"]
    assert cli.main([*arguments, "--task", "rank", "--questions", str(asked)]) == 0
    (line,) = json.loads(capfd.readouterr().out)["results"]
    assert line["n"] == 1 and line["step"] is None and line["template"] == "plain"
    assert line["checkpoint"] == weights and line["vocabulary"].startswith(weights)
    assert (tmp_path / "evaluations" / "hf" / "evaluation" / "results.jsonl").is_file()


def test_results_tell_the_tokenizer_as_it_was_named(tmp_path, monkeypatch):
    """From another folder it was told by its path on this machine: --watch began anew elsewhere."""
    monkeypatch.chdir(tmp_path)
    name = "tasks/village/vocab.model"
    data = prepare.Data(task="village", vocabulary=name, template="plain")
    ready = opening.find(model_dir=str(tmp_path), model=tiny.T5, data=data)
    assert run.describe(ready)["vocabulary"] == name


def test_a_seqio_task_needs_one_and_missing_weights_are_told(weights, capfd):
    assert cli.main(["evaluate", "--model_dir", weights, "--task", "village_plural"]) == 2
    err = capfd.readouterr().err
    assert "'village_plural' is no benchmark" in err and "add the --gin_file" in err
    assert cli.main(["evaluate", "--model_dir", "/none", "--task", "ifeval"]) == 5
    assert "no checkpoint; /none" in capfd.readouterr().err
