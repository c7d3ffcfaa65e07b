"""Packed or alone, in any batch and company: a row's likelihoods are its own."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import checkpoints

from t5sft.evaluate import likelihoods
from t5sft.evaluate.likelihoods import Ids
from t5sft.parallel import mesh


def judged(name, rows, devices=1, **options):
    fixture = checkpoints.load(name)
    model = fixture.family.model(fixture.config)
    params = checkpoints.params_of(fixture, model, "default")
    where = mesh.make_mesh(devices=jax.devices()[:devices])
    return likelihoods.judge(model, params, rows, mesh=where, **options)


def questions(num, seed=0):
    """Questions with four one-token options, with options of several tokens, and single rows."""
    rng = np.random.default_rng(seed)

    def ids(length):
        return rng.integers(3, 64, length).tolist()

    rows = []
    for i in range(num):
        asked = ids(50 if i % 4 == 0 else 9 + i % 2)  # few lengths: few compilations of `_alone`
        if i % 3 == 0:
            rows += [Ids(asked, ids(1)) for _ in range(4)]
        elif i % 3 == 1:
            rows += [Ids(asked, [*ids(length), 1]) for length in (1, 4, 2)]
        else:
            rows.append(Ids(asked, ids(12)))
    return [*rows, Ids(ids(9), []), rows[0]]


def same(rows, one, two):
    for row, a, b in zip(rows, one, two, strict=True):
        assert a.logprobs.shape == b.logprobs.shape == (len(row.targets),)
        np.testing.assert_allclose(b.logprobs, a.logprobs, atol=1e-5, rtol=1e-5)
        assert (a.is_greedy == b.is_greedy).all()


@pytest.mark.parametrize("name", ["qwen2", "t5_1_1"])
def test_packed_is_as_alone(name):
    rows = questions(8)
    same(rows, judged(name, rows, pack=False, batch_size=4), judged(name, rows, batch_size=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2", "gemma2", "t5_1_1"])  # gemma2: layers see a window only
def test_packed_is_as_alone_on_eight_devices_in_any_order(name):
    rows = questions(24, seed=1)
    alone = judged(name, rows, pack=False, batch_size=3)
    same(rows, alone, judged(name, rows[::-1], devices=8, batch_size=16)[::-1])
    same(rows, alone, judged(name, rows, batch_size=1))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.sampled_from([1, 2, 9, 60, 255, 256, 257, 700]), st.integers(1, 300)),
        max_size=30,
    ),
    layout=st.sampled_from(["decoder", "encoder_decoder"]),
    plan=st.sampled_from([likelihoods._packed, likelihoods._alone]),
)
def test_every_unit_has_one_place_that_holds_it(sizes, layout, plan):
    rows = [Ids([5] * a, [6] * b) for a, b in sizes]
    needed = likelihoods._sizes(layout, rows)
    placed = []
    for (source, target), made in plan(layout, rows):
        for units in made:
            assert (needed[units].sum(axis=0) <= (source, target)).all()
            placed += units
    assert sorted(placed) == list(range(len(rows)))


def test_long_rows_are_filled_with_short_units_and_short_rows_stay_short():
    rows = [Ids([5] * 600, [6])] * 3 + [Ids([5] * 60, [6])] * 90
    (long, first), (short, second) = likelihoods._packed("decoder", rows)
    assert (long, short) == ((0, 1024), (0, 256))
    assert [len(row) for row in first] == [8, 8, 8]  # 600 + 7 * 60 of 1,024
    assert [len(row) for row in second] == [4] * 17 + [1]
    assert len(likelihoods._units(rows)) == 2  # alike: read once


def test_a_question_is_read_once_for_all_its_letters():
    rows = [Ids([5, 6, 7], [letter]) for letter in (8, 9, 10, 11)]
    assert likelihoods._units(rows) == [[0, 1, 2, 3]]
    assert likelihoods._units([Ids([5], [6, 1]), Ids([5], [7, 1])]) == [[0], [1]]
    found = judged("qwen2", rows)
    alone = [judged("qwen2", [row])[0] for row in rows]
    for one, two in zip(found, alone, strict=True):
        np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-5)


def test_only_the_last_target_is_each_options_own():
    rows = [Ids([3], [7, 8]), Ids([3], [7, 9])]
    units = likelihoods._units(rows)
    targets = np.array([[0, 7, 8, 0]])
    ends = likelihoods._ends(targets, {0: (0, slice(1, 3))}, units, rows, num_ends=2)
    assert units == [[0, 1]]
    np.testing.assert_array_equal(ends[0], [[0, 0], [7, 7], [8, 9], [0, 0]])
