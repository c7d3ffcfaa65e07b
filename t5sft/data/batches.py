"""Batches: step -> global batch, a function of (data, seed, step), the same on any number of hosts.

The endless stream of draws (mixture) is cut into blocks; a block is packed into rows by lengths
alone; batch s is rows s*B to (s+1)*B of all blocks. A position is (block, row): two integers, from
which the next batch is made at once, however late in a run.
"""

import hashlib
import itertools
import json
import math
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from t5sft.data import cache, converters, mixture, packing, units

STREAM = 2  # changes when the same data, seed and step would give another batch
Row = list[units.Named]  # of the examples that share a row: those of a unit side by side
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
      pack: False gives every unit a row of its own.
      mixing: units of each task -> rates; None: the rates of `split`.

    Raises:
      DataError: a unit is longer than a row.
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
        mixing: mixture.Mixing | None = None,
    ):
        self._split, self._layout, self._seed, self._pack = split, layout, seed, pack
        self.batch_size = batch_size
        self._lengths = (encoder_length, decoder_length)
        self._start_id = start_id
        self._names = list(split.tasks)
        self._units = units.Units(split.tasks, layout)
        self._units.check(self._lengths)
        sizes = self._units.sizes
        rates = split.rates if mixing is None else mixing(sizes)
        block = _block_size(self._units.costs, self._lengths)
        self._rates = {task: float(rates[task]) for task in sizes}
        self._mixture = mixture.Mixture(self._rates, sizes, seed=seed, block=block)
        self._plans: dict[int, list[np.ndarray]] = {}  # the last three

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a global batch."""
        lengths = dict(zip(("encoder_length", "decoder_length"), self._lengths, strict=True))
        return converters.shapes(self._layout, self.batch_size, **lengths)

    def close(self):
        """Frees nothing: prepared data is mapped memory. A stream ends its process."""

    def identity(self) -> dict:
        """Returns what a position belongs to: where it differs, it means other examples."""
        rates = hashlib.sha256(json.dumps(self._rates).encode()).hexdigest()[:16]
        return {
            "stream": STREAM,
            "data": self._split.digest,
            "rates": rates,
            "seed": self._seed,
            "batch_size": self.batch_size,
            "pack": self._pack,
        }

    def rows(self, block: int) -> list[Row]:
        """Returns the packed rows of one block of the stream, in the order they are learnt."""
        return self._named(self._plan(block))

    def batch_rows(self, position: Position) -> tuple[list[Row], Position]:
        """Returns the rows of the batch that starts at a position, and where the next starts."""
        out: list[np.ndarray] = []
        while len(out) < self.batch_size:
            plan = self._plan(position.block)
            take = plan[position.row : position.row + self.batch_size - len(out)]
            out += take
            position = Position(position.block, position.row + len(take))
            if position.row >= len(plan):
                position = Position(position.block + 1, 0)
        return self._named(out), position

    def position(self, step: int) -> Position:
        """Returns where the batch of `step` starts; plans all blocks before it."""
        row, block = step * self.batch_size, 0
        while row >= (num_rows := len(self._plan(block))):
            row, block = row - num_rows, block + 1
        return Position(block, row)

    def _plan(self, block: int) -> list[np.ndarray]:
        """Returns the units of each row of a block."""
        if block not in self._plans:
            drawn = self._units.number(*self._mixture.draw(block))
            packed = self._packed(drawn)
            # The packer opens rows of long units first: learnt in that order they would bias.
            key = mixture.key(self._seed, 3, block)
            order = mixture.permutation(len(packed), key, np.arange(len(packed)))
            plan = [drawn[packed[row]] for row in order]
            self._plans = dict([*self._plans.items(), (block, plan)][-3:])
        return self._plans[block]

    def _packed(self, units: np.ndarray) -> list[np.ndarray]:
        if not self._pack:
            return list(np.arange(len(units))[:, None])
        return packing.pack(self._units.costs[units], self._lengths)

    def _named(self, rows: list[np.ndarray]) -> list[Row]:
        """Returns the examples of rows of units."""
        flat = iter(self._units.examples(np.concatenate([*rows, _NONE])))
        return [list(itertools.chain.from_iterable(itertools.islice(flat, len(r)))) for r in rows]

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
        """Yields all units exactly once, packed; the last batch is filled with empty rows."""
        packed = self._packed(np.arange(len(self._units)))
        for first in range(0, len(packed), self.batch_size):
            rows = self._named(packed[first : first + self.batch_size])
            yield rows + [[] for _ in range(self.batch_size - len(rows))]

    def count(self, rows: list[Row]) -> dict[str, int]:
        """Returns examples, tokens and places (tokens and padding) of rows."""
        examples = [example for row in rows for example in row]
        encoder_length, decoder_length = self._lengths
        width = decoder_length + (encoder_length if self._layout == "encoder_decoder" else 0)
        return {
            "examples": len(examples),
            "tokens": int(self._units.places(examples).sum()),
            "places": len(rows) * width,
        }


_NONE = np.zeros(0, np.int64)


def _block_size(costs: np.ndarray, capacity: tuple[int, int]) -> int:
    """Returns draws of a block: more than usual where that many would fill few rows."""
    rows = max(costs.mean(axis=0) / np.maximum(capacity, 1)) * mixture.BLOCK
    grow = math.ceil(math.log2(mixture.BLOCK / 64 / rows)) if rows else 0
    return mixture.BLOCK << min(max(grow, 0), 4)


def place(batches: Batches, rows: list[Row], shardings: Shardings) -> dict[str, jax.Array]:
    """Puts the rows of a global batch on the devices; a process builds only the rows it holds."""
    here = held(shardings["decoder_target_tokens"], batches.shapes()["decoder_target_tokens"].shape)
    first = here.start
    local = batches.convert(rows[first : here.stop])

    def build(name, array):
        def part(index):
            start, stop, _ = index[0].indices(len(rows))
            return array[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback((len(rows), *array.shape[1:]), shardings[name], part)

    return {name: build(name, array) for name, array in local.items()}


def held(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> range:
    """Returns the rows of a global array that the devices of this process hold."""
    slices = [index[0] for index in sharding.addressable_devices_indices_map(shape).values()]
    bounds = [part.indices(shape[0]) for part in slices]
    return range(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


class Placed(NamedTuple):
    """A batch on the devices, and what the host knows of it."""

    arrays: dict[str, jax.Array]
    position: Position  # where the next batch starts: saved with the state after this step
    counts: dict[str, int]
    number: int = 0  # of the batch in the whole stream, those left out counted
    rows: Sequence[Row] = ()  # the examples in it


def stream(
    batches: Batches,
    position: Position,
    shardings: Shardings,
    *,
    number: int = 0,
    skips: Iterable[tuple[int, int]] = (),
) -> Generator[Placed, None, None]:
    """Yields batches from a position on, made two ahead in a thread. Close it.

    Args:
      number: of the first batch; skips: ranges [first, last) of numbers that are left out.
    """
    ranges = list(skips)
    ready: queue.Queue = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(item):
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work(position, number):
        try:
            while not stop.is_set():
                rows, position = batches.batch_rows(position)
                if not any(first <= number < last for first, last in ranges):
                    arrays = place(batches, rows, shardings)
                    put(Placed(arrays, position, batches.count(rows), number, rows))
                number += 1
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=work, args=(position, number), daemon=True, name="batches")
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:  # on close(): an interpreter that ends kills the thread inside XLA, and aborts
        stop.set()
        # A generator that nobody closed may be collected anywhere, in its own thread as well.
        if thread is not threading.current_thread():
            thread.join()
