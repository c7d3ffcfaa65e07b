"""Files are read to the letter; what is wrong is told by place, or kept aside and counted."""

import csv
import gzip
import io
import json
import struct
import sys
import tracemalloc

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from t5sft import errors
from t5sft.data import files
from t5sft.data.files import examples, lines

ROWS = [{"a": "one", "b": "1"}, {"a": "zwei ä\u2028\x85", "b": ""}, {"a": '"3", \t\\n', "b": "'"}]
KINDS = ["jsonl", "json", "csv", "tsv", "txt"]


def compress(data, name):
    if name.endswith(".gz"):
        return gzip.compress(data)
    if name.endswith(".zst"):
        return pyarrow.Codec("zstd").compress(data, asbytes=True)
    return data


def encode(rows, kind):
    if kind in ("jsonl", "ndjson"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == "json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    if kind == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    if kind == "tsv":
        table = [list(rows[0]), *([x.replace("\t", " ") for x in row.values()] for row in rows)]
        return "".join("\t".join(line) + "\n" for line in table).encode()
    return "".join(row["a"] + "\n" for row in rows).encode()


def write(folder, name, content):
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(compress(data, name))
    return path


def read(path, **options):
    return [row for _, row in files.read_rows(path, **options)]


def complaint(path, **options):
    with pytest.raises(errors.DataError) as raised:
        read(path, **options)
    assert str(raised.value).count("; ") >= 2, raised.value  # what; where; what to do
    return str(raised.value)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_kind_plain_and_compressed(tmp_path, kind, ending):
    path = write(tmp_path, f"x.{kind}{ending}", encode(ROWS, kind))
    expected = {"txt": [{"text": row["a"]} for row in ROWS]}.get(kind, ROWS)
    if kind == "tsv":
        expected = [{key: text.replace("\t", " ") for key, text in row.items()} for row in ROWS]
    assert read(path) == expected
    assert "tensorflow" not in sys.modules or "seqio" in sys.modules  # nothing here needs it


def test_parquet_keeps_types_lists_and_nulls(tmp_path):
    rows = [
        {"a": "x\u2028", "n": 1, "f": 0.5, "turns": [{"role": "user", "content": "ä"}], "z": None},
        {"a": "", "n": -2, "f": 1e300, "turns": [], "z": "y"},
    ] * 300
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=7)
    assert read(tmp_path / "x.parquet") == rows
    places = [where for where, _ in files.read_rows(tmp_path / "x.parquet")]
    assert places[-1] == f"{tmp_path / 'x.parquet'}[599]"


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features):
    """A tf.train.Example, written by hand."""
    entries = b""
    for name, values in features.items():
        if isinstance(values[0], str):
            value = field(1, b"".join(field(1, x.encode()) for x in values))
        elif isinstance(values[0], float):
            value = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            value = field(3, field(1, b"".join(varint(x & 2**64 - 1) for x in values)))
        entries += field(1, field(1, name.encode()) + field(2, value))
    return field(1, entries)


