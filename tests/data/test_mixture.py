"""Mixtures: exact rates, whole epochs, and any block at once."""

import fractions
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft.data import mixture


def draws(made: mixture.Mixture, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [made.draw(block) for block in range(blocks)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**64 - 1))
def test_permutation_is_one(size, seed):
    out = mixture.permutation(size, seed, np.arange(size))
    assert np.array_equal(np.sort(out), np.arange(size))
    some = np.array([size - 1, 0, size // 2])
    assert np.array_equal(mixture.permutation(size, seed, some), out[some])


def test_permutations_of_many_sizes_and_seeds_are_those_of_one():
    sizes, seeds = np.array([1, 2, 3, 100, 4096, 4097]), np.arange(6).astype(np.uint64)
    positions = sizes - 1
    got = mixture.permutation(sizes, seeds, positions)
    for i, size in enumerate(sizes):
        assert got[i] == mixture.permutation(int(size), i, np.arange(size))[-1]


def test_permutation_depends_on_the_seed_and_moves_things():
    a, b = (mixture.permutation(1000, seed, np.arange(1000)) for seed in (1, 2))
    assert (a != b).mean() > 0.98 and (a != np.arange(1000)).mean() > 0.98
    assert abs(np.corrcoef(a, np.arange(1000))[0, 1]) < 0.1


def test_permutation_is_always_the_same():
    """A stored position must mean the same examples under every NumPy and machine."""
    assert mixture.permutation(10, 7, np.arange(10)).tolist() == [8, 9, 2, 3, 0, 6, 5, 7, 4, 1]
    assert int(mixture.key(1, 2, 3)[0]) == 15020427595393229491


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    rates=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30),
    far=st.integers(0, 10**9),
)
def test_no_task_is_ever_a_draw_away_from_its_rate(rates, far):
    names = {str(i): rate for i, rate in enumerate(rates)}
    made = mixture.Mixture(names, dict.fromkeys(names, 10), seed=0, block=64)
    total = sum(map(fractions.Fraction, rates))
    for block in (0, 1, far):
        tasks, _ = made.draw(block)
        drawn = np.bincount(tasks, minlength=len(rates))
        for rate, before, now in zip(rates, made.before(block), drawn, strict=True):
            due = (block + 1) * 64 * fractions.Fraction(rate) / total
            assert abs(before + int(now) - due) < 1
        assert abs(len(tasks) - 64) <= len(rates)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_every_unit_once_per_epoch(sizes, seed, data):
    """Epoch e of a task is its draws e * size to (e + 1) * size: told by their number alone."""
    rates = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    names = dict(zip("abcde", rates, strict=False))
    made = mixture.Mixture(names, dict(zip(names, sizes, strict=True)), seed=seed, block=32)
    blocks = 8
    tasks, units = draws(made, blocks)
    for task, size in enumerate(sizes):
        counts = np.bincount(units[tasks == task], minlength=size)
        assert len(counts) == size
        epochs, rest = divmod(int(counts.sum()), size)
        assert sorted(counts) == [epochs] * (size - rest) + [epochs + 1] * rest


def test_epochs_have_different_orders():
    made = mixture.Mixture({"a": 1.0}, {"a": 64}, seed=3, block=64)
    first, second = (made.draw(block)[1] for block in (0, 1))
    assert sorted(first) == sorted(second) == list(range(64)) and (first != second).mean() > 0.8


def test_a_tiny_rate_has_its_turn():
    rates = {"large": 1.0, "small": 1e-4}
    made = mixture.Mixture(rates, {"large": 10, "small": 10}, seed=0, block=64)
    assert made.before(3_200)[1] == math.floor(3_200 * 64 * 1e-4 / 1.0001 + 0.75)
    tasks, _ = draws(made, 320)
    assert 1 <= (tasks == 1).sum() <= 3


def test_a_late_block_of_many_tasks_and_a_million_units_takes_no_time():
    names = {str(i): 1 / (i + 1) for i in range(2000)}
    sizes = dict.fromkeys(names, 500) | {"0": 1, "1": 2}
    begun = time.process_time()
    tasks, units = mixture.Mixture(names, sizes, seed=1).draw(10**8)
    assert time.process_time() - begun < 1.0  # 20 ms on an idle core
    assert np.all(units[tasks == 0] == 0) and set(units[tasks == 1]) == {0, 1}


def test_refuses_rates_that_are_none():
    for rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be positive"):
            mixture.Mixture({"a": rate}, {"a": 1}, seed=0)
    with pytest.raises(ValueError, match="must be positive"):
        mixture.Mixture({}, {}, seed=0)
