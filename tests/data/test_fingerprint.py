"""A prepared split is found while all that made it is the same, and what changed is said."""

import dataclasses
import json
import os
import pathlib
import re
import shutil

import pytest

import t5sft
from t5sft.data import cache, prepare, templates, vocab
from t5sft.data.preparing import fingerprint

DAY = 24 * 3600


@pytest.fixture
def data(tmp_path):
    """Settings over a file and a vocabulary of one's own, both old enough to be trusted."""
    (tmp_path / "rows.json").write_text('[{"inputs": "ask", "targets": "answer"}]')
    shutil.copy("tasks/village/vocab.model", tmp_path / "vocab.model")
    for path in tmp_path.iterdir():
        os.utime(path, (DAY, DAY))
    return prepare.Data(
        task="toy_file",
        vocabulary=str(tmp_path / "vocab.model"),
        data=str(tmp_path / "rows.json"),
        cache_dir=str(tmp_path / "cache"),
    )


def publish(data, listed=(), split="train"):
    """Prepares as far as `find` can see: a card without arrays."""
    measured = fingerprint.measure(data, listed)
    stem = prepare.digest(data, "decoder", split).rpartition("-")[0]
    path = pathlib.Path(data.cache_dir, "prepared", f"{stem}-{fingerprint.content(measured)}")
    path.mkdir(parents=True, exist_ok=True)
    cache.write_card(path, {"tasks": {}, **prepare.origin(data, "decoder", split, measured)})
    return path


def why(data, split="train"):
    path, reason = prepare.find(data, "decoder", split)
    assert (path is None) == bool(reason)
    return reason


def test_what_is_there_is_found_and_its_sources_are_not_read(data, monkeypatch):
    assert why(data) == "not prepared before"
    path = publish(data)
    hashed = []
    monkeypatch.setattr(fingerprint, "sha256", lambda path: hashed.append(path.name) or "x")
    monkeypatch.setattr(fingerprint, "settings", lambda *_: card["settings"])
    card = json.loads((path / "card.json").read_text())
    assert prepare.find(data, "decoder", "train") == (path, "")
    assert "rows.json" not in hashed
    assert why(data, "validation") == "not prepared before"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"decoder_length": 7}, "decoder_length was 512, is 7"),
        ({"template": "lines"}, "template was 'plain', is 'lines'"),
        ({"learn": "everything", "seed": 3},
         "learn was 'all_assistant', is 'everything'; seed was 0, is 3"),
        ({"modules": ("toy_task",)},
         "modules was \\[\\], is \\['toy_task'\\]; code changed \\(toy_task: toy_task.py\\)"),
    ],
)  # fmt: skip
def test_a_changed_setting_is_told(data, change, reason):
    publish(data)
    other = dataclasses.replace(data, **change)
    assert re.search(reason, why(other)), why(other)
    publish(other)
    assert not why(other) and not why(data)  # both are kept


def test_changed_bytes_of_the_tokenizer_are_told(data):
    publish(data)
    path = pathlib.Path(data.vocabulary)
    path.write_bytes(path.read_bytes() + b"\x10\x01")  # an unknown field: the model still opens
    vocab.opened.cache_clear()
    assert why(data) == "the content of the vocabulary changed"


def test_a_changed_template_transform_or_version_is_told(data, tmp_path, monkeypatch):
    publish(data)
    assert not why(data)
    plain = templates.get("plain")
    monkeypatch.setattr(templates, "get", lambda name: dataclasses.replace(plain, end="eot"))
    assert why(data) == "the content of the template changed"
    publish(data)

    monkeypatch.setattr(fingerprint, "SEMANTICS", 99)
    assert why(data) == "version changed (semantics)"


def test_an_upgrade_that_changes_no_token_changes_no_name(data, monkeypatch):
    """What tokens are made of has a version of its own; see tests/golden/test_tokens.py."""
    publish(data)
    monkeypatch.setattr(t5sft, "__version__", "99")
    Later = dataclasses.make_dataclass(
        "Template", [("more", int, 0)], bases=(templates.Template,), frozen=True, eq=False
    )
    plain = templates.get("plain")
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    monkeypatch.setattr(templates, "get", lambda name: Later(**fields))
    assert not why(data)
    monkeypatch.setattr(templates, "get", lambda name: Later(**fields, more=1))
    assert why(data) == "the content of the template changed"