def slow_masked_crc(data):
    """CRC-32C bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def tfrecord(records):
    out = b""
    for record in records:
        head = struct.pack("<Q", len(record))
        out += head + struct.pack("<I", slow_masked_crc(head))
        out += record + struct.pack("<I", slow_masked_crc(record))
    return out


EXAMPLE = {"text": ["ä\0"], "many": ["a", ""], "n": [-3], "ids": [0, 300, 2**40], "f": [0.5, -1.0]}
EXAMPLE_ROW = {"text": "ä\0", "many": ["a", ""], "n": -3, "ids": [0, 300, 2**40], "f": [0.5, -1.0]}


def test_the_checksum_is_the_published_one():
    """RFC 3720, B.4: the CRC-32C of 32 zero bytes is 8a9136aa, of 32 bytes 0xff 62a8ab43."""
    for data, crc in ((b"\0" * 32, 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)):
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
        assert examples._masked_crc(data) == slow_masked_crc(data) == masked
    assert examples._masked_crc(b"odd") == slow_masked_crc(b"odd")


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord-00000-of-00002", "x.tfrecord.gz"])
def test_tfrecord_of_examples_or_json(tmp_path, name):
    records = [example(**EXAMPLE), json.dumps(ROWS[1]).encode()]
    assert read(write(tmp_path, name, tfrecord(records))) == [EXAMPLE_ROW, ROWS[1]]


@pytest.mark.parametrize(
    "name", ["x.array_record", "x.arrayrecord", "x.array_record-00000-of-00001"]
)
def test_array_record(tmp_path, name):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(tmp_path / name), "group_size:1")
    for number in range(600):
        writer.write(example(**EXAMPLE, number=[number]))
    writer.write(json.dumps(ROWS[1]).encode())
    writer.close()
    expected = [EXAMPLE_ROW | {"number": number} for number in range(600)]
    assert read(tmp_path / name) == [*expected, ROWS[1]]
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert str(tmp_path / name) in complaint(tmp_path / name)


@pytest.mark.slow
def test_tensorflow_reads_the_same(tmp_path):
    import tensorflow as tf

    got = {}
    for name, value in tf.train.Example.FromString(example(**EXAMPLE)).features.feature.items():
        kind = value.WhichOneof("kind")
        got[name] = list(getattr(value, kind).value)
    assert got == {
        name: [x.encode() if isinstance(x, str) else x for x in values]
        for name, values in EXAMPLE.items()
    }
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        writer.write(example(**EXAMPLE))
    assert read(tmp_path / "x.tfrecord") == [EXAMPLE_ROW]


@settings(max_examples=60)
@given(st.binary(max_size=40))
def test_bytes_that_are_no_example_are_refused_not_misread(data):
    for message in (data, example(a=["x"]) + data):
        try:
            assert isinstance(examples.parse_example(message), dict)
        except (ValueError, IndexError, KeyError, struct.error):
            pass


def test_damaged_tfrecords_are_refused(tmp_path):
    whole = tfrecord([b'{"a": "1"}', b'{"a": "2"}'])
    for damaged in (whole[:-3], whole[:5], whole[:40], whole[:20] + b"x" + whole[21:], b"{}" * 20):
        got = complaint(write(tmp_path, "x.tfrecord", damaged), on_bad_record="skip")
        assert "damaged" in got and str(tmp_path / "x.tfrecord") in got


def test_only_a_line_feed_ends_a_line_and_one_carriage_return_belongs_to_it(tmp_path):
    """U+2028, U+0085 and a carriage return end lines for Python's splitlines, not in JSONL."""
    text = encode(ROWS, "jsonl").replace(b"\n", b"\r\n")
    assert len(text.decode().splitlines()) > 3
    assert read(write(tmp_path, "x.jsonl", text)) == ROWS
    assert read(write(tmp_path, "x.txt", "a\r\nb\rc\r\r\n\n \nlast")) == [
        {"text": "a"}, {"text": "b\rc\r"}, {"text": "last"}
    ]  # fmt: skip


def test_empty_lines_and_a_missing_last_line_feed_do_not_matter(tmp_path):
    path = write(tmp_path, "x.jsonl", '\n{"a": "1"}\n\n  \n{"a": "2"}')
    assert [where for where, _ in files.read_rows(path)] == [f"{path}:2", f"{path}:5"]
    assert read(write(tmp_path, "y.jsonl", "")) == []


