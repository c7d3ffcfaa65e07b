"""Where the time of a run went, added up by hand and from a file."""

import json

import pytest

from t5sft import errors
from t5sft.train import events, goodput


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def line(t, attempt, event, **values):
    return {"t": t, "attempt": attempt, "event": event, **values}


def test_a_killed_run_and_the_one_that_goes_on():
    """Steps 1 to 14 of a second each, saved at 10; killed; from 10 to 20."""
    got = goodput.add_up(
        [
            line(102.0, "a", "start", age=2.0),
            line(106.0, "a", "compile", seconds=4.0),
            line(116.0, "a", "step", first=1, last=10, seconds=9.0, waited=1.0),
            line(117.0, "a", "save", step=10, seconds=1.0),
            line(121.0, "a", "step", first=11, last=14, seconds=4.0, waited=0.0),
            line(151.0, "b", "start", age=1.0),
            line(153.0, "b", "restart", step=10, seconds=2.0),
            line(163.0, "b", "step", first=11, last=20, seconds=10.0, waited=0.0),
            line(165.0, "b", "evaluate", step=20, seconds=2.0),
        ]
    )
    kinds = got["kinds"]
    assert kinds["step"] == 19.0 and kinds["lost"] == 4.0 and got["lost_steps"] == 4
    assert kinds["down"] == 29.0 and kinds["wait"] == 1.0 and kinds["compile"] == 4.0
    assert kinds["save"] == 1.0 and kinds["restart"] == 2.0 and kinds["evaluate"] == 2.0
    assert got["seconds"] == 65.0 and sum(kinds.values()) == pytest.approx(65.0)
    assert got["goodput"] == pytest.approx(19 / 65)
    assert (got["step"], got["attempts"]) == (20, 2)


def test_a_restart_in_the_middle_of_a_period_loses_its_share():
    got = goodput.add_up(
        [
            line(0.0, "a", "start"),
            line(10.0, "a", "step", first=1, last=10, seconds=10.0, waited=0.0),
            line(10.0, "a", "restart", step=4, seconds=0.0),
        ]
    )
    assert got["kinds"]["step"] == 4.0 and got["kinds"]["lost"] == 6.0 and got["lost_steps"] == 6


def test_steps_before_the_first_save_are_lost_with_the_process():
    """The run that begins again from nothing tells no restart."""
    got = goodput.add_up(
        [
            line(0.0, "a", "start"),
            line(10.0, "a", "step", first=1, last=10, seconds=10.0, waited=0.0),
            line(20.0, "b", "start"),
            line(25.0, "b", "step", first=1, last=5, seconds=5.0, waited=0.0),
            line(28.0, "b", "step", first=6, last=8, seconds=3.0, waited=0.0),
        ]
    )
    assert got["kinds"]["lost"] == 10.0 and got["lost_steps"] == 10 and got["step"] == 8
    assert got["kinds"]["step"] == 8.0 and got["goodput"] == pytest.approx(8 / 28)


def test_what_is_written_is_read(tmp_path):
    clock = Clock()
    with events.Events(tmp_path, clock) as log:
        with log.span("compile"):
            clock.now += 5.0
        for step in range(1, 9):
            clock.now += 1.0
            log.step(step)
        with log.span("save", step=8):
            clock.now += 2.0
        clock.now += 60.0
        log.step(9)
    with open(tmp_path / events.NAME, "a") as file:
        file.write('{"t": 12')  # killed while it wrote
    found = events.read(tmp_path)
    assert [x["event"] for x in found] == [
        "start", "compile", "step", "save", "stall", "step", "stop",
    ]  # fmt: skip
    got = goodput.add_up(found)
    assert got["kinds"]["step"] == pytest.approx(9.0) and got["stalls"] == 1
    assert got["kinds"]["compile"] == 5.0 and got["kinds"]["save"] == 2.0
    assert got["kinds"]["stall"] == pytest.approx(59.0) and got["step"] == 9


def test_time_spent_waiting_for_data(tmp_path):
    clock = Clock()

    def slow():
        for number in range(3):
            clock.now += 2.0
            yield number

    with events.Events(tmp_path, clock) as log:
        for number in log.batches(slow()):
            clock.now += 1.0
            log.step(number + 1)
    got = goodput.add_up(events.read(tmp_path))
    assert got["kinds"]["wait"] == 6.0 and got["kinds"]["step"] == 3.0


def test_the_verb_prints_and_returns_it(tmp_path, capsys):
    with pytest.raises(errors.ConfigError, match="no events.jsonl"):
        goodput.goodput(str(tmp_path))
    rows = [line(0.0, "a", "start"), line(4.0, "a", "step", first=1, last=2, seconds=3, waited=0)]
    (tmp_path / events.NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = goodput.goodput(str(tmp_path))
    assert got["goodput"] == 0.75
    assert "goodput 75.0%; step 2, 1 starts, 0 steps lost" in capsys.readouterr().out


def test_a_run_after_one_that_was_cut_short_begins_a_line(tmp_path):
    """Its start was appended to the torn line, and lost with it."""
    events.Events(tmp_path)
    with (tmp_path / events.NAME).open("a") as file:
        file.write('{"t": 1.0, "att')
    events.Events(tmp_path)
    assert [x["event"] for x in events.read(tmp_path)] == ["start", "start"]
    assert "" not in (tmp_path / events.NAME).read_text().splitlines()


def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch, capfd):
    """What came before and after it stays readable, also where a line was cut short."""
    log = events.Events(tmp_path)
    plain = open

    def full(path, *arguments, **options):
        with plain(path, "a") as file:
            file.write('{"t": 1.0, "att')  # as far as there was room
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(events, "open", full, raising=False)
        log.write("save", step=1, seconds=1.0)
        log.write("save", step=2, seconds=1.0)
    log.write("save", step=3, seconds=1.0)
    told = capfd.readouterr().err
    assert told.count("cannot write") == 1 and "No space left on device" in told
    found = events.read(tmp_path)
    assert [x["event"] for x in found] == ["start", "lost", "save"]
    assert found[1]["lines"] == 2 and found[2]["step"] == 3
    assert goodput.add_up(found)["kinds"]["save"] == 1.0
