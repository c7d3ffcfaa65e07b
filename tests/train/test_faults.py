"""What the world does to a run, and that nothing is lost: bad batches, damage, full disks."""

import dataclasses
import functools
import json
import math
import re
import resource
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from test_run import (  # noqa: F401  fixtures
    LAST,
    MODEL,
    as_compiled,
    assert_same_end,
    build,
    data,
    hurry,
    lines,
    run,
    saved,
    steps,
    train,
    train_lines,
    whole,
)

from t5sft import errors
from t5sft.data import batches as batches_lib
from t5sft.data import prepare, vocab
from t5sft.objectives import sft
from t5sft.train import checkpoint, events, goodput, guard, inputs, places, stopping

BAD = 3  # the batch that `poisoned` spoils


def batch_rows(data, number):  # noqa: F811
    splits = prepare.Preparation(data, MODEL.layout, inputs.SPLITS).result()
    loaded = vocab.load(data.vocabulary)
    training, _ = inputs.batches(splits, data, MODEL, loaded, batch_size=4, seed=0)
    position = batches_lib.Position()
    for _ in range(number + 1):
        rows, position = training.batch_rows(position)
    return training.convert(rows)


def row_numbers(tokens):
    """[B, T] -> [B], a number for each row."""
    return (tokens * (1 + jnp.arange(tokens.shape[1]))[None]).sum(axis=1)


@functools.cache
def poison(total):
    """SFT, but NaN for the batch with a row of this number: rows may be apart on a mesh."""

    def objective(model, params, batch, key):
        terms = sft.sft(model, params, batch, key)
        is_bad = (row_numbers(batch["decoder_target_tokens"]) == total).any()
        return terms._replace(loss=terms.loss * jnp.where(is_bad, jnp.nan, 1.0))

    return objective


@pytest.fixture(scope="module")
def poisoned(data):  # noqa: F811
    numbers = [row_numbers(batch_rows(data, n)["decoder_target_tokens"]) for n in range(LAST + 1)]
    (only,) = [n for n in numbers[BAD].tolist() if sum((x == n).sum() for x in numbers) == 1][:1]
    return poison(only)


def position(directory, step):
    return json.loads((directory / f"checkpoints/{step}/data/data.json").read_text())


@pytest.mark.slow
def test_a_bad_batch_is_skipped_and_a_restart_knows_it(data, poisoned, tmp_path, capfd):  # noqa: F811
    options = {"objective": poisoned, "guard": guard.Guard(action="skip"), "save_every": 2}
    train(data, tmp_path / "whole", **options)
    told = capfd.readouterr().err
    assert re.search(r"loss is nan, gradient_norm is nan; step 4: batch 3 left no trace", told)
    assert position(tmp_path / "whole", LAST)["unlearnt"] == [BAD]
    values = train_lines(tmp_path / "whole")
    assert math.isnan(values[4].get("loss", math.nan)) and values[4]["skipped"] == 1
    train(data, tmp_path / "cut", steps=4, **options)
    train(data, tmp_path / "cut", **options)
    assert_same_end(tmp_path / "cut", tmp_path / "whole")
    assert position(tmp_path / "cut", LAST)["batch"] == LAST


@pytest.mark.slow
def test_rewinding_is_the_run_without_that_batch(data, poisoned, tmp_path, capfd):  # noqa: F811
    """Back to step 2, on with the batches but the bad one; a restart leaves it out, too."""
    options = {"objective": poisoned, "save_every": 2}
    train(data, tmp_path / "without", skip_batches=((BAD, BAD + 1),), **options)
    back = options | {"guard": guard.Guard(action="rewind")}
    train(data, tmp_path / "back", **back)
    told = capfd.readouterr().err
    assert "going back; batches 3 to 3 are left out" in told and "resuming at step 2" in told
    assert_same_end(tmp_path / "back", tmp_path / "without")
    assert train_lines(tmp_path / "back") == train_lines(tmp_path / "without")
    where = position(tmp_path / "back", LAST)
    assert where["skips"] == [[BAD, BAD + 1]] and where["batch"] == LAST + 1
    train(data, tmp_path / "cut", steps=6, **back)
    train(data, tmp_path / "cut", **back)  # `skips` come from the checkpoint
    assert_same_end(tmp_path / "cut", tmp_path / "without")
    lost = goodput.add_up(events.read(tmp_path / "back"))
    assert lost["step"] == LAST and lost["attempts"] == 1