GOOD = '{"a": "good"}'
FAULTS = {  # the row, its reason, its column in a line of its own
    "duplicate key": ('{"a": "1", "a": "2"}', "duplicate key", 12),
    "NaN": ('{"a": NaN}', "number is not finite", 7),
    "Infinity": ('{"a": -Infinity}', "number is not finite", 7),
    "overflow": ('{"a": 1e999}', "number is not finite", 7),
    "lone surrogate": ('{"a": "x\\ud800"}', "lone surrogate", 9),
    "NUL": ('{"a": "\\u0000"}', "NUL character", 8),
    "raw NUL": ('{"a": "\0"}', "control character", 8),
    "raw tab": ('{"a": "\t"}', "control character", 8),
    "trailing comma": ('{"a": "1",}', "not JSON", 11),
    "5,000 digits": ('{"a": ' + "7" * 5000 + "}", "number is too long", 7),
    "deep": ('{"a": ' + "[" * 1000 + "]" * 1000 + "}", "nested too deeply", 206),
    "list": ('["a"]', "row is no object", None),
    "text": ('"a"', "row is no object", None),
    "number": ("12", "row is no object", None),
    "null": ("null", "row is no object", None),
    "not UTF-8": (b'{"a": "\xc3\xa4\xe9"}', "not UTF-8", 9),
    "overlong UTF-8": (b'{"a": "\xc0\xaf"}', "not UTF-8", 8),
    "UTF-8 surrogate": (b'{"a": "\xed\xa0\x80"}', "not UTF-8", 8),
    "huge": ('{"a": "' + "x" * 5000 + '"}', "line is too long", None),
}


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_line_is_told_by_file_line_and_column(tmp_path, name):
    bad, reason, column = FAULTS[name]
    limit = 4500 if name == "huge" else lines.MAX_ROW_BYTES
    path = write(tmp_path, "x.jsonl", b"\n".join(map(as_bytes, (GOOD, "", bad, GOOD))))
    got = complaint(path, max_row_bytes=limit)
    assert f"{path}:3{f':{column}' if column else ''};" in got
    read_before = files.read_rows(path, max_row_bytes=limit)
    assert next(read_before)[1] == {"a": "good"}

    rejects = tmp_path / "deep" / "rejected.jsonl"
    kept = read(path, on_bad_record="skip", rejected=rejects, max_row_bytes=limit)
    assert kept == [{"a": "good"}] * 2
    (row,) = read(rejects)
    assert (row["file"], row["line"], row["column"]) == (str(path), 3, column)
    assert row["reason"] == reason and len(row["text"]) <= 2000
    assert name == "huge" or row["text"][:7] == as_bytes(bad).decode("utf-8", "replace")[:7]


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "huge"])
def test_a_bad_row_of_a_list_is_told_by_its_place(tmp_path, name):
    bad, reason, column = FAULTS[name]
    text = b"[" + GOOD.encode() + b",\n  \n " + as_bytes(bad) + b" , " + GOOD.encode() + b"\n]\n"
    path = write(tmp_path, "x.json", text)
    got = complaint(path)
    assert f"{path}{f':3:{column + 1}' if column else ''}[1];" in got
    rejects = tmp_path / "rejected.jsonl"
    assert read(path, on_bad_record="skip", rejected=rejects) == [{"a": "good"}] * 2
    (row,) = read(rejects)
    assert (row["line"], row["row"], row["reason"]) == (3, 1, reason)


def test_not_utf8_is_told_by_byte(tmp_path):
    path = write(tmp_path, "x.jsonl", b'{"a": "\xc3\xa4\xe9"}')
    assert "not UTF-8: byte 0xe9 at byte 9 of the line" in complaint(path)


def test_a_byte_order_mark_is_no_json_but_opens_a_table_or_text(tmp_path):
    mark = "\ufeff"
    got = complaint(write(tmp_path, "x.jsonl", mark + GOOD + "\n" + GOOD))
    assert "byte order mark" in got and "x.jsonl:1:1;" in got
    assert read(tmp_path / "x.jsonl", on_bad_record="skip") == [{"a": "good"}]
    for text in (f"[{GOOD}]", GOOD):
        assert "byte order mark" in complaint(write(tmp_path, "x.json", mark + text))
    assert read(write(tmp_path, "x.csv", mark + "a,b\n1,2\n")) == [{"a": "1", "b": "2"}]
    assert read(write(tmp_path, "x.tsv", mark + "a\tb\n1\t2\n")) == [{"a": "1", "b": "2"}]
    assert read(write(tmp_path, "x.txt", mark + "a\n" + mark)) == [{"text": "a"}]


@pytest.mark.parametrize(
    "text, line, column",
    [
        ('[{"a": 1}', 1, 10), ('[{"a": 1},\n\n{"b": "', 3, 7), ('[{"a": 1} {"a": 2}]', 1, 11),
        ('[{"a": 1},]', 1, 11), ('[{"a": 1}] x', 1, 12), ("", 1, 1), ("12", 1, 1),
        ('[{"a": 1}, \ud83d]', 1, 12), ("[", 1, 2), ('[,{"a": 1}]', 1, 2),
    ],
)  # fmt: skip
def test_a_list_that_is_broken_stops_in_both_modes(tmp_path, text, line, column):
    path = write(tmp_path, "x.json", text.encode("utf-8", "surrogatepass"))
    strict = complaint(path)
    assert f"{path}:{line}:{column}" in strict
    assert f"{path}:{line}:{column}" in complaint(path, on_bad_record="skip")


