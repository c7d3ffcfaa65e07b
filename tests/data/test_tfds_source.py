"""Conversations of TFDS come out as they went in."""

import functools

import pytest

from t5sft import errors
from t5sft.data import readers, records, sources, tfds_source

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"q{n} \u00e4"},
            {"role": "assistant", "content": "a" * (n % 3)},
            *([{"role": "user", "content": "more"}] if n % 2 else []),
        ],
        "source": f"s{n}",
    }
    for n in range(20)
]


@functools.cache
def chats():
    """The data set's builder: TFDS takes a name once."""
    sources.load_seqio()
    import tensorflow_datasets as tfds

    text = tfds.features.Text()

    class Chats(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            turns = tfds.features.Sequence({"role": text, "content": text})
            features = tfds.features.FeaturesDict({"messages": turns, "source": text})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(ROWS)

    return Chats


@pytest.fixture(params=["tfrecord", "array_record"])
def folder(tmp_path, request):
    chats()(data_dir=tmp_path, file_format=request.param).download_and_prepare()
    return str(tmp_path)


def test_conversations_of_tfds(folder):
    splits = {"train": "train[:75%]", "validation": "train[75%:]"}
    source = tfds_source.from_tfds("chats:1.0.0", splits, data_dir=folder)
    got = {split: list(source.make_records(split)) for split in splits}
    assert [len(made) for made in got.values()] == [15, 5]
    expected = [one for row in ROWS for one in readers.read_all(row, where="x")]
    assert sorted(map(records.to_json, got["train"] + got["validation"])) == sorted(
        map(records.to_json, expected)
    )
    assert [records.to_json(one) for one in source.make_records("train")] == [
        row["record"].decode() for row in source.get_dataset("train").as_numpy_iterator()
    ]
    (shard,) = source.list_shards("validation")
    assert shard.startswith(folder) and "record" in shard


def test_what_is_not_prepared_is_not_fetched(tmp_path):
    source = tfds_source.from_tfds("gsm8k_none", {"train": "train"}, data_dir=str(tmp_path))
    for ask in (source.list_shards, lambda split: next(source.make_records(split))):
        with pytest.raises(errors.DataError, match="gsm8k_none.*download_and_prepare"):
            ask("train")
