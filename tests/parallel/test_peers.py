"""Processes, here threads, meet, compare, and lose each other; every loss has a name."""

import concurrent.futures
import gc
import socket
import threading
import time

import pytest

from t5sft import errors
from t5sft.parallel import meeting, peers

QUICK = {"peer_seconds": 0.4, "stall_seconds": 30.0}


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()


def each(num, work):
    """The results of work(process) of all processes, run side by side; errors are results."""
    with concurrent.futures.ThreadPoolExecutor(num) as pool:
        futures = [pool.submit(work, i) for i in range(num)]
        return [f.exception(timeout=20) or f.result() for f in futures]


class Run:
    """The lines of `num` processes, and what was told when one was lost."""

    def __init__(self, num, **limits):
        address = free_address()
        self.told = {}
        self.is_told = threading.Semaphore(0)

        def line(i):
            links, names = meeting.meet(address, num, i, 5.0)
            self.links[i] = links
            return peers.Peers(i, links, names, **QUICK | limits, end=lambda e: self.end(i, e))

        self.links = {}
        self.lines = each(num, line)

    def end(self, process, error):
        self.told[process] = str(error)
        self.is_told.release()

    def wait(self, num):
        for _ in range(num):
            assert self.is_told.acquire(timeout=10)
        return self.told


def test_all_meet_in_any_order_and_part():
    run = Run(4)
    assert all(line.names == run.lines[0].names for line in run.lines)
    assert run.lines[2].names[3].startswith("process 3 (host ")
    for i, line in enumerate(run.lines):
        line.report(step=7, own_seconds=i)
    time.sleep(0.4)
    heard = run.lines[0].figures()
    assert heard == {i: {"step": 7, "own_seconds": i} for i in range(4)}
    assert each(4, lambda i: run.lines[i].close()) == [None] * 4
    time.sleep(0.6)  # longer than a peer may be silent
    assert run.told == {}


def test_who_does_not_come_is_named_to_all_who_came():
    address = free_address()
    ways = {0: 0, 1: 2}  # of processes 0, 1, 2, 3
    got = each(2, lambda n: meeting.meet(address, 4, ways[n], 1.0))
    for error in got:
        assert isinstance(error, errors.DistributedError) and error.exit_code == 8
        assert "processes 1, 3 of 4 did not come within 1 s" in str(error)


def test_a_missing_process_0_is_told_in_time():
    begun = time.monotonic()
    with pytest.raises(errors.DistributedError, match="process 0 did not answer within 0.5 s"):
        meeting.meet(free_address(), 2, 1, 0.5)
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    "second, told",
    [((3, 1), "counts 3 processes, process 0 counts 2"), ((2, 5), "says it is process 5")],
)
def test_contradictions_are_told(second, told):
    address = free_address()
    places = [(2, 0), second]
    for error in each(2, lambda n: meeting.meet(address, *places[n], 3.0)):
        assert isinstance(error, errors.DistributedError) and told in str(error)


def test_two_with_one_number_are_told():
    address = free_address()
    places = [(3, 0), (3, 1), (3, 1)]
    got = each(3, lambda n: meeting.meet(address, *places[n], 3.0))
    assert all("says it is process 1, as " in str(error) for error in got)


STRANGERS = (
    b"GET / HTTP/1.0\r\n\r\n",
    b"[]\n",
    b'{"a": 1}\n',
    b"",
    b"[" * 100_000 + b"\n",  # Python's parser would raise RecursionError, no ValueError
    b'{"id": []}\n',
    b'{"id": "1", "num": 2}\n',
    b"\xff\x00" * (3 << 20) + b"\n",  # longer than any line
)


