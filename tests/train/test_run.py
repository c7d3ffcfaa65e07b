"""A run that is stopped, killed or restarted is the run that was never interrupted."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from golden import stream

from t5sft import errors
from t5sft.data import batches as batches_lib
from t5sft.data import mixture, prepare, vocab
from t5sft.models import t5
from t5sft.train import checkpoint, exchange, guard, inputs, loop, metrics, optim, run, start, state

SIZES = dict(vocab_size=292, emb_dim=16, mlp_dim=16, num_heads=2, head_dim=8)
MODEL = t5.T5(num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.1, **SIZES)
DATA = prepare.Data(
    task="toy", vocabulary="bytes", modules=("toy_task",), encoder_length=32, decoder_length=16
)
OPTIMIZER = optim.adamw(learning_rate=optim.schedule(peak=3e-3, total_steps=10, warmup_steps=2))
BLOCK = 32  # draws of the mixture in a block: ten steps see three, and all of toy_copy
LAST = 10


@functools.cache
def compiled(*arguments, batch_shapes, **options):
    return stream.build(*arguments, batch_shapes=dict(batch_shapes), **options)


def build(*arguments, batch_shapes, **options):
    """`step.build` in a hurry, and once for all runs of a kind."""
    return compiled(*arguments, batch_shapes=tuple(batch_shapes.items()), **options)


def draw(model, like, seed):
    """Random parameters without the compilation that `state.initial_params` takes."""
    del seed
    place = lambda x, leaf: jax.device_put(x, leaf.sharding)  # noqa: E731
    return jax.tree.map(place, stream.params(model), like)


@pytest.fixture(scope="module", autouse=True)
def hurry():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.step_lib, "build", build)
        patch.setattr(state, "initial_params", draw)
        patch.setattr(mixture, "BLOCK", BLOCK)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The toy mixture, prepared in this process."""
    out = dataclasses.replace(DATA, cache_dir=str(tmp_path_factory.mktemp("cache")))
    for split in inputs.SPLITS:
        prepare.prepare_split(out, "encoder_decoder", split)
    return out


def train(data, model_dir, **options):
    options = {
        "model": MODEL,
        "optimizer": OPTIMIZER,
        "steps": LAST,
        "batch_size": 4,
        "mesh": stream.mesh("2x2"),
        "log_every": 1,
        "eval_every": 5,
        "save_every": 5,
        "keep_last": 20,
        **options,
    }
    return run.train(data=data, model_dir=str(model_dir), **options)


@pytest.fixture(scope="module")
def whole(hurry, data, tmp_path_factory):
    """The directory of a run of ten steps."""
    directory = tmp_path_factory.mktemp("whole")
    assert train(data, directory)["step"] == LAST
    return directory


def lines(directory):
    """metrics.jsonl without the speed."""
    found = metrics.read(directory)
    return [x | {"values": x["values"] | {"tokens_per_second": 0.0}} for x in found]


def train_lines(directory):
    return {x["step"]: x["values"] for x in lines(directory) if x["split"] == "train"}


def saved(directory, step):
    """The arrays of a checkpoint on the host, and where its data were."""
    like = state.abstract(MODEL, OPTIMIZER, stream.mesh("1"), run.rules_lib.DEFAULT_RULES)
    checkpoints = checkpoint.Checkpointer(directory)
    try:
        got = checkpoints.restore(step, like_params=like.params, like_opt_state=like.opt_state)
    finally:
        checkpoints.close()
    return jax.device_get((got.params, got.opt_state)), got.position


def steps(directory):
    return sorted(int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdecimal())


def assert_same_end(directory, whole):
    (arrays, position), (expected, expected_position) = (saved(d, LAST) for d in (directory, whole))
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    assert position == expected_position


def test_stopped_and_restarted_is_the_same_to_the_bit(data, whole, tmp_path):
    """Dropout, packing and a mixture; beyond an epoch of toy_copy and two blocks of the stream."""
    summary = train(data, tmp_path, steps=5)
    assert summary["step"] == 5 and steps(tmp_path) == [5]
    _, position = saved(tmp_path, 5)
    assert position == saved(whole, 5)[1]
    train(data, tmp_path)
    assert lines(tmp_path) == lines(whole)
    assert [x["step"] for x in lines(whole) if x["split"] == "train"] == list(range(1, LAST + 1))
    assert_same_end(tmp_path, whole)
    assert position["block"] >= 1 < saved(whole, LAST)[1]["block"]
    values = train_lines(whole)
    assert len({x["loss"] for x in values.values()}) == LAST and 0 < values[1]["padding"] < 0.5
    assert values[LAST]["loss"] < values[1]["loss"]


