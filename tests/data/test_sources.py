"""Files are read to the letter, and what is wrong in them is told by file and line."""

import gzip
import json
import sys

import pytest

from t5sft import errors
from t5sft.data import sources

ROWS = [{"a": "one"}, {"a": "zwei ä", "b": "x"}, {"a": "line\u2028separator\u0085"}]


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def as_text(name, rows=ROWS):
    if ".jsonl" in name:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return json.dumps(rows, ensure_ascii=False, indent=1)


def read(tmp_path, text, name="x.jsonl"):
    return list(sources.read_json(write(tmp_path / name, text)))


def complaint(tmp_path, text, name="x.jsonl"):
    with pytest.raises(errors.DataError) as raised:
        read(tmp_path, text, name)
    assert str(raised.value).count("; ") >= 2  # what; where; what to do
    return str(raised.value)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.json.gz", "x.jsonl.gz"])
def test_reads_lists_and_lines_plain_and_compressed(tmp_path, name):
    assert read(tmp_path, as_text(name), name) == ROWS
    assert "tensorflow" not in sys.modules or "seqio" in sys.modules  # nothing here needs it


def test_only_a_line_feed_ends_a_line(tmp_path):
    """U+2028, U+0085 and a carriage return end lines for Python's splitlines, not in JSONL."""
    text = as_text("x.jsonl").replace("\n", "\r\n")
    assert text.count("\n") == 3 < len(text.splitlines())
    assert read(tmp_path, text) == ROWS


def test_empty_lines_and_a_missing_last_line_feed_do_not_matter(tmp_path):
    assert read(tmp_path, '\n{"a": "1"}\n\n  \n{"a": "2"}') == [{"a": "1"}, {"a": "2"}]
    assert read(tmp_path, "") == []


def test_an_object_is_no_list(tmp_path):
    got = complaint(tmp_path, '{"data": []}', "x.json")
    assert "not a list of rows" in got and str(tmp_path / "x.json") in got and ".jsonl" in got


def test_bad_json_is_told_by_line_and_column(tmp_path):
    got = complaint(tmp_path, '{"a": "1"}\n\n{"a": "2",}\n')
    assert f"{tmp_path / 'x.jsonl'}:3:" in got and "not JSON" in got
    column = int(got.partition("x.jsonl:3:")[2].partition(";")[0])
    assert column in (10, 11)  # the comma or the brace, by version of Python
    got = complaint(tmp_path, '[\n{"a": "1"},\n{"a" "2"}]', "x.json")
    assert "line 3 column 6" in got and str(tmp_path / "x.json") in got


@pytest.mark.parametrize("row", ["[1]", '"text"', "3", "null"])
def test_a_row_that_is_no_object_is_told_by_its_place(tmp_path, row):
    assert f"{tmp_path / 'x.jsonl'}:2;" in complaint(tmp_path, f'{{"a": "1"}}\n{row}\n')
    assert f"{tmp_path / 'x.json'}[1];" in complaint(tmp_path, f'[{{"a": "1"}}, {row}]', "x.json")


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.jsonl.gz"])
def test_bytes_that_are_no_utf8_are_refused(tmp_path, name):
    text = as_text(name, [{"a": "one"}, {"a": "caf\u00e9"}]).encode("latin-1")
    got = complaint(tmp_path, text, name)
    assert "utf-8" in got and str(tmp_path / name) in got


def test_damaged_compression_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl.gz", as_text("x.jsonl", ROWS * 200))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        b'{"a": "plain text"}\n',
        whole[:-20],
        whole[:middle] + b"\xff" * 8 + whole[middle + 8 :],
        whole[:-8] + b"\0" * 8,
    ):
        path.write_bytes(damaged)
        with pytest.raises(errors.DataError, match="unreadable"):
            list(sources.read_json(path))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What `json_rows` would hand to SeqIO: (rows, **options) -> split -> rows."""

    def source(rows, fields=("inputs", "targets"), **options):
        monkeypatch.setattr(sources, "rows", lambda make, splits: (make, splits))
        path = write(tmp_path / "x.jsonl", as_text("x.jsonl", rows))
        make, splits = sources.json_rows(str(path), fields, **options)
        assert tuple(splits) == ("train", "validation")
        return make

    return source


def test_every_fiftieth_row_is_held_out(made):
    make = made([{"inputs": str(i), "targets": "x"} for i in range(125)])
    train, held_out = ([int(row["inputs"]) for row in make(s)] for s in ("train", "validation"))
    assert held_out == [49, 99]
    assert train == [i for i in range(125) if i not in held_out]


def test_held_out_share_can_be_chosen(made):
    make = made([{"inputs": str(i), "targets": "x"} for i in range(7)], held_out_every=3)
    assert [row["inputs"] for row in make("validation")] == ["2", "5"]


def test_only_the_named_fields_are_kept_and_optional_ones_may_be_missing(made):
    rows = [{"inputs": "a", "targets": "b", "id": 7}, {"inputs": None, "targets": "c"}]
    fields = ("inputs", "targets", "context")
    expected = [{"inputs": a, "targets": b, "context": ""} for a, b in (("a", "b"), ("", "c"))]
    assert made(rows, fields, optional=("context",))("train") == expected


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"inputs": "a", "target": "b"}, ["no field 'targets'", "inputs, target"]),
        ({}, ["no field 'inputs'", "no fields"]),
        ({"inputs": "a", "targets": 3}, ["'targets' is a int", "expected text"]),
        ({"inputs": ["a"], "targets": "b"}, ["'inputs' is a list"]),
    ],
)
def test_a_row_that_does_not_fit_is_told_by_file_and_row(made, tmp_path, row, expected):
    make = made([{"inputs": "a", "targets": "b"}, row])
    with pytest.raises(errors.DataError) as raised:
        make("train")
    for part in [*expected, f"{tmp_path / 'x.jsonl'}[1]"]:
        assert part in str(raised.value)


def test_half_a_surrogate_pair_is_refused(made, tmp_path):
    make = made([{"inputs": "a", "targets": "b"}])
    (tmp_path / "x.jsonl").write_text('{"inputs": "\\ud83d", "targets": "b"}\n')
    with pytest.raises(errors.DataError, match=r"'inputs' holds a lone surrogate; .*\[0\]"):
        make("train")
    (tmp_path / "x.jsonl").write_text('{"inputs": "\\ud83d\\ude00", "targets": "b"}\n')
    assert make("train") == [{"inputs": "\U0001f600", "targets": "b"}]