def test_strangers_at_the_port_do_no_harm(recwarn):
    address = free_address()

    def work(n):
        if n < 2:
            if n:
                time.sleep(1.0)  # the strangers come first
            return meeting.meet(address, 2, n, 5.0)
        for text in STRANGERS:
            for _ in range(20):
                try:
                    with socket.create_connection(address) as stranger:
                        stranger.sendall(text)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
                except OSError:  # it was shown the door
                    break
        return None

    met = each(3, work)[:2]
    assert met[0][1] == met[1][1] and len(met[0][1]) == 2
    for links, _ in met:
        for link in links.values():
            link.close()
    gc.collect()
    assert not [w for w in recwarn if w.category is ResourceWarning]


def test_what_is_the_same_is_agreed_on():
    run = Run(3)
    values = {"seed": 0, "path": "/data", "sizes": [1, 2]}
    assert each(3, lambda i: run.lines[i].agree("configuration", values)) == [None] * 3
    assert each(3, lambda i: run.lines[i].agree("data", {})) == [None] * 3


@pytest.mark.parametrize(
    "other, told",
    [
        ({"seed": 1, "data": "x"}, "seed is 0 on process 0 (.*), 1 on process 2 "),
        ({"seed": 0}, "data is x on process 0 (.*), not set on process 2 "),
        ({"seed": 0, "data": "x", "z": "y" * 99}, "z is not set on .*, yyy.*yyy\\.\\.\\. on proc"),
    ],
)
def test_a_difference_names_the_key_and_both_values_everywhere(other, told):
    run = Run(3)
    values = [{"seed": 0, "data": "x"}] * 2 + [other]
    for error in each(3, lambda i: run.lines[i].agree("configuration", values[i])):
        with pytest.raises(errors.DistributedError, match="hosts differ in configuration: " + told):
            raise error
    time.sleep(0.6)
    assert run.told == {}  # the error is each one's own: nobody was lost


def test_who_does_not_compare_is_named():
    run = Run(3, stall_seconds=0.5)
    got = each(2, lambda i: run.lines[i].agree("data", {}))
    assert all("process 2 (host" in str(e) and "did not tell its data" in str(e) for e in got)


def cut(run, process):
    """As the kernel does for a process that is killed."""
    for link in run.links[process].values():
        link._socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("victim", [0, 2])
def test_a_dead_process_is_named_on_all_others(victim):
    run = Run(3)
    for line in run.lines:
        line.report(step=41)
    time.sleep(0.4)
    run.lines[victim]._is_ending.set()  # the dead find nothing
    cut(run, victim)
    told = run.wait(2)
    assert sorted(told) == [i for i in range(3) if i != victim]
    for text in told.values():
        assert f"process {victim} (host" in text and "it was at step 41" in text


@pytest.mark.parametrize("victim", [0, 2])
def test_a_frozen_process_is_named_on_all_others(victim, monkeypatch):
    run = Run(3)
    run.lines[victim]._is_ending.set()  # the dead find nothing
    for link in run.links[victim].values():
        monkeypatch.setattr(link, "send", lambda **_: None)
    told = run.wait(2)
    for i, text in told.items():
        assert i != victim and f"process {victim} (host" in text
        assert "has not been heard of for 0.4 s" in text


def test_a_process_that_ends_with_an_error_tells_it():
    run = Run(3)
    run.lines[1].fail("DataError: no file; rows.jsonl; give another")
    told = run.wait(2)
    assert sorted(told) == [0, 2]
    assert all("ended: DataError: no file; rows.jsonl" in text for text in told.values())


@pytest.mark.parametrize("behind", [0, 1])
def test_a_process_that_stays_behind_is_named(behind):
    run = Run(2, stall_seconds=0.6)
    for i, line in enumerate(run.lines):
        line.report(step=40 if i == behind else 42)
    told = run.wait(2)
    assert all(f"process {behind} (host" in text for text in told.values())
    assert all("stayed at step 40 for 0.6 s, others came to step 42" in t for t in told.values())


def test_one_that_catches_up_is_not_lost():
    run = Run(2, stall_seconds=0.6)
    for step in range(8):
        run.lines[0].report(step=step + 1)
        run.lines[1].report(step=step)  # always behind, never still
        time.sleep(0.2)
    assert run.told == {}
