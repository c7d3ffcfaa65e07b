"""Several processes are one run; what parts them is named, and ends in exit code 8 in time."""

import dataclasses
import json
import os
import signal
import time

import many
import numpy as np
import pytest
from test_run import DATA

from t5sft.data import prepare
from t5sft.train import events, hosts, metrics

STEPS = 6
QUICK = ("--peer_seconds", "8", "--join_seconds", "60")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """run.gin and the prepared toy task."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "run.gin").write_text(many.GIN.format(cache=folder / "cache"))
    lengths = {"encoder_length": 0, "decoder_length": 48}
    data = dataclasses.replace(DATA, cache_dir=str(folder / "cache"), **lengths)
    for split in ("train", "validation"):
        prepare.prepare_split(data, "decoder", split)
    return folder


def losses(directory):
    return [x["values"]["loss"] for x in metrics.read(directory) if x["split"] == "train"]


@pytest.fixture(scope="module")
def alone(folder):
    """The losses of one process with four devices."""
    process = many.start(folder, folder / "alone", devices=4)
    assert process.wait(300) == 0, process.stderr.read()
    return losses(folder / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_two_processes_train_as_one(folder, alone, devices, tmp_path):
    port = many.free_port()
    both = [many.start(folder, tmp_path, devices=devices, place=(port, 2, i)) for i in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert f"process 1 of 2 (given), coordinator 127.0.0.1:{port}" in told[1]
    assert len(alone) == STEPS
    np.testing.assert_allclose(losses(tmp_path), alone, rtol=1e-6)
    last = metrics.read(tmp_path)[-2]["values"]
    assert last["slowest_process"] in (0, 1)
    assert 0 < last["median_own_seconds"] <= last["slowest_own_seconds"]


@pytest.mark.slow
def test_another_configuration_is_named(folder, tmp_path):
    port = many.free_port()
    flags = ((), ("--gin.SEED=1",))
    both = [many.start(folder, tmp_path, *flags[i], place=(port, 2, i)) for i in range(2)]
    told = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [8, 8], told
    for text in told:
        assert "error[DISTRIBUTED]: hosts differ in configuration: SEED is 0 on process 0" in text
        assert ", 1 on process 1 (host" in text and "start them with the same command" in text


def begin_long_run(folder, directory, *more):
    """Two processes that have made some steps and have very many to go."""
    port = many.free_port()
    flags = ("--steps", "1000000", "--gin.LOG_EVERY=20", *QUICK, *more)
    both = [many.start(folder, directory, *flags, place=(port, 2, i)) for i in range(2)]
    many.wait_for(both[0], r"^step \d+/1000000")
    time.sleep(4)  # a beat, a quarter of peer_seconds, tells the step
    return both


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, fate, reason",
    [
        (1, signal.SIGKILL, "ended without a word: killed"),
        (0, signal.SIGKILL, "process 0 (host"),
        (1, signal.SIGSTOP, "has not been heard of for 8 s: frozen"),
        (0, signal.SIGSTOP, "has not been heard of for 8 s: frozen"),
    ],
)
def test_a_lost_peer_is_named(folder, tmp_path, victim, fate, reason):
    both = begin_long_run(folder, tmp_path, "--json")
    os.kill(both[victim].pid, fate)
    begun = time.monotonic()
    other = both[1 - victim]
    try:
        out, told = other.communicate(timeout=60)
    finally:
        both[victim].kill()
        both[victim].communicate()
    assert other.returncode == 8, told
    assert time.monotonic() - begun < (20 if fate == signal.SIGSTOP else 8)
    (line,) = [x for x in told.splitlines() if x.startswith("t5sft: error[DISTRIBUTED]")]
    assert f"process {victim} (host" in line and reason in line
    result = json.loads(out)  # though no Python code of the main thread ran any more
    assert result["exit_code"] == 8 and result["error"] == "DISTRIBUTED"
    assert line == f"t5sft: error[DISTRIBUTED]: {result['message']}"
    if victim == 1:
        assert "it was at step" in line


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_after_the_same_step_saved(folder, tmp_path):
    both = begin_long_run(folder, tmp_path, "--json")
    both[1].terminate()
    ended = [process.communicate(timeout=90) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    first, second = (json.loads(out) for out, _ in ended)
    assert first["step"] == second["step"] > 1 and not first["is_done"]
    assert (tmp_path / "checkpoints" / str(first["step"]) / "manifest.json").is_file()


@pytest.mark.slow
def test_a_missing_peer_is_named(folder, tmp_path):
    flags = ("--join_seconds", "3", "--json")
    begun = time.monotonic()
    process = many.start(folder, tmp_path, *flags, place=(many.free_port(), 3, 0))
    out, told = process.communicate(timeout=60)
    assert process.returncode == 8 and time.monotonic() - begun < 30, told
    assert "processes 1, 2 of 3 did not come within 3 s" in told
    assert json.loads(out)["exit_code"] == 8
    process = many.start(folder, tmp_path, *flags, place=(many.free_port(), 3, 2))
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 8
    assert "process 0 did not answer within 3 s ([Errno 111] Connection refused)" in told


BROKEN = """
import sys
from t5sft import cli, errors
from t5sft.train import inputs

