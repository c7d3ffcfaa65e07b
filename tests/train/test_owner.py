import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from t5sft import errors
from t5sft.train import owner

HOLD = """
import sys
import threading
from t5sft.train import owner
with owner.own(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def take(directory):
    with owner.own(directory):
        return json.loads((directory / "owner.json").read_text())


def test_writes_who_holds_it_and_leaves_nothing(tmp_path):
    record = take(tmp_path / "new/model")
    assert record["host"] == socket.gethostname() and record["pid"] == os.getpid()
    assert list((tmp_path / "new/model").iterdir()) == []


def test_a_second_live_owner_is_refused(tmp_path, holder):
    record = json.loads((tmp_path / "owner.json").read_text())
    expected = f"host {socket.gethostname()}, process {holder.pid}, since {record['since']}"
    with pytest.raises(errors.OwnerError) as caught:
        take(tmp_path)
    assert expected in str(caught.value) and caught.value.exit_code == 7
    holder.communicate("\n")
    assert take(tmp_path)["pid"] == os.getpid()


def test_a_killed_owner_is_replaced(tmp_path, holder, caplog):
    holder.kill()
    holder.wait()
    assert take(tmp_path)["pid"] == os.getpid()
    assert f"from process {holder.pid}" in caplog.text


def test_a_process_number_used_again_is_not_the_owner(tmp_path):
    record = take(tmp_path)
    if record["start_ticks"] is None:
        pytest.skip("no /proc")
    record["start_ticks"] -= 1
    (tmp_path / "owner.json").write_text(json.dumps(record))
    assert take(tmp_path)["pid"] == os.getpid()


def test_an_owner_on_another_host_counts_as_alive(tmp_path):
    record = take(tmp_path) | {"host": "elsewhere", "pid": 2**22 + 1}
    (tmp_path / "owner.json").write_text(json.dumps(record))
    with pytest.raises(errors.OwnerError, match="host elsewhere.*delete .*owner.json"):
        take(tmp_path)


def test_a_file_that_cannot_be_read_is_no_owner(tmp_path):
    (tmp_path / "owner.json").write_text('{"host": "a')
    assert take(tmp_path)["pid"] == os.getpid()


def test_leaves_the_record_of_a_successor(tmp_path):
    with owner.own(tmp_path):
        (tmp_path / "owner.json").write_text('{"host": "b"}')
    assert (tmp_path / "owner.json").exists()


def test_other_processes_of_a_distributed_run_take_nothing(tmp_path, monkeypatch):
    with owner.own(tmp_path):
        monkeypatch.setattr("jax.process_index", lambda: 1)
        with owner.own(tmp_path):
            pass
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()


def test_of_many_at_once_one_takes_over_from_a_dead_owner(tmp_path):
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "start_ticks": 5, "since": "noon"}
    (tmp_path / "owner.json").write_text(json.dumps(dead))
    barrier, took = threading.Barrier(8), []

    def attempt():
        barrier.wait()
        try:
            with owner.own(tmp_path):
                took.append(True)
                barrier.wait()  # all have tried before one lets go
        except errors.OwnerError:
            took.append(False)
            barrier.wait()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(took) == [False] * 7 + [True]


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageError, match="cannot write"):
        take(tmp_path / "file")