def test_examples_of_an_epoch_are_seen_once_each(data, whole):
    """What the ten steps learnt, told by the positions of their checkpoints."""
    splits = prepare.Preparation(data, MODEL.layout, inputs.SPLITS).result()
    vocabulary = vocab.load(data.vocabulary)
    batches, _ = inputs.batches(splits, data, MODEL, vocabulary, batch_size=4, seed=0)
    rows, position = [], batches_lib.Position()
    for _ in range(LAST):
        more, position = batches.batch_rows(position)
        rows += more
    assert saved(whole, LAST)[1]["row"] == position.row
    seen = [number for row in rows for task, number in row if task == "toy_copy"]
    assert len(seen) > 40 and max(map(len, rows)) > 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(data, whole, tmp_path, monkeypatch, capfd, number):
    def terminating(*arguments, **options):
        program = build(*arguments, **options)

        def update(now, batch):
            now, sums = program.update(now, batch)
            if int(now.step) == 3:
                os.kill(os.getpid(), number)
            return now, sums

        return program._replace(update=update)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(run.step_lib, "build", terminating)
        assert train(data, tmp_path)["step"] == 3
    assert signal.getsignal(number) == before
    told = capfd.readouterr().err
    assert f"{number.name}: finishing the step" in told and "step 3 saved" in told
    assert steps(tmp_path) == [3]
    train(data, tmp_path)
    assert train_lines(tmp_path) == train_lines(whole)
    assert_same_end(tmp_path, whole)


def test_a_loss_that_is_not_finite_stops_the_run_unsaved(data, whole, tmp_path, monkeypatch):
    def exploding(*arguments, **options):
        program = build(*arguments, **options)

        def update(now, batch):
            now, sums = program.update(now, batch)
            if int(now.step) == 3:
                sums["loss"] = (sums["loss"][0] * math.nan, sums["loss"][1])
            return now, sums

        return program._replace(update=update)

    with monkeypatch.context() as patch:
        patch.setattr(run.step_lib, "build", exploding)
        with pytest.raises(errors.NonFiniteError, match="loss is nan; step 3") as raised:
            train(data, tmp_path, save_every=1)
    told = str(raised.value)
    assert re.search(r"batch 2: examples toy_\w+ \d+, .*the last good step is 2; look", told), told
    assert "skip_batches='((2, 3),)'" in told and raised.value.exit_code == 4
    assert steps(tmp_path) == [1, 2]
    assert not (tmp_path / "owner.json").exists()
    train(data, tmp_path, save_every=5)  # and goes on from the step before
    assert_same_end(tmp_path, whole)


def test_no_thread_outlives_a_run(data, tmp_path, monkeypatch):
    """The interpreter would kill it inside XLA on exit, and the process would end with SIGABRT."""

    def names():
        return {thread.name for thread in threading.enumerate()}

    train(data, tmp_path, steps=1, eval_every=0)
    assert "batches" not in names()
    monkeypatch.setattr(loop, "run", lambda update, now, batches, **_: next(batches) and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(data, tmp_path, steps=2, eval_every=0)
    assert "batches" not in names()


def test_figures_of_a_step_are_on_the_disk_before_its_checkpoint(data, tmp_path, monkeypatch):
    """Killed right after a save, the restarted run would otherwise lack that step's line."""
    written = {}
    save = checkpoint.Checkpointer.save

    def look(self, step, **items):
        written[step] = list(train_lines(tmp_path))
        save(self, step, **items)

    monkeypatch.setattr(checkpoint.Checkpointer, "save", look)
    train(data, tmp_path, steps=2, save_every=1, eval_every=0)
    assert written == {1: [1], 2: [1, 2]}


def test_a_finished_run_has_nothing_to_do(data, whole, capfd):
    before = lines(whole), steps(whole)
    for last in (LAST, 5):
        assert train(data, whole, steps=last)["step"] == LAST
        assert "nothing to train" in capfd.readouterr().err
        assert (lines(whole), steps(whole)) == before


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 1}, "seed"),
        ({"batch_size": 8}, "batch_size"),
        ({"pack": False}, "pack"),
        ({"data": "lines"}, "data, template"),
        ({"seed": 1, "pack": False}, "seed, pack"),
    ],
)
def test_resuming_with_other_data_is_refused_and_named(data, whole, monkeypatch, change, named):
    if "data" in change:
        data = dataclasses.replace(data, template="lines")
        for split in inputs.SPLITS:
            prepare.prepare_split(data, "encoder_decoder", split)
        change = {}
    usual = build(MODEL, run.sft.sft, OPTIMIZER, **as_compiled())
    monkeypatch.setattr(run.step_lib, "build", lambda *_, **__: usual)
    before = lines(whole), steps(whole)
    with pytest.raises(errors.ConfigError, match=rf"changed \({named}\): step 10 .*model_dir") as e:
        train(data, whole, steps=12, **change)
    assert e.value.exit_code == 2 and (lines(whole), steps(whole)) == before


