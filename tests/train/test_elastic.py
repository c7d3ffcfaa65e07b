"""The machine changes twice in a run; examples and losses are those of a run that stayed.

The shipped village mixture, packed, T5 with dropout, AdamW with clipping, float32: 50 steps on one
device; the same with steps 18 to 34 on 2 x 2 devices and 35 to 50 on two processes of two each.
"""

import collections
import json

import many
import numpy as np
import pytest

from t5sft.train import metrics

STEPS, PARTS = 50, (17, 34)
GIN = """
from __gin__ import dynamic_registration
from t5sft.data import prepare
from t5sft.models import t5
from t5sft.parallel import mesh
from t5sft.train import optim
include 'gin/runs/sft.gin'
include 'gin/runs/village.gin'

t5.T5:
  vocab_size = 1920
  emb_dim = 32
  mlp_dim = 64
  num_heads = 4
  head_dim = 8
  num_encoder_layers = 2
  num_decoder_layers = 2
  dropout_rate = 0.1
prepare.Data.cache_dir = '{cache}'
optim.schedule:
  peak = 3e-3
  warmup_steps = 5
  total_steps = 50
optim.adamw:
  learning_rate = @optim.schedule()
  clip_norm = 1.0
mesh.MeshSpec:
  data = 1
  fsdp = {fsdp}
  tensor = {tensor}
MESH = @mesh.MeshSpec()
MODEL = @t5.T5()
OPTIMIZER = @optim.adamw()
TEMPLATE = 'plain'
STEPS = 50
BATCH_SIZE = 8
LOG_EVERY = 1
EVAL_EVERY = 0
SAVE_EVERY = 10
"""
# The command line, which notes the batches that it learns.
SCRIPT = """
import json, os, sys
from t5sft import cli
from t5sft.data import batches
from t5sft.train import rounds

plain, directory = batches.stream, os.environ["XDG_CACHE_HOME"]

def noting(*arguments, **options):
    with open(f"{directory}/{os.getpid()}.jsonl", "a", buffering=1) as file:
        for batch in plain(*arguments, **options):
            shape = {name: array.shape for name, array in batch.arrays.items()}
            print(json.dumps([batch.number, batch.rows, shape]), file=file)
            yield batch

os.makedirs(directory, exist_ok=True)
rounds.batches.stream = noting
sys.exit(cli.main(sys.argv[1:]))
"""


def train(folder, model_dir, *, fsdp, tensor, steps, processes=1):
    """Trains up to `steps`; returns the batches that each process learnt: number -> what it was."""
    devices = fsdp * tensor // processes
    (folder / "run.gin").write_text(
        GIN.format(cache=folder.parent / "cache", fsdp=fsdp, tensor=tensor)
    )
    port = many.free_port()
    flags = (f"--gin.STEPS={steps}", "--json")
    started = [
        many.start(
            folder,
            model_dir,
            *flags,
            devices=devices,
            script=SCRIPT,
            place=(port, processes, i) if processes > 1 else (),
        )
        for i in range(processes)
    ]
    told = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0] * processes, told
    assert json.loads(told[0][0])["step"] == steps
    sizes = {"fsdp": fsdp, "tensor": tensor}
    axes = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
    assert f"on {fsdp * tensor} cpu device{axes and f's ({axes})'}\n" in told[0][1], told[0][1]
    found = []
    for process in started:
        lines = (folder / "xdg" / f"{process.pid}.jsonl").read_text().splitlines()
        found.append({number: rest for number, *rest in map(json.loads, lines)})
    return found


def losses(directory):
    read = [x for x in metrics.read(directory) if x["split"] == "train"]
    assert [x["step"] for x in read] == list(range(1, STEPS + 1))
    return {key: [x["values"][key] for x in read] for key in ("loss", "gradient_norm", "accuracy")}


@pytest.mark.slow
def test_another_mesh_and_other_processes_learn_the_same(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    (expected,) = train(folder, whole, fsdp=1, tensor=1, steps=STEPS)
    learnt = collections.ChainMap(
        *train(folder, moved, fsdp=1, tensor=1, steps=PARTS[0]),
        *train(folder, moved, fsdp=2, tensor=2, steps=PARTS[1]),
    )
    both = train(folder, moved, fsdp=4, tensor=1, steps=STEPS, processes=2)
    assert both[0] == both[1] and min(both[0]) == PARTS[1]
    learnt = {number: learnt.get(number, both[0].get(number)) for number in range(STEPS)}
    assert learnt == {number: expected[number] for number in range(STEPS)}
    rows = [row for number in range(STEPS) for row in expected[number][0]]
    assert len({task for row in rows for task, _ in row}) > 20
    assert sum(map(len, rows)) > 1.5 * len(rows)  # packed
    here, there = losses(whole), losses(moved)
    assert here["loss"][-1] < here["loss"][0] - 0.5
    np.testing.assert_allclose(there["loss"], here["loss"], rtol=1e-5)
    np.testing.assert_allclose(there["gradient_norm"], here["gradient_norm"], rtol=1e-5)
    deviation = np.abs(np.divide(there["loss"], here["loss"]) - 1)
    print(f"largest deviation of the loss: {deviation.max():.1e}, of 50: {deviation[-1]:.1e}")
    told = (moved / "checkpoints" / str(STEPS) / "data" / "data.json").read_text()
    assert told == (whole / "checkpoints" / str(STEPS) / "data" / "data.json").read_text()
