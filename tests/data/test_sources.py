"""Sources hand every row of the right split on, in order, as a record or as why there is none."""

import json
import sys

import pytest

from t5sft import errors
from t5sft.data import files, records, sources

QA = [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(125)]


def write(folder, name, rows):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return path


def questions(found, split):
    made = list(found.read(split))
    assert all(isinstance(one, records.Record) for one in made)
    return [int(one.messages[0].content[1:]) for one in made]


def test_every_fiftieth_row_is_held_out_counted_over_all_files(tmp_path):
    write(tmp_path, "a.jsonl", QA[:30])
    write(tmp_path, "b.jsonl", QA[30:])
    found = sources.Files(tmp_path)
    assert found.splits == ("train", "validation")
    assert questions(found, "validation") == [49, 99]
    assert questions(found, "train") == [n for n in range(125) if n not in (49, 99)]
    assert questions(sources.Files(tmp_path, held_out_every=60), "validation") == [59, 119]
    expected = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert found.list_files("train") == found.list_files("validation") == expected
    assert "tensorflow" not in sys.modules or "seqio" in sys.modules  # nothing here needs it


def test_named_splits_have_their_own_files(tmp_path):
    first, second = write(tmp_path, "x.jsonl", QA[:60]), write(tmp_path, "y.jsonl", QA[60:])
    found = sources.Files({"train": first, "test": lambda: [second]})
    assert found.splits == ("train", "test", "validation")
    assert questions(found, "test") == list(range(60, 125))
    assert questions(found, "validation") == [49]  # of train, which has none of its own
    assert len(questions(found, "train")) == 59
    found = sources.Files({"train": first, "validation": second})
    assert questions(found, "train") == list(range(60))
    assert questions(found, "validation") == list(range(60, 125))


def test_nothing_is_looked_for_before_it_is_asked_for():
    def find():
        raise errors.DataError("no data; here; fetch it")

    found = sources.Files(find)
    assert found.splits == ("train", "validation")
    for ask in (found.list_files, lambda split: next(found.read(split))):
        with pytest.raises(errors.DataError, match="fetch it"):
            ask("train")


@pytest.mark.parametrize(
    "names, expected",
    [
        (["a.jsonl", "b.jsonl"], None),
        (["test.jsonl"], None),
        (["train-1.jsonl", "train-2.jsonl"], None),
        (["latest.jsonl", "contest.jsonl", "trainer.jsonl"], None),
        (["train.jsonl", "test.jsonl"], {"train": ["train.jsonl"], "test": ["test.jsonl"]}),
        (["x_Train_sft-00000-of-00001.jsonl", "x_dev.jsonl"],
         {"train": ["x_Train_sft-00000-of-00001.jsonl"], "validation": ["x_dev.jsonl"]}),
        (["train/a.jsonl", "train/b.jsonl", "eval/a.jsonl"],
         {"train": ["train/a.jsonl", "train/b.jsonl"], "validation": ["eval/a.jsonl"]}),
    ],
)  # fmt: skip
def test_the_names_of_files_tell_their_splits(tmp_path, names, expected):
    for name in names:
        write(tmp_path / "data", name, QA[:1])
    got = sources.by_name(str(tmp_path / "data"))
    if expected is None:
        assert got == str(tmp_path / "data")
        return
    found = sources.Files(got)
    assert set(found.splits) == {*expected, "validation"}
    root = tmp_path / "data"
    for split, files_ in expected.items():
        assert [p.relative_to(root).as_posix() for p in found.list_files(split)] == files_


@pytest.mark.parametrize("third", ["more.jsonl", "train_test.jsonl"])
def test_a_file_of_no_told_split_among_others_is_refused(tmp_path, third):
    for name in ("train.jsonl", "test.jsonl", third):
        write(tmp_path, name, QA[:1])
    with pytest.raises(errors.DataError, match=f"split of {third} is not in its name"):
        sources.by_name(str(tmp_path))


def test_format_and_columns_are_passed_on(tmp_path):
    path = write(tmp_path, "x.jsonl", [{"question": "q", "reply": "a", "text": "t"}])
    (record,) = sources.Files(path, columns={"prompt": "question", "completion": "reply"}).read(
        "train"
    )
    assert [one.content for one in record.messages] == ["q", "a"]
    (record,) = sources.Files(path, "text").read("train")
    assert record.messages == (records.Message("text", "t"),)
    table = write(tmp_path, "x.tsv", ["1+1?\t2\tOne more.\n", "2+2?\t4\tTwo more.\n"])
    first, second = sources.Files(table, "cot_tsv").read("train")  # no line is a header
    assert (first.answer, second.answer) == ("2", "4")


