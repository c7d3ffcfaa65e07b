"""Batches are a function of (data, seed, step): mixture, packing, converters, hosts."""

import collections
import gc
import itertools
import json
import sys
import threading
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from t5sft import errors
from t5sft.data import batches, cache, mixture, preprocess


def tokens(ids, weights=None):
    weights = [1.0] * len(ids) if weights is None else weights
    return preprocess.Tokens(list(ids), list(weights), [3] * len(ids))


def split(tmp_path, layout="encoder_decoder", sizes=(40, 25, 7), rates=(1.0, 1.0, 2.0), seed=0):
    """A prepared split of random lengths; token 100 * task + example says where a token is from."""
    random = np.random.default_rng(seed)
    tasks = {}
    for task, size in enumerate(sizes):
        made = []
        for i in range(size):
            n, m = random.integers(1, 12), random.integers(2, 6)
            inputs = tokens([100 * task + i + 3] * n, [0.0] * n)
            targets = tokens([100 * task + i + 3] * m)
            if layout == "decoder":
                inputs, targets = preprocess.EMPTY, inputs + targets
            made.append(preprocess.Example(inputs, targets))
        cache.write_task(tmp_path / f"task{task}", made, list(range(size)))
        counts = {"read": size, "kept": size}
        tasks[f"task{task}"] = {"rate": rates[task], "content": str(tmp_path), **counts}
    (tmp_path / "card.json").write_text(json.dumps({"tasks": tasks}))
    return cache.read_split(tmp_path)


def source(prepared, layout="encoder_decoder", **options):
    settings_ = {
        "batch_size": 4, "encoder_length": 32, "decoder_length": 24, "start_id": 0, "seed": 5,
    }  # fmt: skip
    return batches.Batches(prepared, layout=layout, **{**settings_, **options})


@pytest.mark.parametrize("layout", ["encoder_decoder", "decoder"])
def test_no_segment_predicts_the_first_token_of_the_next(tmp_path, layout):
    """Each example has one token value: inputs and targets of a place must have the same."""
    made = source(split(tmp_path, layout), layout)
    batch = made.convert(made.rows(0)[:16])
    segments = batch["decoder_segment_ids"]
    inside = (segments > 0) & (batch["decoder_positions"] > 0)
    assert np.all(batch["decoder_input_tokens"][inside] == batch["decoder_target_tokens"][inside])
    starts = np.diff(segments, axis=1, prepend=0) > 0
    assert np.all(batch["decoder_positions"][starts] == 0)
    if layout == "encoder_decoder":
        assert np.all(batch["decoder_input_tokens"][starts] == 0)
        for b, segment in {(b, s) for b, s in enumerate(segments.max(axis=1))}:
            mine = batch["encoder_segment_ids"][b] == segment
            theirs = segments[b] == segment
            values = batch["encoder_input_tokens"][b][mine], batch["decoder_target_tokens"][b]
            assert set(values[0]) == set(values[1][theirs])


