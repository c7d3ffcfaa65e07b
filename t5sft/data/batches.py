"""Batches: step -> global batch, a function of (data, seed, step), the same on any number of hosts.

The endless stream of draws (mixture) is cut into blocks; a block is packed into rows by lengths
alone; batch s is rows s*B to (s+1)*B of all blocks. A position is (block, row): two integers.
"""

import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from t5sft.data import cache, converters, mixture, packing

Row = list[tuple[str, int]]  # (task, example number) of the examples that share a row
Shardings = Mapping[str, jax.sharding.Sharding]  # feature name -> where it lies


class Position(NamedTuple):
    """Where the next batch starts: block of the stream, row within it."""

    block: int = 0
    row: int = 0


class Batches:
    """The training batches of a prepared split.

    Args:
      split: prepared data.
      batch_size: B, rows of a global batch.
      encoder_length, decoder_length: S and T of a row.
      start_id: the decoder's first input (T5: the pad id).
      pack: False gives every example a row of its own.
    """

    def __init__(
        self,
        split: cache.Split,
        *,
        layout: str,
        batch_size: int,
        encoder_length: int,
        decoder_length: int,
        start_id: int,
        seed: int,
        pack: bool = True,
    ):
        self._split, self._layout, self._seed, self._pack = split, layout, seed, pack
        self.batch_size = batch_size
        self._lengths = (encoder_length, decoder_length)
        self._start_id = start_id
        self._names = list(split.tasks)
        self._sizes = {name: len(examples) for name, examples in split.tasks.items()}
        self._costs = [_costs(examples, layout) for examples in split.tasks.values()]
        self._blocks: dict[int, list[Row]] = {}

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a global batch."""
        lengths = dict(zip(("encoder_length", "decoder_length"), self._lengths, strict=True))
        return converters.shapes(self._layout, self.batch_size, **lengths)

    def rows(self, block: int) -> list[Row]:
        """Returns the packed rows of one block of the stream, in the order they are learnt."""
        if block not in self._blocks:
            tasks, numbers = mixture.draw(self._split.rates, self._sizes, self._seed, block)
            costs = np.empty((len(tasks), 2), np.int64)
            for task, table in enumerate(self._costs):
                costs[tasks == task] = table[numbers[tasks == task]]
            packed = (
                packing.pack(costs, self._lengths)
                if self._pack
                else [np.array([i]) for i in range(len(tasks))]
            )
            # Best fit opens rows from long examples to short: learnt in that order they would bias.
            order = mixture.permutation(
                len(packed), mixture.key(self._seed, 3, block), np.arange(len(packed))
            )
            named = [
                [(self._names[tasks[i]], int(numbers[i])) for i in packed[row]] for row in order
            ]
            self._blocks = dict(sorted({**self._blocks, block: named}.items())[-3:])
        return self._blocks[block]

    def batch_rows(self, position: Position) -> tuple[list[Row], Position]:
        """Returns the rows of the batch that starts at a position, and where the next starts."""
        out: list[Row] = []
        while len(out) < self.batch_size:
            rows = self.rows(position.block)
            take = rows[position.row : position.row + self.batch_size - len(out)]
            out += take
            position = Position(position.block, position.row + len(take))
            if position.row >= len(rows):
                position = Position(position.block + 1, 0)
        return out, position

    def position(self, step: int) -> Position:
        """Returns where the batch of `step` starts, counting rows from the beginning."""
        row, block = step * self.batch_size, 0
        while row >= len(self.rows(block)):
            row -= len(self.rows(block))
            block += 1
        return Position(block, row)

    def example(self, task: str, i: int):
        """Returns one prepared example."""
        return self._split.tasks[task].get(i)

    def convert(self, rows: list[Row]) -> dict[str, np.ndarray]:
        """Returns the arrays of these rows."""
        examples = [[self.example(task, i) for task, i in row] for row in rows]
        encoder_length, decoder_length = self._lengths
        if self._layout == "decoder":
            return converters.decoder(examples, decoder_length=decoder_length)
        return converters.encoder_decoder(
            examples,
            encoder_length=encoder_length,
            decoder_length=decoder_length,
            start_id=self._start_id,
        )

    def once(self) -> Iterator[list[Row]]:
        """Yields all examples exactly once, packed; the last batch is filled with empty rows."""
        draws = [(name, i) for name, size in self._sizes.items() for i in range(size)]
        costs = np.concatenate(self._costs)
        packed = (
            packing.pack(costs, self._lengths) if self._pack else [[i] for i in range(len(draws))]
        )
        for first in range(0, len(packed), self.batch_size):
            rows = [[draws[i] for i in row] for row in packed[first : first + self.batch_size]]
            yield rows + [[] for _ in range(self.batch_size - len(rows))]


def _costs(examples: cache.Examples, layout: str) -> np.ndarray:
    """Returns [n, 2]: how many places of a row each example takes, in encoder and decoder."""
    lengths = examples.lengths()
    return lengths - (0, 1) if layout == "decoder" else lengths


def place(batches: Batches, rows: list[Row], shardings: Shardings) -> dict[str, jax.Array]:
    """Puts the rows of a global batch on the devices; a process builds only the rows it holds."""
    sharding = shardings["decoder_target_tokens"]
    shape = (len(rows), batches.shapes()["decoder_target_tokens"].shape[1])
    held = {
        b
        for index in sharding.addressable_devices_indices_map(shape).values()
        for b in range(*index[0].indices(len(rows)))
    }
    first = min(held)
    local = batches.convert(rows[first : max(held) + 1])

    def build(name, array):
        def part(index):
            start, stop, _ = index[0].indices(len(rows))
            return array[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback((len(rows), *array.shape[1:]), shardings[name], part)

    return {name: build(name, array) for name, array in local.items()}


class Placed(NamedTuple):
    """A batch on the devices, and what the host knows of it."""

    arrays: dict[str, jax.Array]
    position: Position  # where the next batch starts: saved with the state after this step
    counts: dict[str, int]


def stream(
    batches: Batches, position: Position, shardings: Shardings
) -> Generator[Placed, None, None]:
    """Yields batches from a position on, made two ahead in a thread. Close it."""
    ready: queue.Queue = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(item):
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work(position):
        try:
            while not stop.is_set():
                rows, position = batches.batch_rows(position)
                put(Placed(place(batches, rows, shardings), position, count(batches, rows)))
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=work, args=(position,), daemon=True, name="batches")
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:  # on close(): an interpreter that ends kills the thread inside XLA, and aborts
        stop.set()
        thread.join()


def count(batches: Batches, rows: list[Row]) -> dict[str, int]:
    """Returns examples, tokens and places (tokens and padding) of a global batch."""
    names = {name: i for i, name in enumerate(batches._names)}
    costs = [batches._costs[names[task]][i] for row in rows for task, i in row]
    encoder_length, decoder_length = batches._lengths
    width = decoder_length + (encoder_length if batches._layout == "encoder_decoder" else 0)
    return {
        "examples": len(costs),
        "tokens": int(np.sum(costs)),
        "places": len(rows) * width,
    }