def test_batches_left_out_by_hand_take_a_run_back_before_them(data, whole, tmp_path):  # noqa: F811
    """PaLM's remedy: from step 5 once more, without batches 6 and 7."""
    shutil.copytree(whole, tmp_path / "run")
    train(data, tmp_path / "run", skip_batches=((6, 8),))
    train(data, tmp_path / "fresh", skip_batches=((6, 8),))
    assert_same_end(tmp_path / "run", tmp_path / "fresh")
    before = lines(tmp_path / "run")
    train(data, tmp_path / "run", skip_batches=((6, 8),))  # done: it does not go back again
    assert lines(tmp_path / "run") == before
    with pytest.raises(errors.ConfigError, match="every checkpoint has learnt batches of"):
        train(data, tmp_path / "run", skip_batches=((1, 2),))


def damage(directory, step):
    victim = max((directory / f"checkpoints/{step}").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    return victim.name


def test_a_damaged_step_is_refused_or_passed_over_when_asked(data, whole, tmp_path, capfd):  # noqa: F811
    shutil.copytree(whole, tmp_path / "run")
    name = damage(tmp_path / "run", LAST)
    with pytest.raises(errors.CheckpointError, match=name) as raised:
        train(data, tmp_path / "run")
    assert raised.value.exit_code == 5
    train(data, tmp_path / "run", on_damage="fallback")
    assert "going back to the step before" in (told := capfd.readouterr().err)
    assert "resuming at step 5" in told
    assert_same_end(tmp_path / "run", whole)  # the damaged one was replaced
    assert train_lines(tmp_path / "run") == train_lines(whole)


def test_changed_settings_are_shown_and_win(data, tmp_path, capfd):  # noqa: F811
    train(data, tmp_path, steps=2, eval_every=0, config="adamw.b1 = 0.9\nSTEPS = 2\n")
    capfd.readouterr()
    train(data, tmp_path, steps=3, eval_every=0, config="adamw.b1 = 0.8\nSTEPS = 3\n")
    told = capfd.readouterr().err
    assert "resuming at step 2\n  - adamw.b1 = 0.9\n  - STEPS = 2\n  + adamw.b1 = 0.8\n" in told
    assert (tmp_path / "config.gin").read_text().startswith("adamw.b1 = 0.8")


@pytest.mark.slow
def test_other_data_are_allowed_when_asked(data, whole, tmp_path, capfd):  # noqa: F811
    shutil.copytree(whole, tmp_path / "run")
    train(data, tmp_path / "run", steps=12, seed=1, allow_changes=True, eval_every=0)
    assert "(seed): step 10 was trained with [0], now [1]: allowed" in capfd.readouterr().err
    assert position(tmp_path / "run", 12)["seed"] == 1


@pytest.mark.slow
def test_another_batch_size_goes_on_with_the_next_row(data, tmp_path, capfd):  # noqa: F811
    """Four batches of 4, then of 8: no row twice, none left out but those of `skip_batches`."""
    train(data, tmp_path, steps=4, skip_batches=((6, 8),), eval_every=0)
    options = {"batch_size": 8, "allow_changes": True, "eval_every": 0, "save_every": 1}
    train(data, tmp_path, steps=6, **options)
    assert "(batch_size): step 4 was trained with [4], now [8]: allowed" in capfd.readouterr().err
    at = position(tmp_path, 6)
    assert at["batch"] == 5 and at["skips"] == [[3, 4]]  # 2, (3: rows 24 to 32,) 4
    splits = prepare.Preparation(data, MODEL.layout, inputs.SPLITS).result()
    loaded = vocab.load(data.vocabulary)
    training, _ = inputs.batches(splits, data, MODEL, loaded, batch_size=8, seed=0)
    assert batches_lib.Position(at["block"], at["row"]) == training.position(5)
    with pytest.raises(errors.ConfigError, match="train 1 more with batch_size 8 before"):
        train(data, tmp_path, steps=8, **options | {"batch_size": 16})


@pytest.mark.slow
def test_going_back_to_a_checkpoint_of_other_data(data, poisoned, tmp_path, capfd):  # noqa: F811
    """Batch 3 of the other data is bad; the checkpoint of the old ones has learnt its own 3."""
    options = {"save_every": 4, "eval_every": 0}
    train(data, tmp_path, steps=4, seed=1, **options)
    back = {"objective": poisoned, "guard": guard.Guard(action="rewind"), "allow_changes": True}
    train(data, tmp_path, steps=8, **options, **back)
    assert "batches 3 to 3 are left out" in capfd.readouterr().err
    at = position(tmp_path, 8)
    assert at["batch"] == 5 and at["skips"] == [[BAD, BAD + 1]] and at["seed"] == 0


def test_a_bucket_is_refused_before_any_work(data, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.mesh_lib, "resolve", None)
    with pytest.raises(errors.ConfigError, match="model_dir is a bucket.*gs://b/run; use a dir"):
        run.train(model=MODEL, data=data, optimizer=run_optimizer(), model_dir="gs://b/run",
                  steps=1, batch_size=4)  # fmt: skip
    with pytest.raises(errors.ConfigError, match="model_dir is a bucket"):
        places.local("s3://b/run")
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_stops_at_once(monkeypatch, capfd):
    killed = []
    monkeypatch.setattr(stopping.os, "kill", lambda *arguments: killed.append(arguments[1]))
    monkeypatch.setattr(stopping.signal, "signal", lambda *_: None)
    stop = stopping.Stop()
    stop.handle(signal.SIGTERM, None)
    assert stop(1) and stop.is_asked() and not killed
    stop.handle(signal.SIGTERM, None)
    assert killed == [signal.SIGTERM]


def test_a_signal_while_it_evaluates_gives_the_evaluation_up(data, tmp_path, monkeypatch):  # noqa: F811
    """The bound of stopping is a step and a save, however long an evaluation takes."""
    usual = build(MODEL, sft.sft, run_optimizer(), **as_compiled())
    measured = []

    def evaluate(params, arrays):
        measured.append(1)
        signal.raise_signal(signal.SIGTERM)
        return usual.evaluate(params, arrays)

    monkeypatch.setattr(run.step_lib, "build", lambda *_, **__: usual._replace(evaluate=evaluate))
    summary = train(data, tmp_path, eval_every=3)
    assert summary["step"] == 3 and steps(tmp_path) == [3] and len(measured) == 1
    assert summary["validation"] == {} and not [x for x in lines(tmp_path) if x["split"] != "train"]


def test_a_signal_holds_when_the_run_goes_back(data, tmp_path, monkeypatch, capfd):  # noqa: F811
    """Asked to stop in step 5, it finds step 4 bad: back to 3, one step more, saved, ended."""
    usual = build(MODEL, sft.sft, run_optimizer(), **as_compiled())
    made = []

    def update(now, batch):
        now, sums = usual.update(now, batch)
        made.append(int(now.step))
        if len(made) == 4:
            sums["loss"] = (sums["loss"][0] * math.nan, sums["loss"][1])
        if len(made) == 5:
            signal.raise_signal(signal.SIGTERM)
        return now, sums

    monkeypatch.setattr(run.step_lib, "build", lambda *_, **__: usual._replace(update=update))
    summary = train(data, tmp_path, save_every=3, guard=guard.Guard(action="rewind"))
    assert "going back; batches 3 to 3 are left out" in capfd.readouterr().err
    assert made == [1, 2, 3, 4, 5, 4] and summary["step"] == 4 and steps(tmp_path) == [3, 4]


def test_a_signal_while_it_goes_back_loses_nothing(data, tmp_path, monkeypatch):  # noqa: F811
    """It comes while the checkpoint of step 3 is read: one step more, saved, ended."""
    usual = build(MODEL, sft.sft, run_optimizer(), **as_compiled())
    made, restore = [], checkpoint.Checkpointer.restore

    def update(now, batch):
        now, sums = usual.update(now, batch)
        made.append(int(now.step))
        if made == [1, 2, 3, 4]:
            sums["loss"] = (sums["loss"][0] * math.nan, sums["loss"][1])
        return now, sums

    def interrupted(*arguments, **options):
        got = restore(*arguments, **options)
        signal.raise_signal(signal.SIGTERM)
        return got

    monkeypatch.setattr(run.step_lib, "build", lambda *_, **__: usual._replace(update=update))
    monkeypatch.setattr(checkpoint.Checkpointer, "restore", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    summary = train(data, tmp_path, save_every=3, guard=guard.Guard(action="rewind"))
    assert made[-1] == 4 and summary["step"] == 4 and steps(tmp_path) == [3, 4]
    assert not summary["is_done"] and signal.getsignal(signal.SIGTERM) == before


def test_the_means_of_a_period_go_on_over_a_restart(data, tmp_path, monkeypatch):  # noqa: F811
    """Stopped after step 3 of a period of 4: the line of step 4 is that of all four steps."""
    usual = build(MODEL, sft.sft, run_optimizer(), **as_compiled())

    def update(now, batch):
        now, sums = usual.update(now, batch)
        if int(now.step) == 3:
            signal.raise_signal(signal.SIGTERM)
        return now, sums

    options = {"steps": 6, "log_every": 4, "eval_every": 0}
    with monkeypatch.context() as patch:
        patch.setattr(run.step_lib, "build", lambda *_, **__: usual._replace(update=update))
        assert train(data, tmp_path / "cut", **options)["step"] == 3
    train(data, tmp_path / "cut", **options)
    train(data, tmp_path / "whole", **options)
    assert list(train_lines(tmp_path / "whole")) == [4, 6]
    assert train_lines(tmp_path / "cut") == train_lines(tmp_path / "whole")


def run_optimizer():
    from test_run import OPTIMIZER

    return OPTIMIZER


def test_a_file_that_may_not_grow_leaves_the_last_good_step(data, whole, tmp_path):  # noqa: F811
    """RLIMIT_FSIZE stands for a quota; the write in the background fails, and that is noticed."""
    shutil.copytree(whole, tmp_path / "run")
    made = checkpoint.Checkpointer(tmp_path / "run", keep_last=9)
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((512, 1024), np.float32))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))
        with pytest.raises(errors.StorageError, match="step 12 could not be written") as raised:
            made.save(12, params=params, opt_state={}, position={}, run={})
            made.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        made.close()
    assert raised.value.exit_code == 6
    assert steps(tmp_path / "run") == [5, LAST]
    checkpoint.Checkpointer(tmp_path / "run").close()
    left = [p.name for p in (tmp_path / "run/checkpoints").iterdir()]
    assert sorted(left) in (["10", "5"], ["10", "5", "best.json"])  # no litter
    saved(tmp_path / "run", LAST)


