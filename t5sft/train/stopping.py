"""How a run is asked to stop: a signal makes the step in progress the last one."""

import contextlib
import signal


@contextlib.contextmanager
def signals():
    """Yields a function that says whether SIGTERM came; the step in progress is then the last."""
    received = []
    before = None
    with contextlib.suppress(ValueError):  # not the main thread: nobody sends it here
        before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        yield lambda: bool(received)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
