"""Hosts of a run: do they run the same, and which of them keeps the others waiting."""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import t5sft
from t5sft import paths
from t5sft.parallel import processes

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy")
_PROGRAM = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64")


def agree(subject: str, values: Mapping[str, Any]) -> None:
    """Raises DistributedError where a host has other values; names the key and both values.

    Not by a collective: hosts that compile different programs would wait in it for ever. To be
    called by all processes of a run in the same order; alone, it does nothing.

    Args:
      subject: what is compared, as "configuration".
      values: key -> what JSON can hold.
    """
    line = processes.current()
    if line is not None:
        line.agree(subject, values)


def software() -> dict[str, str]:
    """Returns what makes a program besides its configuration: versions, code, compiler flags."""
    found = {name: _version(name) for name in _PACKAGES}
    flags = {name: os.environ.get(name, "not set") for name in _PROGRAM}
    return {"python": platform.python_version(), **found, **flags, "code of t5sft": _code()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _code() -> str:
    """Returns a digest of the package and of the tasks."""
    digest = hashlib.sha256()
    for name in ("t5sft", "tasks"):
        top = paths.folder(name) if name == "tasks" else pathlib.Path(t5sft.__file__).parent
        for path in sorted(top.rglob("*.py")):
            digest.update(f"{name}/{path.relative_to(top)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Times:
    """Measures what each step costs this host by itself, and tells process 0.

    All hosts take a step in the same time: the slowest decides. So what is measured is the time in
    which a host does not wait for devices: reading data, dispatching, saving. A chip that is slow
    by itself does not show here.

    Args:
      clock: seconds; worked: of them those in which this thread computed.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ):
        self._clock, self._worked = clock, worked
        self._line = processes.current()
        self._begun = clock()
        self._waited, self._steps = 0.0, 0
        self._is_first = True

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Marks a time in which the host waits for devices, and with them for the other hosts.

        What it computes meanwhile is its own.
        """
        begun, worked = self._clock(), self._worked()
        try:
            yield
        finally:
            self._waited += self._clock() - begun - (self._worked() - worked)

    def dispatching(self, update: Callable) -> Callable:
        """Returns `update`; where a call of it blocks, as on CPUs, the host waits.

        Otherwise each host's figure held the wait for the slowest, and named another.
        """

        def call(*arguments):
            with self.waiting():
                return update(*arguments)

        return call

    def step(self, step: int) -> None:
        """Counts a step; costs a microsecond."""
        self._steps += 1
        if self._line is not None:
            own = (self._clock() - self._begun - self._waited) / self._steps
            self._line.report(step=step, own_seconds=round(own, 6))

    def figures(self, peak_seconds: float | None = None) -> dict[str, float]:
        """Returns MFU, and the slowest host with its seconds a step, since the last call.

        Args:
          peak_seconds: of a step at the chips' peak; None: not known, and no MFU. The first period
            is left out: it waits for the first step.

        Example:
          {"mfu": 0.51}                                                          one process
          {"slowest_process": 3.0, "slowest_own_seconds": 0.52, "median_own_seconds": 0.11}
        """
        elapsed, steps = self._clock() - self._begun, self._steps
        is_first, self._is_first = self._is_first, False
        self._begun, self._waited, self._steps = self._clock(), 0.0, 0
        found = {}
        if peak_seconds is not None and steps and elapsed and not is_first:
            found["mfu"] = peak_seconds * steps / elapsed
        return found | self._slowest()

    def each(self) -> dict[int, float]:
        """Returns the seconds a step of every host, by process, as process 0 last heard them."""
        beats = self._line.figures() if self._line is not None else {}
        return {i: beat["own_seconds"] for i, beat in beats.items() if "own_seconds" in beat}

    def _slowest(self) -> dict[str, float]:
        own = self.each()
        if not own:
            return {}
        slowest = max(own, key=lambda i: own[i])
        return {
            "slowest_process": float(slowest),
            "slowest_own_seconds": own[slowest],
            "median_own_seconds": sorted(own.values())[(len(own) - 1) // 2],
        }
