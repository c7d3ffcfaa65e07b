"""Packing: which examples share a row, from their lengths alone."""

import numpy as np


def pack(lengths: np.ndarray, capacity: tuple[int, int]) -> list[np.ndarray]:
    """Puts examples into as few rows as best-fit-decreasing finds.

    An example has two lengths (encoder and decoder tokens) and must fit a row in both. The fullest
    row it fits is taken; long examples first; no example is cut.

    Args:
      lengths: [n, 2] tokens; each at most its capacity.
      capacity: (S, T) of a row. A decoder's examples have length 0 in the encoder.

    Returns:
      One array of example numbers per row, in the order rows were opened.

    Example (capacity (0, 10), lengths 6 5 4 3 2):
      rows  [0 2] [1 3 4]... each row's sum is at most 10
    """
    capacity = np.maximum(np.asarray(capacity, np.float64), 1)
    relative = np.asarray(lengths, np.float64) / capacity  # [n, 2]
    if relative.size and relative.max() > 1:
        raise ValueError(f"an example of {lengths[relative.max(1).argmax()]} exceeds {capacity}")
    order = np.argsort(-relative.max(axis=1), kind="stable")
    free = np.ones((len(order), 2))  # rows opened so far: relative room left
    rows: list[list[int]] = []
    for example in order:
        need = relative[example]
        room = free[: len(rows)] - need + 1e-9
        fits = (room[:, 0] >= 0) & (room[:, 1] >= 0)
        left = np.where(fits, room.sum(axis=1), np.inf)
        row = int(left.argmin()) if len(rows) else 0
        if not len(rows) or not fits[row]:
            row = len(rows)
            rows.append([])
        rows[row].append(int(example))
        free[row] -= need
    return [np.asarray(row) for row in rows]
