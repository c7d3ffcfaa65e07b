"""The workshop: one process reads a task, others tokenise its chunks, parts pile up on the disk.

The reader runs the SeqIO pipeline in the task's own order and hands out chunks of records. Where a
chunk's part lies already, because a process before this one was killed, nothing is handed out.
"""

import collections
import concurrent.futures
import contextlib
import fcntl
import gc
import multiprocessing
import os
import pathlib
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from t5sft import errors
from t5sft.data import reading, vocab
from t5sft.data.preparing import parts
from t5sft.data.settings import Data

_STALE_SECONDS = 7 * 24 * 3600  # after which unfinished work is not taken up again
_TELL_SECONDS = 10.0


class Pool:
    """Processes that tokenise, started before TensorFlow is imported: they never hold it.

    Args:
      workers: how many; None: one per core that this process may use; 0: none.
    """

    def __init__(self, workers: int | None):
        self.size = len(os.sched_getaffinity(0)) if workers is None else workers
        self._executor = None
        if self.size:
            _collect_seldom()
            # A fork costs nothing while this process is small and has one thread.
            how = "fork" if sys.platform == "linux" else "spawn"
            self._executor = concurrent.futures.ProcessPoolExecutor(
                self.size, multiprocessing.get_context(how), _stop_with, (os.getpid(),)
            )
            self._executor.submit(int).result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def submit(self, function: Callable, *arguments) -> concurrent.futures.Future:
        """Runs a function in a worker, or at once where there is none."""
        if self._executor is not None:
            return self._executor.submit(function, *arguments)
        done: concurrent.futures.Future = concurrent.futures.Future()
        done.set_result(function(*arguments))
        return done


def _collect_seldom():
    """Looks for cycles seldom: examples are many small objects without any."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _stop_with(parent: int):
    """Ends this worker when its parent has been killed: its queue would never tell."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def in_background(function: Callable, *arguments: Any) -> Iterator[concurrent.futures.Future]:
    """Runs a function in a thread; yields its future."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor.submit(function, *arguments)


@contextlib.contextmanager
def directory_of_parts(root: pathlib.Path, stem: str) -> Iterator[pathlib.Path]:
    """Yields where the parts of a split pile up; takes up what a killed process left there.

    While another process is at work there, a directory of one's own is given: the quicker of the
    two publishes. It is removed when all went well.
    """
    root.mkdir(parents=True, exist_ok=True)
    for old in (*root.glob(".*.parts"), *root.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    path = root / f".{stem}.parts"
    path.mkdir(exist_ok=True)
    with open(path / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            path = root / f".{stem}.{os.getpid()}.parts"
            path.mkdir(exist_ok=True)
        os.utime(path)
        yield path
        shutil.rmtree(path, ignore_errors=True)


def tokenise(
    directory: pathlib.Path,
    task: str,
    split: str,
    data: Data,
    layout: str,
    *,
    pool: Pool | None = None,
) -> tuple[dict[str, int], list[pathlib.Path]]:
    """Makes the parts of one task; returns what they count and their paths, in order.

    Raises:
      DataError: a record that cannot be used, or none of them can.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pool = pool or Pool(0)
    counts: Counter = Counter()
    waiting: collections.deque[concurrent.futures.Future | dict] = collections.deque()
    paths, told, start = [], time.monotonic(), time.monotonic()

    def collect():
        oldest = waiting.popleft()
        counts.update(oldest if isinstance(oldest, dict) else _result(oldest))

    for chunk in reading.chunks(
        task,
        split,
        lengths=(data.encoder_length, data.decoder_length),
        seed=data.seed,
        vocabulary=vocab.load(data.vocabulary),
    ):
        name, payload = parts.name(chunk)
        paths.append(directory / f"{name}.npz")
        ready = parts.read_counts(paths[-1])
        waiting.append(
            pool.submit(parts.make, payload, str(paths[-1]), task, data, layout)
            if ready is None
            else ready
        )
        while len(waiting) > 2 * pool.size + 1:
            collect()
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            rate = counts["read"] / (told - start)
            print(f"preparing {task}: {counts['read']:,} read, {rate:,.0f} a second",
                  file=sys.stderr, flush=True)  # fmt: skip
    while waiting:
        collect()
    if not counts["examples"]:
        start = "dropped: "
        reasons = {k.removeprefix(start): n for k, n in counts.items() if k.startswith(start)}
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        is_long = any(" long" in reason for reason in reasons)
        raise errors.DataError(
            f"no example left of {counts['read']}{told and f': {told}'}; task {task!r}, "
            f"split {split!r}; "
            + (
                "raise encoder_length/decoder_length or see too_long"
                if is_long
                else "give data that this run can learn from"
            )
        )
    return dict(counts), paths


def _result(future: concurrent.futures.Future) -> dict[str, int]:
    try:
        return future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise errors.DataError(
            "a process that tokenises died; see above; memory may be short: give fewer workers"
        ) from error
