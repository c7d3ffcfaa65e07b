"""A streamed task gives the same batches each time, from any position, without being prepared."""

import dataclasses
import io
import json
import struct
import types

import numpy as np
import pytest

from t5sft import errors
from t5sft.data import batches, prepare, reading, stream
from t5sft.data.preparing import parts, workshop

DATA = prepare.Data(
    task="toy", vocabulary="bytes", modules=("toy_task",), encoder_length=32, decoder_length=16,
    streaming=True,
)  # fmt: skip
OPTIONS = {"layout": "encoder_decoder", "split": "train", "batch_size": 3, "start_id": 0, "seed": 1}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """The child's part runs here: six blocks of two chunks of eight examples, no process."""
    monkeypatch.setattr(reading, "CHUNK", 8)
    monkeypatch.setattr(stream, "CHUNKS", 2)
    pool = workshop.Pool
    monkeypatch.setattr(workshop, "Pool", lambda _: pool(0))

    class Child:
        def __init__(self, command, **_):
            class Enough(Exception):
                pass

            class Out(io.BytesIO):
                def flush(self):
                    if self.tell() and self.getvalue().count(b"PK\x05\x06") >= 12:
                        raise Enough

            out = Out()
            try:
                stream.send(json.loads(command[-1]), out)
            except Enough:
                pass
            self.stdout = io.BytesIO(out.getvalue())

        def kill(self):
            pass

        def communicate(self):
            pass

        def wait(self):
            return 7

    monkeypatch.setattr(stream, "subprocess", types.SimpleNamespace(Popen=Child, PIPE=0))


def take(source, num, position=None):
    position = position or batches.Position()
    out = []
    for _ in range(num):
        rows, following = source.batch_rows(position)
        out.append((position, source.convert(rows), source.count(rows)))
        position = following
    return out


def same(first, second):
    for (at, arrays, counts), (there, others, told) in zip(first, second, strict=True):
        assert at == there and counts == told
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[name])


def test_batches_are_the_same_again_and_from_any_position():
    whole = take(stream.Streamed(DATA, **OPTIONS), 9)
    same(whole, take(stream.Streamed(DATA, **OPTIONS), 9))
    assert len({at.block for at, _, _ in whole}) > 2
    for start in (1, 4, 8):
        resumed = stream.Streamed(DATA, **OPTIONS)
        same(whole[start:], take(resumed, 9 - start, whole[start][0]))
    other = take(stream.Streamed(DATA, **OPTIONS | {"seed": 2}), 1)[0][1]
    assert not np.array_equal(other["decoder_target_tokens"], whole[0][1]["decoder_target_tokens"])


def test_it_holds_the_examples_of_the_pipeline_in_blocks():
    """Block b packs examples 16 b to 16 b + 15 of the mixture, each once, whole."""
    source = stream.Streamed(DATA, **OPTIONS)
    expected = []
    for chunk in reading.chunks("toy", "train", lengths=(32, 16), num_epochs=None):
        expected.append(parts.tokenise(chunk, "toy", DATA, "encoder_decoder").arrays)
        if len(expected) == 4:
            break
    for block in (0, 1):
        want = [
            tuple(ids)
            for one in expected[2 * block : 2 * block + 2]
            for ids in np.split(one["targets.ids"], np.cumsum(one["targets.lengths"])[:-1])
        ]
        rows = source.rows(block)
        got = [tuple(source.example(*named).targets.ids) for row in rows for named in row]
        assert sorted(got) == sorted(map(tuple, want)) and len(got) == 16
        assert sum(source.count(rows)[key] for key in ("examples",)) == 16


def test_a_pipeline_that_gives_other_examples_is_refused(monkeypatch):
    source = stream.Streamed(DATA, **OPTIONS)
    identity = source.identity()
    assert identity == stream.Streamed(DATA, **OPTIONS).identity()
    assert identity["seed"] == 1 and len(identity["first_examples"]) == 16
    chunks = reading.chunks
    monkeypatch.setattr(
        reading, "chunks", lambda *a, **k: (c._replace(columns={**c.columns, "x": [b""] * 8})
                                            for c in chunks(*a, **k))
    )  # fmt: skip
    assert stream.Streamed(DATA, **OPTIONS).identity() != identity
    with pytest.raises(errors.DataError, match="other examples than before; task 'toy'"):
        source.rows(3)


def test_errors_of_the_child_come_back_and_its_death_is_told(monkeypatch):
    wrong = dataclasses.replace(DATA, task="toi")

    class Child:
        def __init__(self, *_, **__):
            body = b"CONFIG no task; here; there"
            self.stdout = io.BytesIO(struct.pack("<cQ", b"e", len(body)) + body)

    monkeypatch.setattr(stream, "subprocess", types.SimpleNamespace(Popen=Child, PIPE=0))
    with pytest.raises(errors.ConfigError, match="^no task; here; there$"):
        stream.Streamed(wrong, **OPTIONS).identity()


def test_a_stream_is_not_prepared(monkeypatch):
    """`t5sft inspect` and `t5sft prepare` would have read an endless pipeline for ever."""
    data = dataclasses.replace(DATA, streaming=True)
    with pytest.raises(errors.ConfigError, match="'train' is streamed.*--split validation"):
        prepare.Preparation(data, "decoder", ["train"])
    asked = []

    class Preparation:
        def __init__(self, data, layout, splits, workers):
            asked.extend(splits)
            raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "Preparation", Preparation)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(model=types.SimpleNamespace(layout="decoder"), data=data)
    assert asked == ["validation"]


def test_what_a_stream_cannot_do_is_refused():
    with pytest.raises(errors.ConfigError, match="a stream has no end"):
        next(stream.Streamed(DATA, **OPTIONS).once())
    with pytest.raises(errors.ConfigError, match="mixing needs the sizes"):
        stream.Streamed(DATA, **OPTIONS, mixing=lambda sizes: sizes)
    none = dataclasses.replace(DATA, decoder_length=1)
    with pytest.raises(errors.DataError, match="no example left of 16"):
        stream.Streamed(none, **OPTIONS).rows(0)
