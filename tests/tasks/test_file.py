"""Any file of one's own is prepared by the task `file`, and what became of each row is counted."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from t5sft import errors
from t5sft.data import cache, prepare, sources

ROWS = [
    {"conversations": [{"from": "human", "value": f"q{n}"}, {"from": "gpt", "value": f"a{n}"}]}
    for n in range(60)
]


def settings(path, folder, **options):
    return prepare.Data(
        task="file",
        modules=("t5sft.tasks.file",),
        vocabulary="bytes",
        template="lines",
        data=str(path),
        cache_dir=str(folder / "cache"),
        **options,
    )


def prepared(data, split):
    path = prepare.prepare_split(data, "decoder", split)
    return cache.read_split(path).card


def test_conversations_with_faults_are_counted_by_name(tmp_path, monkeypatch):
    rows = [json.dumps(row) for row in ROWS]
    rows[3] = json.dumps(
        {"conversations": [{"from": "gpt", "value": "hi"}, *ROWS[3]["conversations"]]}
    )
    rows[4] = json.dumps({"conversations": ROWS[4]["conversations"][:1]})
    rows[5] = '{"conversations": [], "conversations": []}'
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(rows))
    with pytest.raises(errors.DataError, match=r"duplicate key.*mine\.jsonl:6:23"):
        prepared(settings(path, tmp_path), "train")
    reads, read = [], sources.Files.read
    monkeypatch.setattr(
        sources.Files, "read", lambda self, split: reads.append(split) or read(self, split)
    )
    card = prepared(settings(path, tmp_path, on_bad_record="skip"), "train")
    assert reads == ["train"]  # once
    assert (card["read"], card["kept"], card["dropped"]) == (59, 57, 2)
    assert card["dropped: bad row: duplicate key"] == card["dropped: no answer"] == 1
    assert card["mended: leading turns removed"] == 1
    (rejected,) = (tmp_path / "cache" / "rejected").glob("file-*/train.jsonl")
    assert json.loads(rejected.read_text())["line"] == 6
    assert prepared(settings(path, tmp_path, on_bad_record="skip"), "validation")["kept"] == 1


def test_a_folder_of_named_splits_and_a_map_of_columns(tmp_path):
    for split, size in (("train", 5), ("validation", 2)):
        rows = [{"question": f"q{n}", "reply": "a", "text": "other"} for n in range(size)]
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "part-0.parquet")
    columns = {"prompt": "question", "completion": "reply"}
    data = settings(tmp_path / "data", tmp_path, columns=columns)
    assert [prepared(data, split)["kept"] for split in ("train", "validation")] == [5, 2]
    with pytest.raises(
        errors.DataError, match=r"no field 'label' or 'kto_tag'; .*part-0.parquet.0.; the row has"
    ):
        prepared(settings(tmp_path / "data", tmp_path, format="kto"), "train")


def test_without_data_it_says_so():
    data = prepare.Data(task="file", modules=("t5sft.tasks.file",), vocabulary="bytes")
    with pytest.raises(errors.ConfigError, match="no data file; task file; give --data"):
        prepare.register(data)


def test_too_few_rows_to_hold_one_out_is_told(tmp_path):
    """The first try of many a user: it said "no example left of 0"."""
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS[:49]))
    source = sources.Files(str(path))
    assert len(list(source.read("train"))) == 49
    with pytest.raises(errors.DataError, match=r"49 rows.*every 50th.*few\.jsonl; give 50 rows"):
        list(source.read("validation"))