def test_an_object_is_no_list_unless_a_field_of_it_is(tmp_path):
    shared = {"canary": "x", "examples": [{"input": "a"}, {"input": "b", "canary": "y"}]}
    path = write(tmp_path, "x.json", json.dumps(shared, indent=2))
    assert read(path) == [{"canary": "x", "input": "a"}, {"input": "b", "canary": "y"}]
    assert [where for where, _ in files.read_rows(path)] == [f"{path}[0]", f"{path}[1]"]
    for value in ({"rows": []}, {"examples": [], "data": []}, {"examples": "text"}):
        got = complaint(write(tmp_path, "x.json", json.dumps(value)))
        assert "not a list of rows" in got and ".jsonl" in got


def test_json_lines_in_a_file_called_json(tmp_path):
    assert read(write(tmp_path, "x.json", encode(ROWS, "jsonl"))) == ROWS
    assert read(write(tmp_path, "x.json", b"\n" + encode(ROWS, "jsonl") + b"\n")) == ROWS
    got = complaint(write(tmp_path, "x.json", encode(ROWS, "jsonl") + b'{"a": "1",}\n'))
    assert "x.json:4:11;" in got


def test_a_list_is_the_same_however_it_is_cut_into_windows(tmp_path, monkeypatch):
    rows = [
        {"n": n, "text": 'ä\U0001f600{[\\"' * (n % 50), "deep": [[{"x": n}]]} for n in range(60)
    ]
    path = write(tmp_path, "x.json", json.dumps(rows, ensure_ascii=False, indent=3))
    whole = read(path)
    assert whole == rows
    grow = lines._Window.grow

    def slowly(self):
        stream = self._stream
        self._stream = type("Slow", (), {"read": lambda _, __: stream.read(7)})()
        try:
            return grow(self)
        finally:
            self._stream = stream

    monkeypatch.setattr(lines._Window, "grow", slowly)
    assert read(path) == rows
    numbers = write(tmp_path, "y.json", '[1234567890, {"a": "1"}, 12.5e3, {"a": "2"}]')
    assert read(numbers, on_bad_record="skip") == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "txt"])
def test_memory_does_not_grow_with_the_file(tmp_path, kind):
    """16 MB of rows, and one huge line, are read in less than 6 MB."""
    rows = [{"a": "x" * 100_000, "b": str(n)} for n in range(160)]
    path = write(tmp_path, f"x.{kind}.gz", encode(rows, kind))
    if kind == "jsonl":
        huge = b'{"a": "' + b"y" * 20_000_000 + b'"}\n'
        path.write_bytes(gzip.compress(huge) + path.read_bytes())
    del rows
    for _ in files.read_rows(path, on_bad_record="skip", max_row_bytes=1 << 20):
        break  # what is imported and compiled at first use does not count
    tracemalloc.start()
    count = 0
    for _ in files.read_rows(path, on_bad_record="skip", max_row_bytes=1 << 20):
        count += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 160 and peak < 6e6


def test_damaged_compression_is_refused_in_both_modes(tmp_path):
    for ending in (".gz", ".zst"):
        path = write(tmp_path, f"x.jsonl{ending}", encode(ROWS * 200, "jsonl"))
        whole = path.read_bytes()
        for damaged in (b'{"a": "plain text"}\n', whole[:-20], whole[: len(whole) // 2]):
            path.write_bytes(damaged)
            for mode in ("error", "skip"):
                assert "unreadable" in complaint(path, on_bad_record=mode)
    path = write(tmp_path, "x.jsonl.gz", encode(ROWS * 200, "jsonl"))
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)  # the checksum
    assert "unreadable" in complaint(path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no PAR1")
    assert "unreadable" in complaint(tmp_path / "x.parquet")


def test_csv_faults(tmp_path):
    text = 'a,b\n1,2\n3\n"4",5\n"6"x,7\n8,"9\n10"\n11,\0\n'
    got = complaint(write(tmp_path, "x.csv", text))
    assert "1 fields, but 2 columns (a, b)" in got and "x.csv:3;" in got
    rejects = tmp_path / "rejected.jsonl"
    kept = read(tmp_path / "x.csv", on_bad_record="skip", rejected=rejects)
    assert kept == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}, {"a": "8", "b": "9\n10"}]
    assert [(r["line"], r["reason"]) for r in read(rejects)] == [
        (3, "wrong number of fields"), (5, "not CSV"), (8, "NUL character")
    ]  # fmt: skip
    bad = write(tmp_path, "y.csv", b'a\n"\xe9"\n"open\n"')
    assert "not UTF-8" in complaint(bad)
    assert read(bad, on_bad_record="skip") == [{"a": "open\n"}]
    assert "not CSV" in complaint(write(tmp_path, "z.csv", 'a\n"never closed\n\n'))
    for header in ("a,a\n", "a,\n"):
        assert "column" in complaint(write(tmp_path, "h.csv", header + "1,2\n"))