def test_a_row_without_a_record_is_told(tmp_path):
    rows = [{"prompt": "q", "completion": ""}, *QA[:1]]
    dropped, record = sources.Files(write(tmp_path, "x.jsonl", rows)).read("train")
    assert str(dropped) == "empty response" and isinstance(record, records.Record)


def test_a_bad_row_stops_or_is_dropped_counted_and_kept(tmp_path, capsys):
    rows = [QA[0], '{"prompt": "q", "prompt": "r", "completion": "a"}\n', {"question": "q"}, QA[1]]
    path = write(tmp_path, "x.jsonl", rows)
    read = sources.Files(path).read("train")
    next(read)
    with pytest.raises(errors.DataError, match=r"duplicate key: 'prompt'; .*x.jsonl:2:17;"):
        next(read)
    other = write(tmp_path, "y.jsonl", [QA[0], {"question": "q"}])
    with pytest.raises(errors.DataError, match=r"no known format has the fields .*y.jsonl:2;"):
        list(sources.Files(other).read("train"))
    kept = tmp_path / "rejected"
    found = sources.Files(path, on_bad_record="skip", rejected=kept)
    made = list(found.read("train"))
    assert [str(one) for one in made if isinstance(one, records.Dropped)] == [
        "bad row: duplicate key", "bad row: does not fit the format"
    ]  # fmt: skip
    assert len(made) == 4
    assert f"2 bad rows are kept in {kept / 'train.jsonl'}" in capsys.readouterr().err
    first, second = (row for _, row in files.read_rows(kept / "train.jsonl"))
    assert (first["line"], first["column"], first["reason"]) == (2, 17, "duplicate key")
    assert second["line"] == 3 and "no known format" in second["message"]
    assert "question" in second["text"]


def test_bad_rows_do_not_move_the_held_out_ones(tmp_path):
    rows = [*QA[:48], "not json\n", *QA[49:]]
    found = sources.Files(write(tmp_path, "x.jsonl", rows), on_bad_record="skip")
    assert [one.messages[0].content for one in found.read("validation")] == ["q49", "q99"]


def test_too_many_bad_rows_are_an_error(tmp_path):
    path = write(tmp_path, "x.jsonl", [*QA[:60], *["x\n"] * 15])
    with pytest.raises(errors.DataError, match="15 of 74 rows are bad"):
        list(sources.Files(path, on_bad_record="skip").read("train"))


def test_seqio_reads_the_same_records(tmp_path):
    """One test with SeqIO: batching, sharding, shards and sizes."""
    seqio = sources.load_seqio()
    rows = [
        *QA,
        {"prompt": "long \u00e4", "completion": "x" * 5_000_000},
        {"prompt": "q", "completion": ""},
    ]
    path = write(tmp_path, "x.jsonl", rows * 6)
    source = sources.from_files(path)
    expected = [records.to_json(one) for one in sources.Files(path).read("train")]
    assert source.splits == ("train", "validation")
    assert source.list_shards("train") == [str(path)]
    assert source.num_input_examples("validation") == 15
    got = [row["record"].decode() for row in source.get_dataset("train").as_numpy_iterator()]
    assert got == expected and len(got) == 127 * 6 - 15
    sharded = []
    for index in range(2):
        ds = source.get_dataset("train", shard_info=seqio.ShardInfo(index, 2))
        sharded.append([row["record"].decode() for row in ds.as_numpy_iterator()])
    assert sharded == [expected[::2], expected[1::2]]
    dropped = json.loads(expected[-1])
    assert dropped == {"dropped": "empty response"}
    with pytest.raises(records.Dropped, match="empty response"):
        records.from_features({"record": expected[-1].encode()})


def test_chunks_are_bounded_in_rows_and_bytes():
    text = records.Record((records.Message("text", "x" * 1_000_000),))
    short = records.Dropped("why")
    chunks = [len(chunk) for chunk in sources._chunks([text] * 12 + [short] * 1100)]
    assert chunks == [5, 5, 512, 512, 78]
