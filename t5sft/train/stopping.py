"""How a run is asked to stop: a signal makes the step in progress the last one."""

import contextlib
import os
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from t5sft.train.metrics import say

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the run was asked to stop; `stop(step)` after each step, on all processes.

    Many processes have to stop after the same step. JAX's preemption service, which takes SIGTERM
    itself there, lets them agree on one.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __call__(self, step: int) -> bool:
        if jax.process_count() == 1 or self.received is not None:
            return self.received is not None
        try:
            is_last = multihost_utils.reached_preemption_sync_point(step)
        except RuntimeError:  # the service is switched off: SIGTERM ends the process at once
            return False
        if is_last and self.received is None:
            self.received = signal.SIGTERM
            say("a process was asked to stop: saving this step, then ending")
        return is_last

    def is_asked(self) -> bool:
        """Whether this process knows that it has to stop."""
        return self.received is not None

    def handle(self, number: int, _) -> None:
        """The handler of a signal: the second one ends the process at once."""
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = signal.Signals(number)
        name = self.received.name
        say(f"{name}: finishing the step and saving it; a second {name} stops at once")


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
    """Yields the Stop that SIGTERM and SIGINT (ctrl-C) set while the block runs."""
    stop = Stop()
    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: nobody sends it here
        if jax.process_count() == 1:
            before = {number: signal.signal(number, stop.handle) for number in _SIGNALS}
        else:  # ctrl-C becomes the notice that all processes learn of
            notify = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
            before = {signal.SIGINT: signal.signal(signal.SIGINT, notify)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
