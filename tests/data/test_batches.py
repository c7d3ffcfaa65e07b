"""Batches are a function of (data, seed, step): mixture, packing, converters, hosts."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5sft.data import batches, cache, converters, preprocess


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
        tasks[f"task{task}"] = {"rate": rates[task], "read": size, "kept": size}
    (tmp_path / "card.json").write_text(cache.json.dumps({"tasks": tasks}))
    return cache.read_split(tmp_path)


def source(prepared, layout="encoder_decoder", **options):
    settings_ = {
        "batch_size": 4, "encoder_length": 32, "decoder_length": 24, "start_id": 0, "seed": 5,
    }  # fmt: skip
    return batches.Batches(prepared, layout=layout, **{**settings_, **options})


def test_converter_encoder_decoder_as_documented():
    rows = [
        [
            preprocess.Example(tokens([5, 6, 1], [0, 0, 0]), tokens([8, 4, 1])),
            preprocess.Example(tokens([7, 1], [0, 0]), tokens([9, 1])),
        ]
    ]
    batch = converters.encoder_decoder(rows, encoder_length=6, decoder_length=8, start_id=0)
    expected = {
        "encoder_input_tokens": [5, 6, 1, 7, 1, 0],
        "encoder_segment_ids": [1, 1, 1, 2, 2, 0],
        "encoder_positions": [0, 1, 2, 0, 1, 0],
        "decoder_target_tokens": [8, 4, 1, 9, 1, 0, 0, 0],
        "decoder_input_tokens": [0, 8, 4, 0, 9, 0, 0, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0, 0, 0],
        "decoder_segment_ids": [1, 1, 1, 2, 2, 0, 0, 0],
        "decoder_positions": [0, 1, 2, 0, 1, 0, 0, 0],
    }
    assert {name: array[0].tolist() for name, array in batch.items()} == expected


def test_converter_decoder_as_documented():
    first = preprocess.Example(preprocess.EMPTY, tokens([3, 7, 8, 1], [0, 0, 1, 1]))
    second = preprocess.Example(preprocess.EMPTY, tokens([3, 9, 1], [0, 1, 1]))
    batch = converters.decoder([[first, second]], decoder_length=7)
    expected = {
        "decoder_input_tokens": [3, 7, 8, 3, 9, 0, 0],
        "decoder_target_tokens": [7, 8, 1, 9, 1, 0, 0],
        "decoder_loss_weights": [0, 1, 1, 1, 1, 0, 0],
        "decoder_segment_ids": [1, 1, 1, 2, 2, 0, 0],
        "decoder_positions": [0, 1, 2, 0, 1, 0, 0],
    }
    assert {name: array[0].tolist() for name, array in batch.items()} == expected


def test_a_real_token_with_the_id_of_padding_is_kept():
    row = [preprocess.Example(preprocess.EMPTY, tokens([3, 0, 0, 1], [0, 1, 1, 1]))]
    batch = converters.decoder([row], decoder_length=5)
    assert batch["decoder_target_tokens"][0].tolist() == [0, 0, 1, 0, 0]
    assert batch["decoder_loss_weights"][0].tolist() == [1, 1, 1, 0, 0]
    assert batch["decoder_segment_ids"][0].tolist() == [1, 1, 1, 0, 0]


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
