"""The loop does each step once, in order, and stops where it is told."""

from typing import NamedTuple

from t5sft.train import loop


class Batch(NamedTuple):
    arrays: int


def walk(start, total, *, stop=lambda step: False, hooks=None):
    """Runs a loop that counts; returns its last state, the calls of the hook, batches drawn."""
    calls, drawn = [], []

    def batches():
        for number in range(start, 100):
            drawn.append(number)
            yield Batch(number)

    def record(*arguments):
        calls.append(arguments)

    last = loop.run(
        lambda now, arrays: ((*now, arrays), -arrays),
        (),
        batches(),
        start=start,
        total_steps=total,
        hooks=[record] if hooks is None else hooks,
        stop=stop,
    )
    return last, calls, drawn


def test_hooks_see_steps_done_state_metrics_and_batch():
    last, calls, _ = walk(0, 3)
    assert last == (0, 1, 2)
    assert calls == [
        (1, (0,), 0, Batch(0)),
        (2, (0, 1), -1, Batch(1)),
        (3, (0, 1, 2), -2, Batch(2)),
    ]


def test_goes_on_from_a_step_and_draws_no_batch_too_many():
    last, calls, drawn = walk(5, 7)
    assert last == (5, 6) and drawn == [5, 6]
    assert [call[0] for call in calls] == [6, 7]
    assert walk(7, 7) == ((), [], [])


def test_stop_finishes_the_step_and_its_hooks():
    answers = iter([False, True])
    last, calls, drawn = walk(0, 9, stop=lambda step: next(answers))
    assert last == (0, 1) and len(calls) == 2 and drawn == [0, 1]


def test_every_acts_at_multiples_in_the_order_of_the_hooks():
    seen = []
    hooks = [
        loop.every(1, lambda step, *_: seen.append(("log", step))),
        loop.every(2, lambda step, *_: seen.append(("save", step))),
        loop.every(0, lambda step, *_: seen.append(("never", step))),
    ]
    walk(0, 4, hooks=hooks)
    assert seen == [("log", 1), ("log", 2), ("save", 2), ("log", 3), ("log", 4), ("save", 4)]