def as_compiled():
    shapes = run.converters.shapes(MODEL.layout, 4, encoder_length=32, decoder_length=16)
    return {
        "batch_shapes": shapes,
        "microbatches": 1,
        "seed": 0,
        "mesh": stream.mesh("2x2"),
        "rules": run.rules_lib.DEFAULT_RULES,
        "guard": guard.DEFAULT,
    }


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"data": {"vocabulary": "/nowhere.model"}}, "nowhere.model"),
        ({"data": {"modules": ("toy_tusk",)}}, "no module 'toy_tusk'"),
        ({"model": dataclasses.replace(MODEL, vocab_size=290)}, "290 .* 291 .*use at least 291"),
        ({"batch_size": 5}, "batch_size 5 .*use 4"),
        ({"microbatches": 3}, "3 microbatches; batch_size; use 6"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(
    data, tmp_path, monkeypatch, change, expected
):
    monkeypatch.setattr(run.step_lib, "build", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    data = dataclasses.replace(data, **change.pop("data", {}))
    with pytest.raises(errors.ConfigError, match=expected) as raised:
        train(data, tmp_path, **change)
    assert raised.value.exit_code == 2


def test_init_from_begins_with_those_parameters(data, whole, tmp_path):
    train(data, tmp_path, init_from=str(whole), steps=1, eval_every=0)
    first, last = train_lines(tmp_path)[1]["loss"], train_lines(whole)[LAST]["loss"]
    assert first < train_lines(whole)[1]["loss"] - 0.5 * (train_lines(whole)[1]["loss"] - last)
    facts = json.loads((tmp_path / "checkpoints" / "1" / "run" / "run.json").read_text())
    assert facts["vocabulary"] == "bytes" and facts["template"] == "plain"


def test_begins_with_weights_of_others(data, whole, tmp_path, monkeypatch, capfd):
    """A run whose weights went through Hugging Face's files goes on as if they had not."""
    exchange.convert(source=str(whole), target=str(tmp_path / "hf"))
    train(data, tmp_path / "a", init_from=str(tmp_path / "hf"), steps=1, eval_every=0)
    assert f"parameters from {tmp_path}/hf" in capfd.readouterr().err
    train(data, tmp_path / "b", init_from=str(whole), steps=1, eval_every=0)
    assert train_lines(tmp_path / "a")[1]["loss"] == train_lines(tmp_path / "b")[1]["loss"]
    assert (tmp_path / "a" / start.KEPT / "config.json").is_file()
    monkeypatch.setattr(run.step_lib, "build", None)  # nothing is compiled before this is told
    other = dataclasses.replace(MODEL, norm_epsilon=1e-5)
    with pytest.raises(errors.CheckpointError, match="norm_epsilon is 1e-06, in the model 1e-05"):
        train(data, tmp_path / "c", init_from=str(tmp_path / "hf"), model=other)


def main(model_dir, cache_dir, kill_at):
    """What the killed process runs: step `kill_at` is made, and the process ends at once."""
    patch = pytest.MonkeyPatch()
    patch.setattr(state, "initial_params", draw)
    patch.setattr(mixture, "BLOCK", BLOCK)

    def killing(*arguments, **options):
        program = build(*arguments, **options)

        def update(now, batch):
            if int(now.step) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return program.update(now, batch)

        return program._replace(update=update)

    patch.setattr(run.step_lib, "build", killing)
    patch.setattr(subprocess, "Popen", None)  # the data are prepared
    train(dataclasses.replace(DATA, cache_dir=cache_dir), pathlib.Path(model_dir), save_every=3)
    assert "tensorflow" not in sys.modules and "seqio" not in sys.modules


@pytest.mark.slow
def test_killed_and_restarted_is_the_same_to_the_bit(data, whole, tmp_path):
    """kill -9 while step 8 is made; then on from step 6, or 3 if 6 was still being written."""
    here = pathlib.Path(__file__).parent
    for kill_at, code in ((7, -signal.SIGKILL), (None, 0)):
        line = f"import conftest, test_run; test_run.main({str(tmp_path)!r}, {data.cache_dir!r}, "
        done = subprocess.run(
            [sys.executable, "-c", f"{line}{kill_at})"],
            env=os.environ | {"PYTHONPATH": f"{here}:{here.parent}:{here.parents[1]}"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
    assert re.search("resuming at step [36]$", done.stderr, flags=re.MULTILINE), done.stderr
    assert train_lines(tmp_path) == train_lines(whole)
    assert_same_end(tmp_path, whole)
