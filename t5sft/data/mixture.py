"""Mixtures: which example is the n-th that a run sees, as a function of (seed, n) alone.

Any position can be computed at once, on any host: no iterator, no buffer, no state.
"""

from collections.abc import Mapping

import numpy as np

BLOCK = 4096  # draws per block: in each block every task has its share to within one draw


def permutation(size: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """Returns where `positions` go under a pseudo-random permutation of range(size).

    A Feistel network of four rounds over the next power of four, walked until it lands inside
    (format-preserving encryption, Black and Rogaway 2002, "cycle walking"). Stateless, and the same
    under every NumPy.
    """
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    out = np.asarray(positions, np.uint64).copy()
    todo = np.ones(out.shape, bool)
    while todo.any():
        left, right = out[todo] >> shift, out[todo] & mask
        for round_number in range(4):
            mixed = _hash(right + np.uint64((seed * 4 + round_number) % (1 << 64)))
            left, right = right, left ^ (mixed & mask)
        out[todo] = (left << shift) | right
        todo[todo] = out[todo] >= size
    return out.astype(np.int64)


def _hash(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014), on unsigned 64-bit integers."""
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def key(*parts: int) -> int:
    """Mixes integers into one seed."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _hash(state ^ np.uint64(part % (1 << 64)))
    return int(state[0])


def quotas(rates: Mapping[str, float]) -> np.ndarray:
    """Returns draws per block for each task: largest remainders, at least one each."""
    shares = np.array(list(rates.values()), np.float64)
    if not len(shares) or not np.all(np.isfinite(shares) & (shares > 0)):
        raise ValueError(f"mixing rates must be positive: {dict(rates)}")
    if len(shares) > BLOCK:
        raise ValueError(f"at most {BLOCK} tasks in a mixture, got {len(shares)}")
    exact = shares / shares.sum() * (BLOCK - len(shares))
    counts = np.floor(exact).astype(np.int64)
    rest = BLOCK - len(shares) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return counts + 1


def draw(
    rates: Mapping[str, float], sizes: Mapping[str, int], seed: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what block number `block` of the endless stream holds.

    Each task passes through all its examples, in an order of (seed, epoch), before one repeats.

    Returns:
      (task number [BLOCK], example number within that task [BLOCK]).
    """
    counts = quotas(rates)
    ends = np.cumsum(counts)
    slots = permutation(BLOCK, key(seed, 1, block), np.arange(BLOCK))
    tasks = np.searchsorted(ends, slots, side="right")
    nth = block * counts[tasks] + slots - (ends - counts)[tasks]  # n-th draw of its own task
    examples = np.empty(BLOCK, np.int64)
    for task, size in enumerate(sizes.values()):
        mine = np.flatnonzero(tasks == task)
        epochs = nth[mine] // size
        for epoch in np.unique(epochs):
            here = mine[epochs == epoch]
            order = key(seed, 2, task, int(epoch))
            examples[here] = permutation(size, order, nth[here] % size)
    return tasks, examples