def test_changed_data_of_the_same_size_and_time_is_told_if_it_was_fresh(data):
    """Written within the tick in which it was measured, a change leaves size and time alone."""
    file = pathlib.Path(data.data)
    file.write_text(file.read_text())  # as old as its measuring
    stat = file.stat()
    publish(data)
    assert not why(data)
    file.write_text(file.read_text().replace("ask", "axe"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert why(data) == f"{file} changed"


def test_data_that_was_touched_or_moved_is_read_again_once_and_then_known(data, monkeypatch):
    path = publish(data)
    os.utime(data.data, (2 * DAY, 2 * DAY))
    moved = shutil.copy2(data.data, data.data + ".moved.json")
    count = []
    sha256 = fingerprint.sha256
    monkeypatch.setattr(
        fingerprint, "sha256", lambda p: count.append(p) or sha256(p)
    )  # fmt: skip
    for name in (data.data, moved):
        there = dataclasses.replace(data, data=str(name))
        for expected in (1, 0):
            count.clear()
            assert prepare.find(there, "decoder", "train") == (path, "")
            assert sum(p.suffix == ".json" for p in count) == expected
    pathlib.Path(moved).write_text("[]")
    assert why(there) == f"{moved} changed"
    other = pathlib.Path(data.data + ".other.json")
    other.write_text("[ ]")
    reason = f"the data was {moved}, is {other}"
    assert why(dataclasses.replace(data, data=str(other))) == reason


def test_files_that_the_source_lists_are_watched(data, tmp_path, monkeypatch):
    """Changed, gone, added. All gone is as it was: a cache may go where its sources do not."""
    root = tmp_path / "corpora"
    monkeypatch.setenv("T5SFT_DATA", str(root))
    files = [root / "flan" / f"{n}.tsv" for n in range(3)]
    files[0].parent.mkdir(parents=True)
    for file in files:
        file.write_text(file.name)
        os.utime(file, (DAY, DAY))
    data = dataclasses.replace(data, data=None)
    path = publish(data, map(str, files))
    told = json.loads((path / "card.json").read_text())["sources"]["files"]
    assert [entry["path"] for entry in told] == [f"$T5SFT_DATA/flan/{n}.tsv" for n in range(3)]
    assert not why(data)
    (files[0].parent / "README").write_text("no source")
    assert not why(data)
    (files[0].parent / "3.tsv").write_text("more")
    assert why(data) == f"files came to {files[0].parent} or left it"
    (files[0].parent / "3.tsv").unlink()
    files[1].rename(tmp_path / "kept")
    assert why(data) == f"{files[1]} is gone"
    files[1].write_text("else.")
    assert why(data) == f"{files[1]} changed"
    shutil.rmtree(root / "flan")
    assert not why(data)


def test_a_directory_given_as_data_is_where_listed_files_are(data, tmp_path):
    for place in ("here", "there"):
        (tmp_path / place / "flan").mkdir(parents=True)
        (tmp_path / place / "flan" / "a.tsv").write_text("same")
        (tmp_path / place / "other.bin").write_text(place)  # in it, but not of the task
    here, there = (dataclasses.replace(data, data=str(tmp_path / p)) for p in ("here", "there"))
    publish(here, [str(tmp_path / "here" / "flan" / "a.tsv")])
    assert not why(here) and not why(there)
    (tmp_path / "there" / "flan" / "a.tsv").unlink()
    assert "a.tsv is gone" in why(there) and not why(here)


def test_what_was_made_of_a_directory_is_not_taken_for_other_data(data, tmp_path, monkeypatch):
    """The listed files seemed to be gone, which is no change: a glob got the directory's tokens."""
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path / "nothing"))
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "a.json").write_text("[]")
    folder = dataclasses.replace(data, data=str(tmp_path / "many"))
    publish(folder, [str(tmp_path / "many" / "a.json")])
    assert not why(folder)
    assert why(data) == f"the data was $T5SFT_DATA/a.json, is {data.data}"
    assert why(dataclasses.replace(data, data=str(tmp_path / "*.json"))).startswith("the data was")


def test_names_of_several_files_count(data, tmp_path):
    """Names tell splits: a.json and b.json are all "train", train.json and test.json are not."""
    (tmp_path / "many").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "many" / name).write_text(f'["{name}"]')
        os.utime(tmp_path / "many" / name, (DAY, DAY))
    data = dataclasses.replace(data, data=str(tmp_path / "many" / "*.json"))
    before = publish(data)
    assert not why(data)
    shutil.move(tmp_path / "many", tmp_path / "moved")
    moved = dataclasses.replace(data, data=str(tmp_path / "moved" / "*.json"))
    assert not why(moved)
    (tmp_path / "moved" / "b.json").rename(tmp_path / "moved" / "test.json")
    (tmp_path / "moved" / "a.json").rename(tmp_path / "moved" / "dev.json")
    assert why(moved) == f"the names of the files of {moved.data} changed"
    assert publish(moved) != before


def test_all_files_of_a_directory_that_no_source_lists_are_watched(data, tmp_path):
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "a.json").write_text("[]")
    data = dataclasses.replace(data, data=str(tmp_path / "many"))
    publish(data)
    assert not why(data)
    (tmp_path / "many" / "b.json").write_text("[]")
    assert why(data) == f"{data.data} has 2 files, had 1"


def test_a_card_of_another_format_is_not_read(data):
    path = publish(data)
    card = json.loads((path / "card.json").read_text())
    cache.write_card(path, {**card, "format": 1})
    assert why(data) == "not prepared before"
    (path / "card.json").write_text("{")
    assert why(data) == "not prepared before"