def batches(*_, **__):
    raise errors.DataError("row 7 is no JSON; rows.jsonl; mend it")

inputs.batches = batches
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_keeps_its_code(folder, tmp_path):
    port = many.free_port()
    scripts = (None, BROKEN)
    both = [
        many.start(folder, tmp_path, place=(port, 2, i), script=scripts[i], devices=2)
        for i in range(2)
    ]
    told = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [8, 3], told
    assert "error[DATA]: row 7 is no JSON; rows.jsonl; mend it" in told[1]
    assert "process 1 (host" in told[0] and "ended: DataError: row 7 is no JSON" in told[0]


SLOW = """
import sys, time
from t5sft import cli
from t5sft.train import events

usual = events.Events.batches

def batches(self, stream):
    for number, batch in enumerate(usual(self, stream)):
        time.sleep({seconds})
        yield batch

events.Events.batches = batches
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_straggler_is_in_the_figures_of_every_period(folder, tmp_path):
    """Process 1 takes 0.4 s for a batch that costs others nothing: both steps take as long."""
    port = many.free_port()
    scripts = (SLOW.format(seconds=0), SLOW.format(seconds=0.4))
    flags = ("--steps", "30", *QUICK)  # a beat every two seconds
    both = [
        many.start(folder, tmp_path, *flags, place=(port, 2, i), script=scripts[i])
        for i in range(2)
    ]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    found = [x["values"] for x in metrics.read(tmp_path) if x["split"] == "train"][15:]
    assert {x["slowest_process"] for x in found} == {1.0}, found
    for values in found:
        assert values["slowest_own_seconds"] > 0.35 > 2 * values["median_own_seconds"], found
    each = [x["own_seconds"] for x in events.read(tmp_path) if x["event"] == "hosts"]
    assert len(each) == 30 and each[-1].keys() == {"0", "1"}
    assert each[-1]["1"] > 0.35 > 2 * each[-1]["0"]


@pytest.mark.slow
def test_a_process_that_stays_behind_is_named_and_all_end(folder, tmp_path):
    """It lives and its heart beats, but the fifth batch never comes: a disk that hangs."""
    port = many.free_port()
    scripts = (SLOW.format(seconds=0), SLOW.format(seconds="1000 if number == 4 else 0"))
    flags = ("--steps", "1000", "--stall_seconds", "15")
    begun = time.monotonic()
    both = [
        many.start(folder, tmp_path, *flags, place=(port, 2, i), script=scripts[i])
        for i in range(2)
    ]
    told = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [8, 8], told
    for text in told:
        assert "error[DISTRIBUTED]: process 1 (host" in text
        assert "stayed at step 4 for 15 s, others came to step" in text
    assert time.monotonic() - begun < 120


@pytest.mark.slow
def test_other_data_on_a_host_are_named(folder, tmp_path, monkeypatch):
    """The same path, the same configuration, another row in the file of the second host."""
    rows = [{"inputs": f"copy: {n}", "targets": str(n)} for n in range(20)]
    rows += [row | {"split": "validation"} for row in rows[:2]]
    text = (folder / "run.gin").read_text().replace(f"'{folder / 'cache'}'", "None")
    text = text.replace("TASK = 'toy'", "TASK = 'toy_file'")
    port, both = many.free_port(), []
    for i in range(2):
        host = tmp_path / f"host{i}"
        host.mkdir()
        (host / "rows.json").write_text(json.dumps([rows[0] | {"targets": f"0{i}"}, *rows[1:]]))
        (host / "run.gin").write_text(text)
        monkeypatch.chdir(host)
        monkeypatch.setenv("T5SFT_CACHE", str(host / "cache"))
        lengths = {"encoder_length": 0, "decoder_length": 48}
        data = dataclasses.replace(DATA, task="toy_file", data="rows.json", **lengths)
        for split in ("train", "validation"):
            prepare.prepare_split(data, "decoder", split)
        flags = ("--data", "rows.json")
        both.append(many.start(host, tmp_path / "run", *flags, place=(port, 2, i)))
    told = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [8, 8], told
    for text in told:
        assert "error[DISTRIBUTED]: hosts differ in data: data is " in text
        assert "on process 0 (host" in text and "start them with the same command" in text
    assert not list((tmp_path / "run").glob("checkpoints/*/manifest.json"))


class Line:
    """Stands in for the line to the other processes."""

    def __init__(self, beats):
        self.beats, self.told = beats, []

    def report(self, **figures):
        self.told.append(figures)

    def figures(self):
        return self.beats


def test_the_own_time_of_a_host_is_what_it_does_not_wait(monkeypatch):
    now = [0.0]
    line = Line({0: {"own_seconds": 0.1}, 1: {"own_seconds": 0.5}, 2: {"step": 1}})
    monkeypatch.setattr("t5sft.parallel.processes._current", line)
    times = hosts.Times(clock=lambda: now[0], worked=lambda: now[0] / 8)
    for step in (1, 2):
        now[0] += 0.05
        assert times.dispatching(lambda x: x)(step) == step
        with times.waiting():
            now[0] += 2.0  # an eighth of it was work
        times.step(step)
    assert line.told == [{"step": 1, "own_seconds": 0.3}, {"step": 2, "own_seconds": 0.3}]
    assert times.each() == {0: 0.1, 1: 0.5}
    assert times.figures() == {
        "slowest_process": 1.0,
        "slowest_own_seconds": 0.5,
        "median_own_seconds": 0.1,
    }
    now[0] += 1.0
    times.step(3)  # a new period
    assert line.told[-1] == {"step": 3, "own_seconds": 1.0}


def test_alone_nothing_is_measured_or_compared():
    times = hosts.Times()
    times.step(1)
    assert times.figures() == {} == times.each()
    hosts.agree("configuration", {"seed": 0})


def test_mfu_is_the_time_at_the_peak_over_the_time_taken():
    """Two steps in 4 s that would take 0.5 s each: 25 %."""
    now = [0.0]
    times = hosts.Times(clock=lambda: now[0])
    for step in (1, 2, 3, 4):
        now[0] += 2.0
        times.step(step)
        if step == 2:
            assert times.figures(0.5) == {}  # the first period begins before the first step
    assert times.figures(0.5) == {"mfu": 0.25}
    assert hosts.Times().figures(0.5) == {} == times.figures(None)


def test_software_tells_versions_code_and_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_something")
    found = hosts.software()
    assert found["XLA_FLAGS"] == "--xla_something" and found["jax"][0].isdigit()
    assert len(found["code of t5sft"]) == 16 and found == hosts.software()
