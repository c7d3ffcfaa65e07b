"""Packing: which units share a row, from their lengths alone.

Rows of one length are filled best-fit-decreasing. Rows of two lengths (encoder and decoder) are
filled many at once, each from a table of its own, by the unit that best keeps the row's balance.
"""

import math
from bisect import bisect_left

import numpy as np

TABLE = 192  # units a row chooses from
GREED = 0.3  # how much a unit's size counts against the balance of what it leaves


def pack(lengths: np.ndarray, capacity: tuple[int, int]) -> list[np.ndarray]:
    """Puts units into few rows; no unit is cut, each takes part once.

    Takes a few microseconds a unit and memory for some ten numbers a unit.

    Args:
      lengths: [n, 2] encoder and decoder tokens of a unit; each at most its capacity.
      capacity: (S, T) of a row. A decoder's units have length 0 in the encoder.

    Returns:
      The unit numbers of each row, ascending.

    Raises:
      ValueError: a unit fits no row.

    Example (capacity (0, 10), lengths 6 5 4 3 2):
      rows  [0 2] [1 3 4]   the first is full: 6 + 4
    """
    lengths = np.asarray(lengths, np.int64).reshape(-1, 2)
    over = (lengths > np.asarray(capacity)).any(axis=1)
    if over.any():
        first = int(over.argmax())
        raise ValueError(f"unit {first} of lengths {lengths[first]} exceeds a row of {capacity}")
    if not len(lengths):
        return []
    used = [side for side in (0, 1) if lengths[:, side].any()]
    if len(used) == 2:
        row_of = _balanced(lengths, capacity)
    else:
        side = used[0] if used else 1
        row_of = _best_fit(lengths[:, side], capacity[side])
    units = np.argsort(row_of, kind="stable")
    return np.split(units, np.flatnonzero(np.diff(row_of[units])) + 1)


def _best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Returns the row of each unit: the fullest one it fits, long units first.

    Rows with the same room are a stack, and the least room that is enough is found by bisection.
    """
    order = np.argsort(-lengths, kind="stable")
    rows_of_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # ascending, of the stacks that hold rows
    rows, num_rows = np.empty(len(order), np.int64), 0
    for unit, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            row = rows_of_room[room].pop()
            if not rows_of_room[room]:
                del rooms[place], rows_of_room[room]
        else:
            room, row = capacity, num_rows
            num_rows += 1
        rows[unit] = row
        room -= length
        if room in rows_of_room:
            rows_of_room[room].append(row)
        else:
            rooms.insert(bisect_left(rooms, room), room)
            rows_of_room[room] = [row]
    return rows


def _balanced(lengths: np.ndarray, capacity: tuple[int, int]) -> np.ndarray:
    """Returns the row of each unit, for rows with two capacities.

    A row takes the unit after which the room left on both sides is nearest to the proportion of
    all lengths, a large one sooner than a small one, until nothing fits: vector bin packing bin by
    bin, where the angle between demand and room is a penalty (Panigrahy et al. 2011, "Heuristics
    for vector bin packing"). Many tables of units fill a row each at a time. A table whose row is
    done is dealt out to the others, so that they stay full until the last.
    """
    nothing = left = len(lengths)
    items, ids = _tables(lengths, capacity)
    live = num_rows = len(ids)  # tables in use: the first ones
    table = items[:, ids]  # [4, tables, TABLE]
    whole = np.array([[capacity[0]], [capacity[1]], [0]], np.float32)
    room = np.tile(whole, live)  # [3, tables]: free on both sides, out of balance
    begun = np.zeros(live, np.float32)  # 0 for an empty row: it starts with the largest unit
    rows, row = np.empty(nothing, np.int64), np.arange(live)
    spare = np.empty(0, np.int64)  # units of tables that were dealt out
    while left:
        free, units = room[:, :live, None], table[:, :live]
        score = np.abs(free[2] - units[2]) * begun[:live, None] - units[3]
        score[(units[0] > free[0]) | (units[1] > free[1])] = np.inf
        place = score.argmin(axis=1)
        fits = score[np.arange(live), place] < np.inf
        at, done = np.flatnonzero(fits), np.flatnonzero(~fits)
        chosen = at, place[at]
        taken = ids[chosen]
        left -= len(taken)
        rows[taken] = row[at]
        room[:, at] -= items[:3, taken]
        begun[at] = 1
        refill = np.full(len(at), nothing)
        refill[: len(spare)] = spare[: len(at)]
        spare = spare[len(at) :]
        ids[chosen] = refill
        table[:, *chosen] = items[:, refill]
        room[:, done], begun[done] = whole, 0
        row[done] = num_rows + np.arange(len(done))
        num_rows += len(done)
        for dealt in done[::-1]:
            if live == 1 or len(spare) >= live:
                break
            live -= 1
            spare = np.concatenate([spare, ids[dealt][ids[dealt] != nothing]])
            for array in (ids, row, begun, *table, *room):
                array[dealt] = array[live]
        # Tables take spare units where they gave one away: from empty ones it would never begin.
        if not len(at) and len(spare) and (ids[:live] == nothing).all():
            ids[0, : len(spare)], spare = spare[:TABLE], spare[TABLE:]
            table[:, 0] = items[:, ids[0]]
    return rows


def _tables(lengths: np.ndarray, capacity: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is told of units and how they are dealt to tables, for `_balanced`.

    Returns:
      ([4, n + 1] both lengths, lean, size; the last unit is none and fits no row;
      [tables, TABLE] unit numbers.)
    """
    num, totals = len(lengths), [int(total) for total in lengths.sum(axis=0)]
    # The side that decides how many rows it takes. In integers: the same on every machine.
    tight = int(totals[1] * capacity[0] >= totals[0] * capacity[1])
    loose = 1 - tight
    ratio = totals[loose] * capacity[tight] / (totals[tight] * capacity[loose])
    shares = lengths / np.asarray(capacity, np.float64)
    items = np.zeros((4, num + 1), np.float32)
    items[:2, :num] = lengths.T
    items[:2, num] = np.inf
    # The more room one side has to spare, the less its balance matters.
    items[2, :num] = ratio * (shares[:, loose] - ratio * shares[:, tight])
    items[3, :num] = GREED * (shares[:, loose] + shares[:, tight])
    stride = max(round(num * 0.618), 1)  # neighbours in a corpus are alike: not in one table
    while math.gcd(stride, num) > 1:
        stride += 1
    num_tables = -(-num // TABLE)
    ids = np.full(num_tables * TABLE, num)
    ids[:num] = np.arange(num) * stride % num
    return items, ids.reshape(TABLE, num_tables).T.copy()
