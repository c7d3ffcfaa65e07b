"""Any SeqIO task goes through: text, ids (0 as well), targets alone, a converter's names."""

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest

from t5sft import errors
from t5sft.data import cache, define, prepare, reading, sources, vocab

LENGTHS = {"encoder_length": 16, "decoder_length": 8}
VILLAGE = "tasks/village/vocab.model"


@pytest.fixture
def data(tmp_path):
    """Settings of a task whose name is still to be filled in."""
    return prepare.Data(task="", vocabulary="bytes", cache_dir=str(tmp_path), **LENGTHS)


@pytest.fixture
def add(request):
    """Registers a SeqIO task as a third party would: rows of ids or text, its own preprocessors."""
    seqio = sources.load_seqio()
    import tensorflow as tf

    added = []

    def add(rows, *, preprocessors=(), vocabulary=None, splits=("train",), names=None):
        fields = names or list(rows[0])

        def dataset(split, shuffle_files=False, seed=None):
            del split, shuffle_files, seed
            spec = {
                field: tf.TensorSpec([], tf.string)
                if isinstance(value, str)
                else tf.TensorSpec([None], tf.float32 if "weights" in field else tf.int32)
                for field, value in rows[0].items()
            }
            return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=spec)

        ids = vocabulary or seqio.PassThroughVocabulary(size=291)
        features = {
            field: seqio.Feature(
                ids, add_eos=False, dtype=tf.float32 if "weights" in field else tf.int32
            )
            for field in fields
        }
        name = f"{request.node.originalname}_{len(added)}"
        added.append(name)
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(dataset, splits=splits),
            preprocessors=list(preprocessors),
            output_features=features,
        )
        return name

    yield add
    for name in added:
        seqio.TaskRegistry.remove(name)


def read(data, task, layout, split="train"):
    """The examples of a prepared task, as lists."""
    data = dataclasses.replace(data, task=task)
    found = cache.read_split(prepare.prepare_split(data, layout, split))
    examples = found.tasks[task]
    return found.card, [
        [column.tolist() for side in examples.get(i) for column in side]
        for i in range(len(examples))
    ]


ROWS = [{"inputs": [5, 0, 6], "targets": [8, 0, 9, 1]}, {"inputs": [0], "targets": [7, 1]}]
USER, ASSISTANT = 2, 3


def test_ids_go_through_as_they_are_for_an_encoder_decoder(add, data):
    card, got = read(data, add(ROWS), "encoder_decoder")
    assert got == [
        [[5, 0, 6], [0, 0, 0], [USER] * 3, [8, 0, 9, 1], [1, 1, 1, 1], [ASSISTANT] * 4],
        [[0], [0], [USER], [7, 1], [1, 1], [ASSISTANT] * 2],
    ]
    assert card["tokens"] == 10 and card["learnt_tokens"] == 6


def test_inputs_and_targets_are_one_sequence_of_a_decoder(add, data):
    task = add(ROWS)
    _, got = read(data, task, "decoder")
    assert got[0] == [
        [], [], [],
        [2, 5, 0, 6, 8, 0, 9, 1],
        [0, 0, 0, 0, 1, 1, 1, 1],
        [0, *[USER] * 3, *[ASSISTANT] * 4],
    ]  # fmt: skip
    _, got = read(dataclasses.replace(data, learn="everything"), task, "decoder")
    assert got[0][4] == [0, 1, 1, 1, 1, 1, 1, 1]
    _, got = read(dataclasses.replace(data, prompt_weight=0.5), task, "decoder")
    assert got[0][4] == [0, 0.5, 0.5, 0.5, 1, 1, 1, 1]


def test_targets_alone_are_text_to_a_decoder_and_nothing_to_an_encoder_decoder(add, data):
    task = add([{"targets": [2, 8, 9, 1]}, {"targets": [8, 1]}])
    _, got = read(data, task, "decoder")
    assert [row[3:5] for row in got] == [
        [[2, 8, 9, 1], [1, 1, 1, 1]],  # begins with the vocabulary's first token already
        [[2, 8, 1], [0, 1, 1]],
    ]
    with pytest.raises(errors.DataError, match="targets only.*an encoder-decoder needs inputs"):
        read(data, task, "encoder_decoder")


def test_the_names_of_a_feature_converter_are_known(add, data):
    row = {
        "encoder_input_tokens": [5, 6],
        "decoder_target_tokens": [8, 0, 1],
        "decoder_loss_weights": [0.0, 0.5, 1.0],
        "decoder_input_tokens": [0, 8, 0],
    }
    _, got = read(data, add([row]), "encoder_decoder")
    assert got == [[[5, 6], [0, 0], [USER] * 2, [8, 0, 1], [0, 0.5, 1], [ASSISTANT] * 3]]


