"""A name, a glob or a folder becomes a list of files, and nothing outside of its folder."""

import os
import pathlib

import pytest

from t5sft import errors
from t5sft.data import files


@pytest.fixture
def tree(tmp_path):
    for name in ("a.jsonl", "sub/c.jsonl", "sub/b.jsonl.gz", "README.md", "_done.jsonl", ".x.jsonl",
                 "LICENSE", "odd[1].jsonl", ".git/d.jsonl"):  # fmt: skip
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path / "tree"


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found]


def test_a_file_a_glob_and_a_folder(tree):
    assert files.expand(tree / "a.jsonl") == [tree / "a.jsonl"]
    assert files.expand(tree / "odd[1].jsonl") == [tree / "odd[1].jsonl"]
    assert names(files.expand(f"{tree}/*.jsonl"), tree) == [
        "_done.jsonl",
        "a.jsonl",
        "odd[1].jsonl",
    ]
    assert names(files.expand(f"{tree}/**/[bc].*"), tree) == ["sub/b.jsonl.gz", "sub/c.jsonl"]
    assert names(files.expand(tree), tree) == [
        "a.jsonl", "odd[1].jsonl", "sub/b.jsonl.gz", "sub/c.jsonl"
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["none.jsonl", "*.csv", "empty"])
def test_nothing_there_is_an_error(tree, pattern):
    (tree / "empty").mkdir()
    with pytest.raises(errors.DataError, match=r"no data file; .*; check the path"):
        files.expand(tree / pattern)


def test_a_folder_holds_one_kind(tree):
    (tree / "notes.txt").write_text("not data")
    with pytest.raises(errors.DataError, match=r"several kinds \(jsonl, text\)"):
        files.expand(tree)


def test_a_link_out_of_a_folder_is_refused(tree, tmp_path):
    (tmp_path / "secret.jsonl").write_text("")
    (tree / "sub" / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(errors.DataError, match=r"outside of .*link\.jsonl -> .*secret\.jsonl"):
        files.expand(tree)
    (tree / "sub" / "link.jsonl").unlink()
    (tree / "sub" / "link.jsonl").symlink_to(tree / "a.jsonl")
    assert len(files.expand(tree)) == 5
    with pytest.raises(errors.DataError, match="outside of"):
        files.expand(f"{tree}/sub/../../secret.jsonl", root=tree)
    assert files.expand(f"{tree}/../secret.jsonl") == [pathlib.Path(f"{tree}/../secret.jsonl")]


@pytest.mark.parametrize(
    "name, kind",
    [
        ("x.json", "json"), ("x.JSONL.gz", "jsonl"), ("x.ndjson.zst", "jsonl"), ("x.csv", "csv"),
        ("x-train.array_record-00000-of-00010", "arrayrecord"), ("x.arrayrecord", "arrayrecord"),
        ("x.tfrecord-00001-of-00002", "tfrecord"), ("x.tfrecords.gz", "tfrecord"),
        ("x.v2.parquet", "parquet"), ("x.txt", "text"), ("x.tsv.gz", "tsv"),
    ],
)  # fmt: skip
def test_the_name_tells_the_kind(name, kind):
    assert files.kind_of(pathlib.Path("dir.csv") / name) == kind


@pytest.mark.parametrize(
    "name", ["x", "json", "x.json.bak", "x.zip", "x.jsonl.bz2", "x.parquet.gz"]
)
def test_other_names_are_refused(name):
    with pytest.raises(errors.DataError, match=name):
        files.kind_of(pathlib.Path(name))


def test_a_corpus_is_found_below_the_data_folder(tree, monkeypatch):
    monkeypatch.setenv("T5SFT_DATA", str(tree.parent))
    assert files.find("tree", "a.jsonl", how_to_get="x") == [tree / "a.jsonl"]
    assert names(files.find("tree", "sub/*", how_to_get="x"), tree) == [
        "sub/b.jsonl.gz", "sub/c.jsonl"
    ]  # fmt: skip
    assert len(files.find("tree", ".", how_to_get="x")) == 4
    monkeypatch.setenv("T5SFT_DATA", str(tree))
    assert files.find("tree", "a.jsonl", how_to_get="x") == [tree / "a.jsonl"]


def test_a_missing_corpus_says_what_to_fetch_and_where_to_put_it(tree, monkeypatch):
    monkeypatch.setenv("T5SFT_DATA", str(tree))
    with pytest.raises(errors.DataError) as raised:
        files.find("gsm8k", "train.jsonl", how_to_get="fetch it from github.com/openai")
    for part in ("no data of gsm8k", str(tree / "gsm8k" / "train.jsonl"), "fetch it", "T5SFT_DATA"):
        assert part in str(raised.value)
    monkeypatch.delenv("T5SFT_DATA")
    monkeypatch.setenv("HOME", str(tree))
    with pytest.raises(errors.DataError, match=os.path.join(str(tree), "t5sft_data", "gsm8k")):
        files.find("gsm8k", "train.jsonl", how_to_get="fetch it")


def test_a_corpus_cannot_be_left(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path))
    (tmp_path / "secret.jsonl").write_text("")
    for pattern in ("../secret.jsonl", "sub/../../secret.jsonl", str(tmp_path / "secret.jsonl")):
        with pytest.raises(errors.DataError, match="leaves its folder"):
            files.find("tree", pattern, how_to_get="x")
    (tree / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(errors.DataError, match="outside of"):
        files.find("tree", "*.jsonl", how_to_get="x")
