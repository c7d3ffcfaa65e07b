"""A file system that is really full or really read-only: exit 6, and the last good step stays."""

import logging
import os
import subprocess
import time

import pytest
from test_run import (  # noqa: F401  fixtures
    LAST,
    assert_same_end,
    build,
    data,
    hurry,
    run,
    steps,
    train,
    train_lines,
    whole,
)

from t5sft import errors
from t5sft.train import events, stored


def mount(*words):
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount: {error}")
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MiB, where the user may mount one (root)."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(disk, left, after):
    """Leaves so many bytes, once the save that is on its way is at `after`."""
    while not after.exists():
        time.sleep(0.01)
    found = os.statvfs(disk)
    with (disk / "fill").open("wb", buffering=0) as file:
        file.write(bytes(max(found.f_bavail * found.f_frsize - left, 0)))


def at_step(monkeypatch, step, action):
    """Acts when this step has been made, before it is logged and saved."""

    def acting(*arguments, **options):
        program = build(*arguments, **options)

        def update(now, batch):
            now, sums = program.update(now, batch)
            if int(now.step) == step:
                action()
            return now, sums

        return program._replace(update=update)

    monkeypatch.setattr(run.step_lib, "build", acting)


def state_bytes(monkeypatch):
    """What a save asks for, as `_check_space` counts it."""
    asked = []
    plain = run.checkpoint.Checkpointer._check_space

    def noting(self, step, needed):
        asked.append(needed)
        plain(self, step, needed)

    monkeypatch.setattr(run.checkpoint.Checkpointer, "_check_space", noting)
    return asked


# TensorStore's, of arrays that Orbax gave up; `stored` keeps them from a user, pytest asks first.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "left, save_every, good",
    [
        ("nothing", 2, [2, 4]),  # told before anything is written
        ("metadata", 2, [2, 4]),  # found by the writer in the background
        ("metadata", 8, [8]),  # that of the last step, which is waited for
    ],
)
def test_a_full_disk(data, whole, disk, monkeypatch, left, save_every, good):  # noqa: F811
    model_dir = disk / "run"
    asked = state_bytes(monkeypatch)
    last = model_dir / "checkpoints" / str(good[-1])
    # Arrays fit, the twenty files around them do not.
    room = {"nothing": lambda: 0, "metadata": lambda: asked[0] + (16 << 10)}[left]
    with monkeypatch.context() as patch:
        at_step(patch, good[-1] + 1, lambda: fill(disk, room(), after=last))
        with pytest.raises(errors.StorageError) as raised:
            train(data, model_dir, save_every=save_every, eval_every=0)
    assert raised.value.exit_code == 6
    if left == "metadata":
        failed = 6 if save_every == 2 else LAST
        assert f"step {failed} could not be written" in str(raised.value)
    assert steps(model_dir) == good
    (disk / "fill").unlink()
    train(data, model_dir, save_every=save_every, eval_every=0)
    assert_same_end(model_dir, whole)
    assert {s: x["loss"] for s, x in train_lines(model_dir).items()} == {
        s: x["loss"] for s, x in train_lines(whole).items()
    }
    names = {path.name for path in (model_dir / "checkpoints").iterdir()}
    assert all(name.isdecimal() or name == "best.json" for name in names)  # no litter
    assert [x["why"] for x in events.read(model_dir) if x["event"] == "stop"][-1] == "done"


def test_only_what_repeats_a_save_s_error_is_hidden():
    def record(text, error=None):
        info = (type(error), error, error.__traceback__) if error else None
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, text, None, info)

    def raised(file):
        try:
            exec(compile("raise ValueError('x')", file, "exec"))
        except ValueError as error:
            return error

    unretrieved = "_GatheringFuture exception was never retrieved"
    assert stored._is_repeated(record(unretrieved, raised("site-packages/orbax/save.py")))
    assert not stored._is_repeated(record(unretrieved, raised("of_a_user.py")))
    assert not stored._is_repeated(record(unretrieved))
    assert stored._is_repeated(record("_SignalingThread.run() raised an exception: x"))
    assert not stored._is_repeated(record("disk is slow"))


def test_a_folder_that_becomes_read_only(data, disk, monkeypatch):  # noqa: F811
    model_dir = disk / "run"
    checkpoints = str(model_dir / "checkpoints")

    def protect():
        while not (model_dir / "checkpoints/4").exists():
            time.sleep(0.01)
        mount("--bind", checkpoints, checkpoints)
        mount("-o", "remount,bind,ro", checkpoints)

    with monkeypatch.context() as patch:
        at_step(patch, 5, protect)
        with pytest.raises(errors.StorageError, match="Read-only file system") as raised:
            train(data, model_dir, save_every=2, eval_every=0)
    assert raised.value.exit_code == 6
    told = str(raised.value)  # the deletion of old steps, or the next save meets it
    assert "step 4 is saved, but" in told or "step 6 could not be written" in told
    assert steps(model_dir) == [2, 4]
    monkeypatch.setattr(run.step_lib, "build", None)  # the next start is told before it compiles
    mount("-o", "remount,ro", str(disk))
    with pytest.raises(errors.StorageError, match="cannot write .*Read-only file system"):
        train(data, model_dir)
    subprocess.run(["umount", checkpoints], check=True)