def test_a_table_without_header(tmp_path):
    for kind, comma in (("csv", ","), ("tsv", "\t")):
        path = write(tmp_path, f"x.{kind}", f"1{comma}2\n\n3{comma}4\n")
        assert read(path, header=("p", "q")) == [{"p": "1", "q": "2"}, {"p": "3", "q": "4"}]
    got = complaint(write(tmp_path, "y.tsv", "1\t2\n3\n"), header=("p", "q"))
    assert "y.tsv:2;" in got


def test_quotes_in_a_tsv_are_text(tmp_path):
    assert read(write(tmp_path, "x.tsv", 'a\tb\n"x"y\t"\n')) == [{"a": '"x"y', "b": '"'}]


def test_too_many_rejects_are_an_error(tmp_path):
    path = write(tmp_path, "x.jsonl", f"{GOOD}\n" * 100 + "x\n" * 11)
    got = complaint(path, on_bad_record="skip")
    assert "11 of 111 rows are bad: 11 not JSON" in got
    few = write(tmp_path, "y.jsonl", f"{GOOD}\n" * 5 + "x\n" * 5)
    assert len(read(few, on_bad_record="skip")) == 5
    rejects = files.Rejects("skip", tmp_path / "kept.jsonl", max_count=3)
    with pytest.raises(errors.DataError, match="more than 3 rows are bad.*kept.jsonl"):
        for _, row in files.locate(path):
            if isinstance(row, files.Bad):
                rejects.add(row)
    assert rejects.counts == {"not JSON": 4}
    with pytest.raises(errors.ConfigError, match="on_bad_record"):
        files.Rejects("ignore")  # type: ignore[arg-type]


def test_files_are_read_in_the_order_given(tmp_path):
    second = write(tmp_path, "b.jsonl", encode(ROWS[:1], "jsonl"))
    first = write(tmp_path, "a.csv", encode(ROWS[1:], "csv"))
    assert read([second, first]) == ROWS


def test_a_bad_record_of_a_tfrecord_is_told_by_its_number(tmp_path):
    records = [b'{"a": "1"}', b'{"a": 1, "a": 2}', example(a=["x"])[:-1] + b"\xff", b"[1]"]
    path = write(tmp_path, "x.tfrecord", tfrecord(records))
    assert f"duplicate key: 'a'; {path}[1];" in complaint(path)
    rejects = tmp_path / "rejected.jsonl"
    assert read(path, on_bad_record="skip", rejected=rejects) == [{"a": "1"}]
    assert [(row["row"], row["reason"]) for row in read(rejects)] == [
        (1, "duplicate key"), (2, "not UTF-8"), (3, "no tf.train.Example")
    ]  # fmt: skip


def test_nul_in_text_is_refused(tmp_path):
    path = write(tmp_path, "x.txt", "a\nb\0c\nd\n")
    assert f"NUL character; {path}:2;" in complaint(path)
    assert read(path, on_bad_record="skip") == [{"text": "a"}, {"text": "d"}]


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from('",\r\n\t\u2028\ufeff'),
    max_size=6,
)


@settings(max_examples=60)
@given(st.lists(st.fixed_dictionaries({"a": TEXTS, "b b": TEXTS}), min_size=1, max_size=4))
def test_text_of_any_kind_comes_back_from_any_kind_of_file(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("kinds")
    for name in ("x.jsonl", "x.json.gz", "x.csv", "x.csv.zst"):
        path = write(folder, name, encode(rows, name.split(".")[1]))
        assert read(path) == rows, name
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "x.parquet")
    assert read(folder / "x.parquet") == rows
