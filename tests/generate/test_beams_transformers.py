"""Beams in the style of transformers are those of its `generate`, token for token.

T5SFT_TORCH_PYTHON names the Python of an environment with torch and transformers.
"""

import json
import os
import pathlib
import subprocess

import jax
import numpy as np
import pytest
from convert import written
from oracles import checkpoints

from t5sft.evaluate import likelihoods
from t5sft.generate import beam, decode
from t5sft.parallel import mesh
from t5sft.train import start

PYTHON = os.environ.get("T5SFT_TORCH_PYTHON")
NAMES = ["llama", "t5"]
THEIRS = pathlib.Path(__file__).with_name("beams_with_transformers.py")
PROMPTS = [[5, 40, 9], list(range(20, 31)), [33], [7, 7, 50, 51, 8, 12]]
CASES = [
    {"num_beams": k, "length_penalty": alpha, "min_new_tokens": least, "max_new_tokens": most}
    for k, alpha, least, most in [
        (4, 0.0, 0, 14), (4, 1.0, 0, 14), (4, 2.0, 0, 14), (4, -1.0, 5, 9), (4, 1.0, 5, 9),
        (2, 0.6, 0, 14),
    ]
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="T5SFT_TORCH_PYTHON names no Python with transformers"),
]


def weights(name):
    """Clear choices, some of which end an answer: weights of the hot fixtures, halved."""
    tensors = checkpoints.load(name).tensors
    return {n: a.astype(np.float32) * (8.0 if a.ndim > 1 else 1.0) for n, a in tensors.items()}


def likely(model, params):
    """Three tokens that these weights choose: the ends of answers, so that beams do end."""
    answers = decode.generate(model, params, PROMPTS, max_new_tokens=14, eos_id=10_000)
    tokens = np.concatenate([one.tokens[2:] for one in answers])
    return [int(t) for t in np.argsort(-np.bincount(tokens), kind="stable")[:3]]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Ours and what transformers says, in one process: importing it takes long."""
    folder, ours = tmp_path_factory.mktemp("beams"), {}
    for name in NAMES:
        path = written.directory(folder / name, name, **weights(name))
        model = start.model_of(path)
        ours[name] = (model, start.load(path, model, model.abstract()[0]))
    ends = {name: likely(*ours[name]) for name in NAMES}
    asked = {"folders": [str(folder / name) for name in NAMES], "ends": list(ends.values())}
    ran = subprocess.run(
        [PYTHON, str(THEIRS), json.dumps({**asked, "prompts": PROMPTS, "cases": CASES})],
        capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    theirs = dict(zip(NAMES, json.loads(ran.stdout.splitlines()[-1]), strict=True))
    return ours, ends, theirs


@pytest.mark.parametrize("name", NAMES)
def test_transformers_finds_the_same_beams(name, told):
    ours, ends, theirs = told
    (model, params), ends = ours[name], ends[name]
    found = iter(theirs[name])
    rows, want = [], []  # all answers, and their scores by transformers
    for case in CASES:
        k = case["num_beams"]
        beams = beam.Beams(num_beams=k, length_penalty=case["length_penalty"], style="transformers")
        got = decode.generate(
            model, params, PROMPTS, max_new_tokens=case["max_new_tokens"],
            min_new_tokens=case["min_new_tokens"], eos_id=ends, batch_size=4 * k,
            sampler=beams, num_samples=k,
        )  # fmt: skip
        for i, prompt in enumerate(PROMPTS):
            answers, scores = next(found)
            for mine, row, its_score in zip(got[i * k :][:k], answers, scores, strict=True):
                stop = next((n for n, token in enumerate(row) if token in ends), None)
                assert mine == decode.Generated(row[:stop], stop is not None), (case, prompt)
                rows.append(likelihoods.Ids(prompt, row[: None if stop is None else stop + 1]))
                want.append(its_score * beams.divisor(len(rows[-1].targets)))
    one = mesh.make_mesh(devices=jax.devices()[:1])
    log_p = likelihoods.log_probabilities(model, params, rows, start_id=0, batch_size=64, mesh=one)
    np.testing.assert_allclose([x.sum() for x in log_p], want, rtol=2e-5)
    is_finished = [row.targets[-1] in ends for row in rows]
    assert 30 < sum(is_finished) < len(rows) - 5
