"""Mixtures: which unit is the n-th that a run sees, as a function of (seed, n) alone.

A unit is an example, or the examples of one preference. Any block of the endless stream of draws
can be computed at once, on any host: no iterator, no buffer, no state.
"""

import fractions
import math
from collections.abc import Callable, Mapping

import numpy as np

BLOCK = 16384  # draws per block, to within the number of tasks; all that is packed together
Mixing = Callable[[Mapping[str, int]], Mapping[str, float]]  # units of each task -> its rate


def permutation(size, seed, positions: np.ndarray) -> np.ndarray:
    """Returns where `positions` go under a pseudo-random permutation of range(size).

    A Feistel network of four rounds over the next power of four, walked until it lands inside
    (format-preserving encryption, Black and Rogaway 2002, "cycle walking"). Stateless, and the same
    under every NumPy. Size and seed may be arrays: a permutation for each position.
    """
    out = np.asarray(positions, np.uint64).copy()
    size = np.broadcast_to(np.asarray(size, np.uint64), out.shape)
    seed = np.broadcast_to(_unsigned(seed), out.shape)
    bits = np.frexp((size - np.uint64(1)).astype(np.float64))[1]
    half = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    mask = (np.uint64(1) << half) - np.uint64(1)
    todo = np.arange(out.size)
    while todo.size:
        shift, inside, keys = half[todo], mask[todo], seed[todo] * np.uint64(4)
        left, right = out[todo] >> shift, out[todo] & inside
        for number in range(4):
            left, right = right, left ^ (_hash(right + keys + np.uint64(number)) & inside)
        out[todo] = (left << shift) | right
        todo = todo[out[todo] >= size[todo]]
    return out.astype(np.int64)


def _unsigned(x) -> np.ndarray:
    return np.asarray(x % (1 << 64) if isinstance(x, int) else x).astype(np.uint64)


def _hash(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014), on unsigned 64-bit integers."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*parts) -> np.ndarray:
    """Mixes integers, or arrays of them, into one seed, or an array of seeds."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _hash(state ^ _unsigned(part))
    return state


class Mixture:
    """The endless stream of draws of a mixture, in blocks.

    Block b ends where b + 1 times its share of `block` is due to each task, rounded down from an
    offset: at the end of any block a task's draws are less than one from its exact rate, however
    long the run, and a task of a tiny rate has its turn every so many blocks.

    Args:
      rates: task -> mixing rate; their sum does not matter.
      sizes: task -> number of units.
      block: draws in a block, to within the number of tasks; default BLOCK.
    """

    def __init__(
        self,
        rates: Mapping[str, float],
        sizes: Mapping[str, int],
        *,
        seed: int,
        block: int | None = None,
    ):
        if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates.values()):
            raise ValueError(f"mixing rates must be positive: {dict(rates)}")
        exact = [fractions.Fraction(rates[task]) for task in sizes]
        common = math.lcm(*(rate.denominator for rate in exact))
        self._parts = [rate.numerator * (common // rate.denominator) for rate in exact]
        self._sizes = np.array(list(sizes.values()), np.int64)
        self._seed = seed
        self._block = BLOCK if block is None else block

    def before(self, block: int) -> list[int]:
        """Returns how often each task is drawn before a block starts."""
        total, num = sum(self._parts), len(self._parts)
        # Offsets of 1/2k, 3/2k, ...: or else all tasks of equal rates would round at once.
        return [
            (2 * num * block * self._block * part + (2 * task + 1) * total) // (2 * num * total)
            for task, part in enumerate(self._parts)
        ]

    def draw(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns what a block holds, in the order it is drawn.

        Each task passes through all its units, in an order of (seed, epoch), before one repeats.

        Returns:
          (task number [n], unit number within that task [n]), n about the size of a block.
        """
        start = np.array(self.before(block), np.int64)
        counts = np.array(self.before(block + 1), np.int64) - start
        ends, num = np.cumsum(counts), int(counts.sum())
        slots = permutation(num, key(self._seed, 1, block), np.arange(num))
        tasks = np.searchsorted(ends, slots, side="right")
        nth = start[tasks] + slots - (ends - counts)[tasks]  # n-th draw of its own task
        sizes = self._sizes[tasks]
        order = key(self._seed, 2, tasks, nth // sizes)
        return tasks, permutation(sizes, order, nth % sizes)
