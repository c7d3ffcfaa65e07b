"""Packing: every unit once, no row too full, and rows nearly as few as can be."""

import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft.data import packing


def alpaca_like(num: int, seed: int = 0) -> np.ndarray:
    """Long-tailed lengths of prompts and of answers a tenth longer."""
    random = np.random.default_rng(seed)
    prompts = np.clip(random.lognormal(3.8, 0.4, num), 16, 180)
    answers = np.clip(random.lognormal(3.7, 0.75, num), 4, 290)
    return np.stack([prompts, answers * 1.05], axis=1).astype(int)


def summed(lengths: np.ndarray) -> np.ndarray:
    """As a decoder's units: all in one row."""
    return np.stack([np.zeros(len(lengths), int), lengths.sum(axis=1)], axis=1)


def assert_packed(lengths, rows, capacity):
    assert sorted(int(i) for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
        assert len(row) and np.all(np.diff(row) > 0)
        assert np.all(np.asarray(lengths)[row].sum(axis=0) <= capacity)


def fullness(lengths, rows, capacity) -> np.ndarray:
    """How much of the rows is filled, on each side."""
    return lengths.sum(axis=0) / (np.maximum(capacity, 1) * len(rows))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=60),
    capacity=st.sampled_from([(20, 9), (0, 9), (64, 32), (20, 0)]),
    table=st.sampled_from([1, 3, 192]),
)
def test_every_unit_once_and_no_row_too_full(lengths, capacity, table):
    lengths = np.array([np.minimum(pair, capacity) for pair in lengths]).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "TABLE", table)
        rows = packing.pack(lengths, capacity)
    assert_packed(lengths, rows, capacity)
    again = packing.pack(lengths.tolist(), capacity) if table == 192 else rows
    assert [row.tolist() for row in again] == [row.tolist() for row in rows]


@pytest.mark.parametrize("table", [1, 2, 3, 8])
def test_comes_to_an_end_when_tables_run_empty_before_the_last(table, monkeypatch):
    """Units dealt out while all tables left were empty were never taken: it went on for ever."""
    monkeypatch.setattr(packing, "TABLE", table)
    for seed in range(40):
        random = np.random.default_rng(seed)
        lengths = random.integers(0, 8, (int(random.integers(2, 80)), 2))
        assert_packed(lengths, packing.pack(lengths, (20, 20)), (20, 20))


def slow_best_fit(lengths, capacity):
    """The definition: the fullest row that has room, long units first."""
    rows, room = [], []
    for unit in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [r for r in range(len(rows)) if room[r] >= lengths[unit]]
        if fitting:
            best = min(fitting, key=lambda r: room[r])
        else:
            best = len(rows)
            rows.append([])
            room.append(capacity)
        rows[best].append(unit)
        room[best] -= lengths[unit]
    return sorted(room)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=80))
def test_rows_of_one_length_are_those_of_best_fit(lengths):
    pairs = np.stack([np.zeros(len(lengths), int), lengths], axis=1)
    rows = packing.pack(pairs, (0, 30))
    got = sorted(30 - sum(lengths[i] for i in row) for row in rows)
    assert got == slow_best_fit(lengths, 30)


def test_as_documented():
    pairs = np.array([[0, n] for n in (6, 5, 4, 3, 2)])
    assert [row.tolist() for row in packing.pack(pairs, (0, 10))] == [[0, 2], [1, 3, 4]]


@pytest.mark.parametrize(
    "capacity, least",
    [((256, 384), 0.975), ((256, 256), 0.975), ((512, 512), 0.98), ((128, 512), 0.97)],
)
def test_rows_of_two_lengths_are_nearly_full_on_the_longer_side(capacity, least):
    lengths = np.minimum(alpaca_like(8192), capacity)
    rows = packing.pack(lengths, capacity)
    assert_packed(lengths, rows, capacity)
    assert fullness(lengths, rows, capacity).max() > least


def test_rows_of_one_length_are_nearly_full():
    lengths = summed(alpaca_like(8192))
    for length, least in ((512, 0.99), (2048, 0.995)):
        rows = packing.pack(lengths, (0, length))
        assert_packed(lengths, rows, (0, length))
        assert fullness(lengths, rows, (0, length))[1] > least


def test_units_sorted_by_length_are_packed_as_well():
    lengths = np.minimum(alpaca_like(8192), 256)
    lengths = lengths[np.lexsort(lengths.T)]
    rows = packing.pack(lengths, (256, 256))
    assert fullness(lengths, rows, (256, 256)).max() > 0.97


def test_refuses_what_fits_no_row():
    with pytest.raises(ValueError, match=r"unit 1 of lengths \[ 0 11\] exceeds a row of \(0, 10\)"):
        packing.pack(np.array([[0, 10], [0, 11]]), (0, 10))


def test_long_units_neither_crash_nor_vanish():
    """Two that fill a row alone, one that fits beside nothing else."""
    lengths = np.array([[10, 1], [1, 10], [9, 9], [1, 1], [0, 0]])
    rows = packing.pack(lengths, (10, 10))
    assert_packed(lengths, rows, (10, 10))
    assert len(rows) == 3


def seconds(lengths, capacity) -> float:
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    packing.pack(lengths, capacity)
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun


@pytest.mark.slow
def test_time_grows_with_the_number_of_units():
    lengths = np.minimum(alpaca_like(160_000), 256)
    for make, capacity in ((lambda x: x, (256, 256)), (summed, (0, 512))):
        small, large = (min(seconds(make(lengths[:n]), capacity) for _ in range(3)) for n in
                        (16_000, 160_000))  # fmt: skip
        assert large < 15 * small


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [(256, 256), (0, 512)])
def test_memory_of_a_million_units_is_bounded(capacity):
    code = f"""
import pathlib, re, numpy as np
from t5sft.data import packing
def peak():  # MiB; not getrusage, whose figure a new process inherits from its parent
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search("VmHWM:[^0-9]*([0-9]+)", status)[1]) // 1024
r = np.random.default_rng(0)
x = np.minimum(r.lognormal(3.8, .6, (1_000_000, 2)).astype(int) + 1, {max(capacity) // 2})
x[:, 0] *= {int(capacity[0] > 0)}
before = peak()
rows = packing.pack(x, {capacity})
assert sum(map(len, rows)) == 1_000_000
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400  # MiB
