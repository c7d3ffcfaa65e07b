"""An exported directory loads in transformers, nothing missing or unexpected, and answers alike.

T5SFT_TORCH_PYTHON names the Python of an environment with torch and transformers.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
from convert import written
from oracles import checkpoints

from t5sft.generate import decode
from t5sft.train import exchange, start

PYTHON = os.environ.get("T5SFT_TORCH_PYTHON")
# transformers goes over to the long factors within an answer; here that is a setting of the model.
NAMES = [name for name in checkpoints.NAMES if name != "phi3_long"]
NEW = 12  # tokens of an answer
NO_END = 10_000
THEIRS = pathlib.Path(__file__).parent / "answer_with_transformers.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="T5SFT_TORCH_PYTHON names no Python with transformers"),
]


def hot(name):
    """Weights so large that the first choice is clear."""
    tensors = checkpoints.load(name).tensors
    scale = {n: checkpoints.HOT if a.ndim > 1 else 1.0 for n, a in tensors.items()}
    return {n: a.astype(np.float32) * scale[n] for n, a in tensors.items()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What transformers makes of all directories, in one process: importing it takes long."""
    folder = tmp_path_factory.mktemp("exported")
    prompts = np.random.default_rng(0).integers(3, 60, (3, 7)).tolist()
    for name in NAMES:
        written.directory(folder / f"{name}.hf", name, **hot(name))
        exchange.convert(source=str(folder / f"{name}.hf"), target=str(folder / f"{name}.ours"))
        exchange.convert(source=str(folder / f"{name}.ours"), target=str(folder / name))
    asked = {"folders": [str(folder / name) for name in NAMES], "prompts": prompts, "num": NEW}
    command = [PYTHON, str(THEIRS), json.dumps(asked)]
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    return folder, prompts, dict(zip(NAMES, told, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_transformers_answers_alike(name, exported):
    folder, prompts, told = exported
    assert told[name]["missing"] == told[name]["unexpected"] == told[name]["mismatched"] == []
    path = folder / f"{name}.ours"
    model = start.model_of(path)
    params = start.load(path, model, model.abstract()[0])
    answers = decode.generate(
        model, params, prompts, max_new_tokens=NEW, eos_id=NO_END, start_id=0, batch_size=3
    )
    assert [one.tokens for one in answers] == told[name]["answers"]
