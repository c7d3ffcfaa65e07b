"""The loop: one `for` for every kind of training."""

from collections.abc import Callable, Iterable

from t5sft.train import state


def every(num_steps: int, action: Callable) -> Callable:
    """Returns a hook that acts at each multiple of `num_steps`; 0 never acts."""

    def hook(step, *arguments):
        if num_steps and step % num_steps == 0:
            action(step, *arguments)

    return hook


def run(
    update: Callable,
    now: state.State,
    batches: Iterable,
    *,
    start: int,
    total_steps: int,
    hooks: Iterable[Callable],
    stop: Callable[[int], bool] = lambda step: False,
) -> state.State:
    """Runs steps `start` to `total_steps`, or until `stop(steps done)`, and returns the last state.

    Args:
      update: (state, batch arrays) -> (state, metrics); donates the state.
      batches: of `data.batches.Placed`, from step `start` on.
      hooks: called after each step with (steps done, state, metrics, batch).
    """
    for step, batch in zip(range(start, total_steps), batches, strict=False):
        now, metrics = update(now, batch.arrays)
        for hook in hooks:
            hook(step + 1, now, metrics, batch)
        if stop(step + 1):
            break
    return now
