"""Numbers of batches mean the same rows before and after a change of the batch size."""

import json
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.data import batches
from t5sft.train import position, resume

DATA = {"stream": 2, "data": "d1", "rates": "r1", "seed": 0, "batch_size": 8, "pack": True}
HERE = position.Position(
    rows=batches.Position(3, 17),
    batch=30,
    identity=DATA,
    skips=[(10, 12), (28, 33), (50, 53)],
    unlearnt=[20],
    guard={"losses": [1.5]},
    period={"counts": {"tokens": 7}},
)


def of_size(size, **changes):
    return DATA | {"batch_size": size} | changes


def test_a_file_gives_back_what_was_saved():
    text = json.dumps(position.to_json(HERE))
    assert position.from_json(json.loads(text), step=28) == HERE
    assert json.loads(text)["seed"] == 0 and json.loads(text)["row"] == 17


def test_a_file_without_format_is_read_and_one_of_another_refused():
    saved = position.to_json(HERE)
    assert position.from_json({k: v for k, v in saved.items() if k != "format"}, 28) == HERE
    assert position.from_json({"block": 1, "row": 2}, step=9).batch == 9
    with pytest.raises(errors.CheckpointError, match="data.json is of format 2, .*step 28"):
        position.from_json(saved | {"format": 2}, 28)


def test_what_is_to_come_is_counted_in_the_new_batches():
    assert HERE.carried_over(DATA) == HERE
    doubled = HERE.carried_over(of_size(16))
    assert (doubled.batch, doubled.rows) == (15, HERE.rows)
    assert doubled.skips == [(15, 17), (25, 27)]  # rows 240 to 264, 400 to 424, and what is beside
    assert doubled.identity["batch_size"] == 16 and doubled.guard == HERE.guard
    halved = HERE.carried_over(of_size(4))
    assert halved.batch == 60 and halved.skips == [(60, 66), (100, 106)]


def test_a_size_that_would_begin_inside_a_batch_is_refused_with_the_way_out():
    with pytest.raises(errors.ConfigError, match="train 2 more with batch_size 8 before") as raised:
        HERE.carried_over(of_size(64))
    assert "30 batches of 8 rows are no whole number of batches of 64" in str(raised.value)
    assert HERE._replace(batch=32).carried_over(of_size(64)).batch == 4


def test_other_data_are_read_from_batch_0():
    fresh = HERE.carried_over(of_size(8, data="d2"))
    assert fresh == position.Position(identity=of_size(8, data="d2"), guard=HERE.guard)


def test_knows_what_it_has_learnt():
    learnt = {n for n in range(40) if HERE.has_learnt([(n, n + 1)], DATA)}
    assert learnt == set(range(28)) - {10, 11, 20}
    assert not HERE.has_learnt([(0, 30)], of_size(8, data="d2"))


@settings(max_examples=50, deadline=None)
@given(
    ours=st.integers(1, 12),
    theirs=st.integers(1, 12),
    first=st.integers(0, 40),
    length=st.integers(1, 9),
    batch=st.integers(0, 40),
)
def test_row_by_row(ours, theirs, first, length, batch):
    """The definition: the rows of a range, and the rows that were learnt."""
    before = position.Position(batch=batch, identity=of_size(ours), unlearnt=[3], skips=[(5, 7)])
    rows = set(range(first * theirs, (first + length) * theirs))
    taken = {r for r in range(batch * ours) if r // ours not in (3, 5, 6)}
    assert before.has_learnt([(first, first + length)], of_size(theirs)) == bool(rows & taken)
    if batch * ours % theirs:
        return
    after = before.carried_over(of_size(theirs))
    left_out = {r for a, b in after.skips for r in range(a * theirs, b * theirs)}
    ahead = {r for a, b in before.skips for r in range(a * ours, b * ours)} - set(
        range(batch * ours)
    )
    assert ahead <= left_out or ours == theirs
    assert all(r >= batch * ours for r in left_out) or ours == theirs


def test_a_checkpoint_of_another_version_is_not_passed_over():
    """Where batches are to be left out, an earlier one was as good: only `restore` may refuse."""

    class Checkpoints:
        def steps(self):
            return [1, 2]

        def position(self, step):
            return {"format": 9} if step == 2 else {}

        def restore(self, step, **likes):
            raise errors.CheckpointError(f"written by another version: step {step}")

    like = types.SimpleNamespace(params=None, opt_state=None)
    with pytest.raises(errors.CheckpointError, match="step 2"):
        resume._restore(Checkpoints(), like, [(0, 1)], DATA, "fallback")
