"""What happens at a loss or gradient that is not finite, or far above the usual ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from t5sft import errors

Action = Literal["abort", "skip", "rewind"]
Range = tuple[int, int]  # batches [first, last) of the stream, counted from 0


class Rewind(Exception):
    """Asks the run to go back to a checkpoint and leave batches out."""

    def __init__(self, message: str, skip: Range):
        super().__init__(message)
        self.skip = skip


@dataclasses.dataclass(frozen=True)
class Guard:
    """When a batch is bad, and what is done then.

    A batch is bad if its loss or gradient norm is NaN or infinite or, with `spike_sigma`, above
    mean + spike_sigma * deviation of the last `window` good ones (Levanter, MaxText: 6 and 128).

    Args:
      action: "abort" ends the run with nothing bad saved; "skip" leaves parameters and optimizer
        state as they were; "rewind" goes back to the last checkpoint and leaves the batch out.
      spike_sigma: None: only what is not finite is bad.
      window: good batches that are remembered; least: as many must be, before any is a spike.
      most_in_row: bad batches in a row that "skip" bears; then it aborts.
      most_rewinds: rewinds that one process makes; then it aborts.
      around: batches before and after the bad one that "rewind" leaves out as well.
    """

    action: Action = "abort"
    spike_sigma: float | None = None
    window: int = 128
    least: int = 64
    most_in_row: int = 10
    most_rewinds: int = 3
    around: int = 0

    def __post_init__(self):
        known = get_args(Action)
        if self.action not in known:
            raise errors.ConfigError(
                f"action is {self.action!r}{errors.suggest(str(self.action), known)}; Guard; "
                f"use one of {', '.join(known)}"
            )
        if self.spike_sigma is not None and not 2 <= self.least <= self.window:
            raise errors.ConfigError(
                f"least is {self.least} and window {self.window}; Guard; 2 <= least <= window"
            )

    @property
    def is_in_step(self) -> bool:
        """Whether the step itself has to judge: otherwise it is the plain one."""
        return self.action == "skip" or self.spike_sigma is not None

    def memory(self) -> dict[str, Any]:
        """Returns what is remembered before the first batch; small, on every device."""
        size = self.window if self.spike_sigma is not None else 0
        return {
            "losses": jnp.zeros(size, jnp.float32),
            "norms": jnp.zeros(size, jnp.float32),
            "seen": jnp.zeros((), jnp.int32),
            "in_row": jnp.zeros((), jnp.int32),
        }

    def judge(self, memory: dict, loss, norm, weight) -> tuple[jax.Array, dict]:
        """Returns whether a batch is good, [] bool, and what is remembered after it.

        Args:
          loss: [], mean over the batch; norm: [], of its gradient; weight: [], 0 for an empty one.
        """
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        values = {"losses": loss, "norms": norm}
        memory = dict(memory)
        if self.spike_sigma is not None:
            seen = memory["seen"]
            for name, value in values.items():
                limit = _limit(memory[name], seen, self.spike_sigma)
                good &= (seen < self.least) | (value <= limit)
            is_kept = good & (weight > 0)
            for name, value in values.items():
                after = memory[name].at[seen % self.window].set(value)
                memory[name] = jnp.where(is_kept, after, memory[name])
            memory["seen"] = seen + is_kept
        memory["in_row"] = jnp.where(good, 0, memory["in_row"] + 1)
        return good, memory


DEFAULT = Guard()


def _limit(past, seen, sigma: float):
    """Returns mean + sigma * standard deviation of what has been remembered so far."""
    is_filled = jnp.arange(past.size) < seen
    number = jnp.maximum(is_filled.sum(), 1)
    mean = jnp.where(is_filled, past, 0.0).sum() / number
    variance = jnp.where(is_filled, jnp.square(past - mean), 0.0).sum() / number
    return mean + sigma * jnp.sqrt(variance)


def to_json(memory: Any) -> dict:
    """Returns what is remembered as JSON can hold it, exactly."""
    return {name: array.tolist() for name, array in jax.device_get(dict(memory or {})).items()}


def from_json(guard: Guard, saved: Mapping[str, Any]) -> dict:
    """Returns what was remembered; begins anew where another window was saved."""
    fresh = guard.memory()
    if any(len(saved.get(n, ())) != fresh[n].size for n in ("losses", "norms")):
        return fresh
    return {n: jnp.asarray(saved.get(n, x), x.dtype).reshape(x.shape) for n, x in fresh.items()}


def is_left_out(number: int, skips) -> bool:
    """Whether a batch is in one of the ranges."""
    return any(first <= number < last for first, last in skips)


def check_ranges(skips) -> list[Range]:
    """Returns the ranges as given; raises ConfigError unless each is (first, last) with room."""
    ranges = [tuple(pair) for pair in skips]
    for pair in ranges:
        if (
            len(pair) != 2
            or not all(isinstance(n, int) for n in pair)
            or not 0 <= pair[0] < pair[1]
        ):
            raise errors.ConfigError(
                f"{pair} is no range of batches; skip_batches; give ((first, last), ...), with "
                "last not included"
            )
    return ranges