def test_batch_is_a_function_of_the_step(tmp_path):
    prepared = split(tmp_path)
    walk, position, seen = source(prepared), batches.Position(), []
    per_block = len(walk.rows(0))
    for step in range(per_block // 4 + 5):  # past the first block
        assert position == walk.position(step)
        rows, position = walk.batch_rows(position)
        seen.append(rows)
    fresh = source(prepared)
    for step in (0, 3, per_block // 4, len(seen) - 1):
        assert fresh.batch_rows(fresh.position(step))[0] == seen[step]
    assert source(prepared, seed=6).batch_rows(batches.Position())[0] != seen[0]


def test_a_pass_for_evaluation_holds_every_example_once(tmp_path):
    made = source(split(tmp_path))
    seen = [pair for rows in made.once() for row in rows for pair in row]
    assert len(seen) == len(set(seen)) == 40 + 25 + 7
    assert all(len(rows) == 4 for rows in made.once())


def test_unpacked_rows_hold_one_example(tmp_path):
    made = source(split(tmp_path), pack=False)
    assert {len(row) for row in made.rows(0)} == {1}


def test_placed_on_devices_equals_the_rows(tmp_path):
    made = source(split(tmp_path), batch_size=8)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"))
    shardings = {n: NamedSharding(mesh, PartitionSpec("data")) for n in made.shapes()}
    rows, _ = made.batch_rows(batches.Position())
    placed = batches.place(made, rows, shardings)
    for name, array in made.convert(rows).items():
        assert placed[name].sharding == shardings[name]
        np.testing.assert_array_equal(placed[name], array)
        assert made.shapes()[name] == jax.ShapeDtypeStruct(array.shape, array.dtype)


def test_stream_goes_on_from_any_position_and_passes_errors_on(tmp_path):
    made = source(split(tmp_path))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = {name: sharding for name in made.shapes()}
    stream = batches.stream(made, batches.Position(), shardings)
    first = [next(stream) for _ in range(4)]
    again = batches.stream(made, first[1].position, shardings)
    for expected in first[2:]:
        got = next(again)
        assert got.position == expected.position and got.counts == expected.counts
        for name in expected.arrays:
            np.testing.assert_array_equal(got.arrays[name], expected.arrays[name])
    made.convert = lambda rows: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(batches.stream(made, batches.Position(), shardings))


def test_a_stream_may_be_collected_by_its_own_thread(tmp_path, monkeypatch):
    """Garbage of a failed run is collected in whatever thread allocates: it joined itself."""
    made = source(split(tmp_path))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = {name: sharding for name in made.shapes()}
    is_garbage, done, unraisable = threading.Event(), threading.Event(), []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    batch_rows = made.batch_rows

    def collecting(position):
        if position.row:
            is_garbage.wait()
            gc.collect()
            done.set()
        return batch_rows(position)

    made.batch_rows = collecting
    stream = batches.stream(made, batches.Position(), shardings)
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    gc.disable()
    try:
        del stream, cycle
        is_garbage.set()
        assert done.wait(timeout=60)
    finally:
        gc.enable()
    assert not unraisable


def test_counts_are_those_of_the_arrays(tmp_path):
    for layout in ("encoder_decoder", "decoder"):
        (tmp_path / layout).mkdir()
        made = source(split(tmp_path / layout, layout), layout)
        rows, _ = made.batch_rows(batches.Position())
        arrays, counts = made.convert(rows), made.count(rows)
        places = sum(a.size for n, a in arrays.items() if n.endswith("segment_ids"))
        tokens_ = sum((a > 0).sum() for n, a in arrays.items() if n.endswith("segment_ids"))
        assert (counts["places"], counts["tokens"]) == (places, tokens_)
        assert counts["examples"] == sum(map(len, rows))


class Host:
    """One of several hosts, as a sharding tells it: which rows its devices hold."""

    def __init__(self, number: int, of: int):
        self._number, self._of = number, of

    def addressable_devices_indices_map(self, shape):
        size, devices = shape[0] // self._of, 2
        parts = np.split(np.arange(self._number * size, (self._number + 1) * size), devices)
        return {d: (slice(int(p[0]), int(p[-1]) + 1), slice(None)) for d, p in enumerate(parts)}


def consumed(made, position, num_hosts):
    """The (task, example) of each segment of a batch, told by the tokens each host makes."""
    rows, after = made.batch_rows(position)
    out = []
    for number in range(num_hosts):
        here = batches.held(Host(number, num_hosts), (len(rows), 24))
        assert len(here) == len(rows) // num_hosts
        arrays = made.convert(rows[here.start : here.stop])
        for ids, segments in zip(
            arrays["decoder_target_tokens"], arrays["decoder_segment_ids"], strict=True
        ):
            first = np.flatnonzero(np.diff(segments, prepend=0) > 0)
            out.append([divmod(int(token) - 3, 100) for token in ids[first]])
    return out, after


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_killed_and_resumed_on_any_hosts_the_same_examples_are_seen(tmp_path_factory, data):
    """Several epochs of each task, in blocks of 32 draws; whole blocks hold whole epochs."""
    prepared = split(tmp_path_factory.mktemp("split"))
    steps = 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "BLOCK", 32)
        whole, position, ends = [], batches.Position(), []
        made = source(prepared, batch_size=8)
        for _ in range(steps):
            rows, position = made.batch_rows(position)
            whole += [[(int(task[4:]), i) for task, i in row] for row in rows]
            ends.append(position)
        seen, done, saved = [], 0, json.dumps(batches.Position())
        while done < steps:
            # Killed somewhere after the step it saved: what it did since is done again.
            last, num_hosts = (
                data.draw(st.integers(done + 1, steps)),
                data.draw(st.sampled_from([1, 2, 4])),
            )
            made, position = source(prepared, batch_size=8), batches.Position(*json.loads(saved))
            lost = data.draw(st.integers(0, last - done - 1))
            for step in range(done, last):
                rows, position = consumed(made, position, num_hosts)
                if step < last - lost:
                    seen += rows
                    saved = json.dumps(position)
            done = last - lost
        assert seen == whole
        assert batches.Position(*json.loads(saved)) == ends[-1]
        first_rows = sum(len(made.rows(block)) for block in range(ends[-1].block))
    counts = collections.Counter(itertools.chain.from_iterable(whole[:first_rows]))
    for task, size in enumerate((40, 25, 7)):
        times = [counts[task, i] for i in range(size)]
        assert max(times) - min(times) <= 1 and min(times) >= 2


def with_units(tmp_path, layout, offsets):
    """The split, its first task's examples in units that begin at `offsets`."""
    split(tmp_path, layout)
    np.save(tmp_path / "task0" / "units.npy", np.array(offsets))
    return cache.read_split(tmp_path)


@pytest.mark.parametrize("layout", ["encoder_decoder", "decoder"])
def test_a_unit_is_drawn_and_packed_whole(tmp_path, layout):
    offsets = [0, 2, 4, 5, 8, *range(10, 41, 2)]
    made = source(
        with_units(tmp_path, layout, offsets), layout, encoder_length=48, decoder_length=64
    )
    unit_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    drawn = collections.Counter()
    for row in made.rows(0) + [row for rows in made.once() for row in rows]:
        for (task, _), group in itertools.groupby(row, lambda e: (e[0], e[0] == "task0")):
            numbers = [i for _, i in group]
            while task == "task0" and numbers:
                unit = unit_of[numbers[0]]
                size = offsets[unit + 1] - offsets[unit]
                assert numbers[:size] == list(range(offsets[unit], offsets[unit + 1]))
                drawn[unit] += 1
                numbers = numbers[size:]
    assert len(drawn) == len(offsets) - 1 and max(drawn.values()) - min(drawn.values()) <= 1
    rows, _ = made.batch_rows(batches.Position())
    assert made.count(rows)["tokens"] == (made.convert(rows)["decoder_segment_ids"] > 0).sum() + (
        (made.convert(rows)["encoder_segment_ids"] > 0).sum() if layout != "decoder" else 0
    )


def test_a_unit_longer_than_a_row_is_told(tmp_path):
    prepared = with_units(tmp_path, "decoder", [0, 20, *range(21, 41)])
    with pytest.raises(
        errors.DataError, match=r"1 units do not fit a row.*task 'task0', example 0"
    ):
        source(prepared, "decoder")


def test_mixing_decides_the_rates(tmp_path):
    prepared = split(tmp_path, sizes=(40, 20, 10), rates=(1.0, 1.0, 1.0))
    asked = []

    def mixing(sizes):
        asked.append(sizes)
        return {"task2": 8, "task1": 1, "task0": 1}

    made = source(prepared, mixing=mixing)
    assert asked == [{"task0": 40, "task1": 20, "task2": 10}]
    counts = collections.Counter(task for row in made.rows(0) for task, _ in row)
    assert counts == pytest.approx({"task0": 1638.4, "task1": 1638.4, "task2": 13107.2}, abs=1)


def test_identity_tells_what_changes_the_stream(tmp_path):
    (tmp_path / "other").mkdir()
    prepared = split(tmp_path)
    same = source(prepared).identity()
    assert json.loads(json.dumps(same)) == same == source(prepared).identity()
    changes = {
        "data": source(split(tmp_path / "other")),
        "rates": source(prepared, mixing=lambda sizes: sizes),
        "seed": source(prepared, seed=6),
        "batch_size": source(prepared, batch_size=8),
        "pack": source(prepared, pack=False),
    }
    for name, made in changes.items():
        assert [key for key, value in made.identity().items() if value != same[key]] == [name]


def test_blocks_grow_where_rows_are_long(tmp_path):
    made = source(split(tmp_path), encoder_length=1 << 14, decoder_length=1 << 14)
    assert len(made.rows(0)) >= 60
    assert sum(map(len, made.rows(0))) == mixture.BLOCK << 4


def test_an_early_block_after_later_ones_is_the_same(tmp_path):
    """The blocks kept were the last ones by number: going back beyond them failed."""
    made = source(split(tmp_path))
    first = made.rows(0)
    for block in (5, 6, 7, 8):
        made.rows(block)
    assert made.rows(0) == first


@pytest.mark.slow
def test_the_first_batch_of_a_late_step_is_made_at_once():
    """A million examples in 50 tasks: 0.3 s on an idle core, for whatever position."""
    random, size = np.random.default_rng(0), 20_000
    ends = np.cumsum([0, *np.clip(random.lognormal(4, 0.8, size), 2, 500).astype(int)])
    columns = {
        f"{side}.{name}": np.ones(ends[-1], dtype)
        for side in ("inputs", "targets")
        for name, dtype in (("ids", np.int32), ("weights", np.float32), ("roles", np.int8))
    }
    one = cache.Examples(columns, ends, ends, np.arange(size))
    tasks = {f"task{task}": one for task in range(50)}
    prepared = cache.Split(tasks, {task: 1.0 + i for i, task in enumerate(tasks)}, {}, "")
    begun = time.process_time()
    made = source(prepared, encoder_length=512, decoder_length=512)
    rows, _ = made.batch_rows(batches.Position(block=10**9, row=100))
    arrays = made.convert(rows)
    assert time.process_time() - begun < 2.0
    assert arrays["decoder_segment_ids"].any(axis=1).all()