def test_packed_rows_are_refused(add, data):
    row = {"decoder_target_tokens": [8, 1], "decoder_segment_ids": [1, 1]}
    with pytest.raises(errors.DataError, match="packed.*before its converter"):
        read(data, add([row]), "decoder")


def test_an_id_beyond_the_vocabulary_is_named(add, data):
    with pytest.raises(errors.DataError, match=r"id 291 is beyond the vocabulary of 291.*\[1\]"):
        read(data, add([ROWS[0], {"inputs": [3], "targets": [291]}]), "decoder")


def test_ids_of_another_vocabulary_are_refused(add, data):
    """SeqIO's own tokenising with the same vocabulary gives our ids; another is named."""
    seqio = sources.load_seqio()
    pipeline = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    rows = [{"inputs": "ab", "targets": "\u00e4"}]
    for name, theirs in (
        ("bytes", seqio.ByteVocabulary()),
        (VILLAGE, seqio.SentencePieceVocabulary(VILLAGE, extra_ids=0)),
    ):
        task = add(rows, preprocessors=pipeline, vocabulary=theirs)
        data = dataclasses.replace(data, vocabulary=name)
        _, got = read(data, task, "encoder_decoder")
        ours = vocab.load(name)
        assert got[0][0] == ours.encode("ab") and got[0][3] == ours.encode("\u00e4")
    task = add(rows, preprocessors=pipeline, vocabulary=seqio.ByteVocabulary())
    with pytest.raises(errors.ConfigError, match="another vocabulary \\(ByteVocabulary\\)"):
        read(data, task, "encoder_decoder")
    theirs = seqio.SentencePieceVocabulary(VILLAGE, extra_ids=0)
    task = add(rows, preprocessors=pipeline, vocabulary=theirs)
    data = dataclasses.replace(data, vocabulary="bytes")
    with pytest.raises(errors.ConfigError, match=f"set VOCABULARY = '{VILLAGE}'"):
        read(data, task, "encoder_decoder")


def test_nothing_is_trimmed_and_preprocessors_that_need_lengths_get_them(add, data):
    """SeqIO would cut the end token off a long target and count nothing."""
    seen = []

    def needs(dataset, sequence_length, output_features):
        seen.append((dict(sequence_length), sorted(output_features)))
        return dataset

    long = {"inputs": [3], "targets": [*range(10, 19), 1]}
    card, got = read(data, add([ROWS[0], long], preprocessors=[needs]), "encoder_decoder")
    assert seen == [({"inputs": 16, "targets": 8}, ["inputs", "targets"])]
    assert len(got) == 1 and card["dropped: too long"] == 1
    longer = dataclasses.replace(data, decoder_length=10)
    _, got = read(longer, add([ROWS[0], long], preprocessors=[needs]), "encoder_decoder")
    assert got[1][3] == long["targets"]


def test_random_preprocessors_draw_the_same_each_time_and_otherwise_by_another_seed(add, data):
    seqio = sources.load_seqio()
    import tensorflow as tf

    @seqio.map_over_dataset(num_seeds=1)
    def noise(row, seed):
        drawn = tf.random.stateless_uniform([4], seed, 3, 200, tf.int32)
        return {**row, "targets": drawn}

    task = add(ROWS, preprocessors=[noise])
    first, again = (
        read(dataclasses.replace(data, cache_dir=f"{data.cache_dir}/{n}"), task, "decoder")
        for n in range(2)
    )
    other = read(dataclasses.replace(data, seed=1), task, "decoder")
    assert first[1] == again[1] != other[1]


def test_chunks_do_not_change_what_is_read(add, data, monkeypatch):
    rows = [{"inputs": [3 + n], "targets": [n, 0, 1][n % 3 :]} for n in range(50)]
    task = add(rows)
    _, whole = read(data, task, "decoder")
    monkeypatch.setattr(reading, "CHUNK", 7)
    found = read(dataclasses.replace(data, cache_dir=data.cache_dir + "/2"), task, "decoder")
    assert found[1] == whole


def test_a_mixture_of_other_peoples_tasks_keeps_its_rates(add, data):
    seqio = sources.load_seqio()
    first, second = add(ROWS), add(ROWS[:1], splits=("train", "test"))
    rates = [(first, functools.partial(lambda task, x: x, x=3)), (second, 0.5)]
    seqio.MixtureRegistry.add("theirs", rates)
    try:
        data = dataclasses.replace(data, task="theirs")
        split = cache.read_split(prepare.prepare_split(data, "decoder", "train"))
        assert split.rates == {first: 3.0, second: 0.5}
        held_out = cache.read_split(prepare.prepare_split(data, "decoder", "test"))
        assert list(held_out.tasks) == [second]
        with pytest.raises(errors.ConfigError, match="no split 'dev'.*test.*train"):
            prepare.prepare_split(data, "decoder", "dev")
    finally:
        seqio.MixtureRegistry.remove("theirs")