def test_events_of_a_run_and_its_restart(data, tmp_path):  # noqa: F811
    train(data, tmp_path, steps=4, save_every=2)
    train(data, tmp_path, steps=6, save_every=2)
    found = events.read(tmp_path)
    kinds = [x["event"] for x in found]
    assert kinds[0] == "start" and kinds.count("stop") == 2 and kinds.count("compile") == 2
    assert [x["step"] for x in found if x["event"] == "restart"] == [4]
    assert {"step", "save", "evaluate"} <= set(kinds)
    told = goodput.add_up(found)
    assert told["step"] == 6 and told["lost_steps"] == 0 and 0 < told["goodput"] < 1


def test_an_evaluation_is_the_same_to_the_bit_and_knows_no_dropout(data, whole):  # noqa: F811
    """Bug class 24; and the sums are all that an evaluation keeps (class 22)."""
    assert MODEL.dropout_rate > 0
    found = {x["step"]: x["values"] for x in lines(whole) if x["split"] == "validation"}
    program = build(MODEL, sft.sft, run_optimizer(), **as_compiled())
    (params, _), _ = saved(whole, LAST)
    splits = prepare.Preparation(data, MODEL.layout, inputs.SPLITS).result()
    loaded = vocab.load(data.vocabulary)
    _, held_out = inputs.batches(splits, data, MODEL, loaded, batch_size=4, seed=0)
    calm = build(
        dataclasses.replace(MODEL, dropout_rate=0.0), sft.sft, run_optimizer(), **as_compiled()
    )
    passes = []
    for evaluate in (program.evaluate, program.evaluate, calm.evaluate):
        total = np.zeros(2)
        for rows in held_out.once():
            arrays = batches_lib.place(held_out, rows, program.shardings)
            total += [float(x) for x in evaluate(params, arrays)["loss"]]
        passes.append(total.tolist())
    assert passes[0] == passes[1] == passes[2]
    assert total[0] / total[1] == pytest.approx(found[LAST]["loss"], rel=1e-7)
