"""Streaming: batches from a SeqIO task that is too large to prepare, or has no end.

A child process reads the task's pipeline in its own order, for ever, and tokenises; this one packs
block after block as `batches` does. A position is (block, row) as well, but going back to it means
reading the pipeline from its start: no example before it is tokenised again, but all are read. That
is exact only if the pipeline gives the same examples every time. Its first chunk is compared, so
that a pipeline that shuffles without a seed is refused, not resumed wrongly. Order and mixing are
the pipeline's own; within a block the rows are shuffled.
"""

import dataclasses
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
from collections import deque
from typing import Any

import msgpack
import numpy as np

from t5sft import errors
from t5sft.data import batches, cache, mixture, packing, prepare, reading, units, vocab
from t5sft.data.preparing import finding, parts, workshop

CHUNKS = 4  # of the pipeline in a block
_KEPT = 8  # blocks in memory
_HEAD = struct.Struct("<cQ")  # kind of a frame and its length: (f)irst, (b)lock, (e)rror


class Streamed(batches.Batches):
    """The training batches of a split that is read as it goes. Close it."""

    def __init__(
        self, data: prepare.Data, *, layout: str, split: str, batch_size: int, start_id: int,
        seed: int, pack: bool = True, mixing: mixture.Mixing | None = None,
    ):  # fmt: skip
        if mixing is not None:
            raise errors.ConfigError(
                "mixing needs the sizes of tasks; streaming; mix in SeqIO, or do not stream"
            )
        self._data, self._layout, self._of, self._seed = data, layout, split, seed
        self.batch_size, self._start_id, self._pack = batch_size, start_id, pack
        self._lengths = (data.encoder_length, data.decoder_length)
        self._child: subprocess.Popen | None = None
        self._next, self._first = 0, ""
        self._blocks: dict[int, tuple[cache.Examples, units.Units]] = {}
        self._rows: dict[int, list[batches.Row]] = {}

    def identity(self) -> dict:
        """Returns what a position belongs to; starts the pipeline to know its first examples."""
        if not self._first:
            self._start(0)
        return {
            "stream": "read as it goes",
            "data": finding.stem(self._data, self._layout, self._of),
            "first_examples": self._first,
            "seed": self._seed,
            "batch_size": self.batch_size,
            "pack": self._pack,
        }

    def rows(self, block: int) -> list[batches.Row]:
        """Returns the packed rows of a block; examples are named by it."""
        if block not in self._rows:
            examples, every = self._block(block)
            numbers = np.arange(len(every))
            packed: Any = numbers[:, None]
            if self._pack:
                packed = packing.pack(every.costs, self._lengths)
            key = mixture.key(self._seed, 3, block)
            order = mixture.permutation(len(packed), key, np.arange(len(packed)))
            self._rows[block] = [sum(every.examples(packed[row]), []) for row in order]
        return self._rows[block]

    def _plan(self, block: int):
        return self.rows(block)

    def _named(self, rows):
        return list(rows)

    def example(self, task: str, i: int):
        """Returns one example of a block."""
        return self._blocks[int(task)][0].get(i)

    def count(self, rows: list[batches.Row]) -> dict[str, int]:
        """Returns examples, tokens and places (tokens and padding) of rows."""
        named = [example for row in rows for example in row]
        tokens = sum(int(self._blocks[int(task)][1].places([(task, i)]).sum()) for task, i in named)
        width = self._lengths[1] + (self._lengths[0] if self._layout != "decoder" else 0)
        return {"examples": len(named), "tokens": tokens, "places": len(rows) * width}

    def once(self):
        """A stream has no end."""
        raise errors.ConfigError("a stream has no end; evaluate on a split that is prepared")

    def close(self):
        """Ends the child process."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _block(self, block: int) -> tuple[cache.Examples, units.Units]:
        if block not in self._blocks:
            if self._child is None or block != self._next:
                self._start(block)
            made = _examples(self._receive(b"b"))
            if not len(made):
                raise errors.DataError(
                    f"no example left of {CHUNKS * reading.CHUNK}; task {self._data.task!r}; raise "
                    "encoder_length/decoder_length or see too_long"
                )
            self._blocks[block] = (made, units.Units({str(block): made}, self._layout))
            self._next = block + 1
            for old in sorted(self._blocks)[:-_KEPT]:
                del self._blocks[old]
                self._rows.pop(old, None)
        return self._blocks[block]

    def _start(self, block: int):
        """Starts the pipeline; what lies before `block` is read and left."""
        self.close()
        request = {
            "data": dataclasses.asdict(self._data), "layout": self._layout, "split": self._of,
            "block": block,
        }  # fmt: skip
        self._child = subprocess.Popen(
            [sys.executable, "-m", "t5sft.data.stream", json.dumps(request)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self._next = block
        first = self._receive(b"f").decode()
        if self._first and first != self._first:
            raise errors.DataError(
                f"the pipeline gave other examples than before; task {self._data.task!r}; make it "
                "deterministic (no shuffle without a seed), or prepare it"
            )
        self._first = first

    def _receive(self, wanted: bytes) -> bytes:
        assert self._child is not None and self._child.stdout is not None
        head = self._child.stdout.read(_HEAD.size)
        if len(head) < _HEAD.size:
            code = self._child.wait()
            raise errors.DataError(f"reading the stream failed; code {code}; see above")
        kind, length = _HEAD.unpack(head)
        body = self._child.stdout.read(length)
        if kind == b"e":
            name, _, message = body.decode().partition(" ")
            raise prepare.RAISED.get(name, errors.DataError)(message)
        assert kind == wanted
        return body


def _examples(body: bytes) -> cache.Examples:
    """Returns the examples of a block, from the arrays of its parts."""
    made = [dict(np.load(io.BytesIO(part))) for part in msgpack.unpackb(body)]
    column = {key: np.concatenate([one[key] for one in made]) for key in made[0]}
    ends = {
        side: np.concatenate([[0], np.cumsum(column.pop(f"{side}.lengths"))])
        for side in ("inputs", "targets")
    }
    bounds = np.concatenate([[0], np.cumsum(column.pop("units"))])
    labels, numbers = column.pop("labels"), column.pop("numbers")
    has_labels = not np.isnan(labels).all()
    return cache.Examples(column, ends["inputs"], ends["targets"], numbers, bounds,
                          labels if has_labels else None)  # fmt: skip


def send(request: dict, out) -> None:
    """The child process: writes the blocks of a split, from `block` on, until nobody reads.

    Frames: first what stands for the first chunk, then blocks, each a list of parts.
    """
    data, layout, split = prepare.Data(**request["data"]), request["layout"], request["split"]
    first_wanted = request["block"] * CHUNKS
    with workshop.Pool(None) as pool:
        prepare.register(data)
        waiting: deque = deque()
        block: list[bytes] = []
        lengths = (data.encoder_length, data.decoder_length)
        for chunk in reading.chunks(
            data.task, split, lengths=lengths, seed=data.seed, num_epochs=None,
            vocabulary=vocab.load(data.vocabulary),
        ):  # fmt: skip
            if not chunk.number:
                _frame(out, b"f", hashlib.sha256(reading.to_bytes(chunk)).hexdigest()[:16].encode())
            if chunk.number >= first_wanted:
                waiting.append(pool.submit(tokenise, reading.to_bytes(chunk), data, layout))
            while len(waiting) > 2 * pool.size + 1:
                block.append(waiting.popleft().result())
                if len(block) == CHUNKS:
                    _frame(out, b"b", msgpack.packb(block))
                    block = []


def tokenise(chunk: bytes, data: prepare.Data, layout: str) -> bytes:
    """Returns the arrays of a chunk's part, as the bytes of an .npz file."""
    part = parts.tokenise(reading.from_bytes(chunk), data.task, data, layout)
    left = {"hashes", "answers", "groups"}
    out = io.BytesIO()
    arrays: dict[str, Any] = {k: v for k, v in part.arrays.items() if k not in left}
    np.savez(out, **arrays)
    return out.getvalue()


def _frame(out, kind: bytes, body: bytes):
    out.write(_HEAD.pack(kind, len(body)) + body)
    out.flush()


def main(argument: str) -> int:
    """Runs `send` on stdout; other prints go to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        send(json.loads(argument), out)
    except BrokenPipeError:
        return 0
    except errors.T5sftError as error:
        _frame(out, b"e", f"{error.name} {error}".replace("\n", " ").encode())
        return error.exit_code
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main(sys.argv[1]))