def test_what_fails_in_a_tasks_own_pipeline_is_told(add, data):
    import tensorflow as tf

    def broken(error):
        def fails(x):
            raise error

        return lambda ds: ds.map(
            lambda row: {**row, "inputs": tf.numpy_function(fails, [row["inputs"]], tf.int32)}
        ).map(lambda row: {**row, "inputs": tf.ensure_shape(row["inputs"], [None])})

    task = add(ROWS, preprocessors=[broken(ZeroDivisionError("by nought"))])
    with pytest.raises(errors.DataError, match="ZeroDivisionError: by nought; task .*'train'"):
        read(data, task, "decoder")
    task = add(ROWS, preprocessors=[broken(errors.DataError("no column; f.csv:7; mend it"))])
    with pytest.raises(errors.DataError, match=r"^no column; f\.csv:7; mend it$"):
        read(data, task, "decoder")


def test_texts_of_a_task_of_ids_are_what_evaluation_reads(add):
    rows = [{"inputs_pretokenized": "ask", "targets_pretokenized": "say", **ROWS[0]}]
    task = add(rows, names=["inputs", "targets"])
    ((number, record),) = define.read_records(task, "train")
    assert number == 0 and [m.content for m in record.messages] == ["ask", "say"]


def test_ids_are_told_by_their_type_and_rank():
    import tensorflow as tf

    def features(**spec):
        return reading.ids_features({k: tf.TensorSpec(*v) for k, v in spec.items()})

    assert features(inputs=([], tf.string), targets=([], tf.string)) == []
    assert features(inputs=([None], tf.float32), targets=([None], tf.float32)) == []
    assert features(targets=([None], tf.int64), text=([], tf.string)) == ["targets"]
    assert np.array_equal(reading._arrays(np.array([[1, 2]]))[0], [1, 2])


def test_a_chunk_crosses_to_another_process_without_pickle():
    ids = [np.array([3, 0, 7], np.int32), np.array([], np.int32)]
    weights = [np.array([0.0, 0.5, 1.0], np.float32), np.zeros(0, np.float32)]
    for chunk in (
        reading.Chunk(0, False, {"inputs": [b"a\x00\xff", "ä".encode()], "targets": [b"", b"b"]}),
        reading.Chunk(7, True, {"targets": ids, "weights": weights}),
    ):
        data = reading.to_bytes(chunk)
        got = reading.from_bytes(data)
        assert got[:2] == chunk[:2] and got.columns.keys() == chunk.columns.keys()
        for name, column in chunk.columns.items():
            for one, other in zip(got.columns[name], column, strict=True):
                assert type(one) is type(other)
                np.testing.assert_array_equal(one, other)
                assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
        assert reading.to_bytes(got) == data
    with pytest.raises(TypeError, match="object"):
        reading.to_bytes(reading.Chunk(0, False, {"text": [object()]}))


def test_records_are_read_as_seqio_would_carry_them(data, tmp_path, monkeypatch):
    """Straight from their source, or through the task's pipeline: the same chunks to the byte."""
    rows = [{"instruction": f"Say {i}.", "output": "" if i % 7 == 3 else f"{i}"} for i in range(50)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    source = sources.from_files(path, format="alpaca", held_out_every=5)
    name = define.add_task("carried", source, fields=("record",), replace=True)
    monkeypatch.setattr(reading, "CHUNK", 16)

    def read(split, num_epochs):
        found = reading.chunks(name, split, lengths=(0, 0), num_epochs=num_epochs)
        return [reading.to_bytes(chunk) for chunk in itertools.islice(found, 9)]

    asked = [("train", 1), ("validation", 1), ("train", 2), ("train", None)]
    straight = [read(*one) for one in asked]
    assert [len(chunks) for chunks in straight] == [3, 1, 5, 9]
    monkeypatch.setattr(reading, "_made", lambda task, split: None)
    assert [read(*one) for one in asked] == straight


def test_a_task_with_preprocessors_of_its_own_goes_through_seqio(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "Once."}) + "\n" + json.dumps({"text": "Twice."}))
    seqio = sources.load_seqio()
    name = define.add_task("filtered", sources.from_files(path), fields=("record",), replace=True)
    task = seqio.TaskRegistry.get(name)
    seqio.TaskRegistry.remove(name)
    keep = seqio.map_over_dataset(lambda row: {"record": row["record"] + b" "})
    seqio.TaskRegistry.add_provider(name, task.replace(preprocessors=[keep]))
    (chunk,) = reading.chunks(name, "train", lengths=(0, 0))
    assert [value[-1:] for value in chunk.columns["record"]] == [b" ", b" "]
    seqio.TaskRegistry.remove(name)
