"""The rounds of a run: from a checkpoint to its end, or to a bad batch and back once more."""

import contextlib
from collections.abc import Callable

from t5sft import errors
from t5sft.data import batches
from t5sft.train import guard, loop, state, stopping
from t5sft.train import hooks as hooks_lib
from t5sft.train.metrics import say


def run(
    lasting: contextlib.ExitStack,
    begin: Callable,
    hooks_of: Callable,
    training: batches.Batches,
    program,
    log,
    *,
    steps: int,
    skips,
    eval_every: int,
    save_every: int,
) -> tuple[hooks_lib.Hooks, state.State]:
    """Trains up to step `steps`; returns the hooks of the last round and the last state.

    Args:
      lasting: of the whole run: what is entered here stays over all rounds.
      begin: ranges of batches to leave out -> resume.Begin.
      hooks_of: (Begin, ExitStack, asked) -> hooks.Hooks.
      log: events.Events.
      skips: ranges to leave out from the start.

    Raises:
      NonFiniteError: bad batches came again after all the rewinds that the guard makes.
    """
    left_out = guard.check_ranges(skips)
    rewinds, asked = 0, None
    while True:
        with contextlib.ExitStack() as stack:
            with log.restoring():
                begun = begin(skips=left_out)
                start = int(begun.state.step)
                log.resume(start, again=rewinds > 0)
            # Not before: until there is a step a signal ends at once, nothing is to be saved. In
            # the rounds after a rewind it is kept: one step more, and it is saved.
            asked = asked or lasting.enter_context(stopping.signals())
            hooks = hooks_of(begun, stack, asked.is_asked)
            here = begun.position
            where = {"number": here.batch, "skips": here.skips}
            stream = batches.stream(training, here.rows, program.shardings, **where)
            stack.callback(stream.close)
            now, begun = begun.state, None  # it would keep the first state alive
            try:
                now = loop.run(
                    hooks.times.dispatching(program.update),
                    now,
                    log.batches(stream),
                    start=start,
                    total_steps=steps,
                    hooks=hooks.actions(eval_every, save_every),
                    stop=asked,
                )
                hooks.finish(now)
                return hooks, now
            except guard.Rewind as error:
                message, more = str(error), error.skip
        del now
        if rewinds == hooks.guard.most_rewinds:
            raise errors.NonFiniteError(
                f"{message}: bad again after {rewinds} rewinds; lower the learning rate, or look "
                "at the data; Guard.most_rewinds"
            )
        rewinds += 1
        left_out = [*left_out, more]
        hooks.checkpoints.wait()
        say(f"{message}: going back; batches {more[0]} to {more[1] - 1} are left out")
