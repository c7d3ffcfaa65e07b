import contextlib
import io
import math
import resource
import subprocess
import sys

import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from t5sft import errors
from t5sft.train import metrics, tensorboard


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """A clock that moves only when told."""

    now = 0.0

    def __call__(self):
        return self.now


def sums(loss=2.0, weight=4.0, **others):
    pairs = {"loss": (loss * weight, weight), **others}
    return {name: (jnp.float32(a), jnp.float32(b)) for name, (a, b) in pairs.items()}


COUNTS = {"tokens": 900, "places": 1000}


def run(progress, clock, steps, seconds=0.5):
    """What every update gave back."""
    values = []
    for step in steps:
        clock.now += seconds
        values.append(progress.update(step, sums(loss=step, accuracy=(3, 4)), COUNTS))
    return values


def test_divides_and_bears_a_weight_of_zero():
    got = metrics.summarise({"loss": (6.0, 4.0), "accuracy": (jnp.zeros(()), jnp.zeros(()))})
    assert got["loss"] == 1.5 and math.isnan(got["accuracy"])


def lines(directory):
    return (directory / "metrics.jsonl").read_text().splitlines()


def test_writes_a_line_at_once(tmp_path):
    with metrics.MetricWriter(tmp_path) as writer:
        writer.write(5, "train", {"loss": jnp.float32(1.25), "accuracy": math.nan})
        assert lines(tmp_path) == [
            '{"step": 5, "split": "train", "values": {"loss": 1.25, "accuracy": null}}'
        ]
    read = metrics.read(tmp_path)[0]["values"]
    assert read["loss"] == 1.25 and math.isnan(read["accuracy"])


def test_reads_as_one_run_after_a_restart(tmp_path):
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        for step in (5, 10, 15):
            writer.write(step, "train", {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "spl')  # killed while writing
    with metrics.MetricWriter(tmp_path, resume_at=10, tensorboard=False) as writer:
        writer.write(15, "train", {"loss": 2.0})
    got = [(line["step"], line["values"]["loss"]) for line in metrics.read(tmp_path)]
    assert got == [(5, 1.0), (10, 1.0), (15, 2.0)]


def test_no_file_is_no_lines(tmp_path):
    assert metrics.read(tmp_path) == []


def test_tensorboard_shows_the_same_and_purges_the_abandoned(tmp_path):
    with metrics.MetricWriter(tmp_path, resume_at=3) as writer:
        writer.write(4, "validation", {"loss": 1.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, events = path.read_bytes(), []
    while content:  # length (8 bytes), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(content[:8], "little")
        events.append(event_pb2.Event.FromString(content[12 : 12 + size]))
        content = content[12 + size + 4 :]
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [(4, "validation/loss", 1.5)]
    start = event_pb2.SessionLog.START
    assert [e.step for e in events if e.session_log.status == start] == [4]


@contextlib.contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_storage_error(tmp_path):
    with pytest.raises(errors.StorageError, match="cannot write .*metrics.jsonl") as raised:
        with metrics.MetricWriter(tmp_path) as writer, files_of_at_most(1000):
            for step in range(1, 100):
                writer.write(step, "train", {"loss": 1.0})
    assert raised.value.exit_code == 6


def test_a_disk_that_stays_full_is_told_by_its_file(tmp_path):
    """Closing tries to write again: that error hid the first, and named no file."""
    with files_of_at_most(1000):
        with pytest.raises(errors.StorageError, match="cannot write .*metrics.jsonl"):
            with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
                for step in range(1, 100):
                    writer.write(step, "train", {"loss": 1.0})


def test_a_full_disk_under_tensorboard_is_no_hang(tmp_path):
    """tensorboardX's own writer waits for ever after ten figures more."""
    board = tensorboard.Board(tmp_path)
    with files_of_at_most(1 << 14), pytest.raises(OSError, match="File too large"):
        for step in range(2000):
            board.add(step, {"train/loss": 1.0})


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageError, match="cannot write"):
        metrics.MetricWriter(tmp_path / "file")


def test_gives_the_means_of_a_period_one_step_late():
    clock = Clock()
    progress = metrics.Progress(10, every=3, stream=io.StringIO(), clock=clock)
    values = run(progress, clock, range(1, 8))
    assert [v and v["step"] for v in values] == [None, None, None, 3, None, None, 6]
    assert values[3]["loss"] == 2.0 and values[6]["loss"] == 5.0  # means of 1 2 3 and 4 5 6
    assert values[3]["accuracy"] == 0.75
    assert values[3]["padding"] == pytest.approx(0.1)
    assert values[6]["tokens_per_second"] == pytest.approx(3 * 900 / 1.5)
    assert progress.flush() is None  # step 7 ends no period


def test_the_last_step_ends_a_period():
    clock = Clock()
    progress = metrics.Progress(5, every=3, stream=io.StringIO(), clock=clock)
    run(progress, clock, range(1, 6))
    clock.now += 0.5
    assert progress.flush() == {
        "step": 5,
        "loss": 4.5,
        "accuracy": 0.75,
        "tokens_per_second": pytest.approx(1800 / 1.0),
        "padding": pytest.approx(0.1),
    }
    assert progress.flush() is None


def test_one_plain_line_a_period():
    clock, stream = Clock(), io.StringIO()
    progress = metrics.Progress(1500, start=100, every=100, stream=stream, clock=clock)
    run(progress, clock, range(101, 202), seconds=0.05)
    progress.note(200, "validation", {"loss": 1.5, "accuracy": 0.5, "nll": 1.5})
    assert stream.getvalue() == (
        "step 200/1500  loss 150.5  accuracy 0.75  17.8k tokens/s  padding 10.0 %  eta 1:06\n"
        "step 200/1500  validation  loss 1.5  accuracy 0.5\n"
    )


def test_a_long_period_shows_a_line_in_between():
    clock, stream = Clock(), io.StringIO()
    progress = metrics.Progress(1000, every=500, stream=stream, clock=clock)
    values = run(progress, clock, range(1, 8), seconds=10.0)
    assert values == [None] * 7
    shown = [line.split("  ")[0] for line in stream.getvalue().splitlines()]
    assert shown == ["step 2/1000", "step 5/1000"]


def test_a_bar_on_a_terminal():
    clock, stream = Clock(), Terminal()
    with metrics.Progress(10, every=2, stream=stream, clock=clock) as progress:
        run(progress, clock, range(1, 6))
        progress.note(4, "validation", {"loss": 1.5})
    assert "4/10 |" in stream.getvalue() and "loss 3.500  accuracy 0.75" in stream.getvalue()
    assert "step 4/10  validation  loss 1.5\n" in stream.getvalue()


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_names_the_step_that_is_not_finite(name):
    progress = metrics.Progress(10, every=5, stream=io.StringIO())
    progress.update(1, sums(), COUNTS)
    progress.update(2, sums() | {name: (jnp.float32(jnp.nan), jnp.float32(1))}, COUNTS)
    with pytest.raises(errors.NonFiniteError, match=f"{name} is nan; step 2"):
        progress.update(3, sums(), COUNTS)


def test_an_empty_batch_is_finite():
    progress = metrics.Progress(1, stream=io.StringIO())
    progress.update(1, sums(weight=0.0), {"tokens": 0, "places": 0})
    values = progress.flush()
    assert math.isnan(values.pop("loss")) and values == {"step": 1}


def test_imports_no_tensorflow(tmp_path):
    program = (
        "import sys; from t5sft.train import metrics; "
        f"metrics.MetricWriter({str(tmp_path)!r}).close(); print('tensorflow' in sys.modules)"
    )
    got = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert got.stdout == "False\n", got.stderr
