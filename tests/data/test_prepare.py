"""The cache appears whole or not at all, and counts what it left out."""

import dataclasses
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import types

import pytest
from toy_data import TOY, write_rows

from t5sft import errors
from t5sft.data import cache, prepare
from t5sft.data.preparing import parts, workshop


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The toy mixture, prepared."""
    data = dataclasses.replace(TOY, cache_dir=str(tmp_path_factory.mktemp("cache")))
    for split in ("train", "validation"):
        prepare.prepare_split(data, "encoder_decoder", split)
    return data


def test_tasks_of_like_names_have_directories_of_their_own():
    """glue:cola and glue_cola, both names of SeqIO tasks, shared one."""
    names = ["glue:cola", "glue_cola", "glue/cola", "glue.cola"]
    assert len({cache.folder(name) for name in names}) == 4
    assert all("/" not in cache.folder(name) for name in names)


def test_prepared_data_are_read_without_a_child(toy, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    train, held_out = prepare.Preparation(toy, "encoder_decoder", ("train", "validation")).result()
    assert {task: len(examples) for task, examples in train.tasks.items()} == {
        "toy_copy": 40,
        "toy_reverse": 24,
    }
    assert train.rates == {"toy_copy": 2.0, "toy_reverse": 1.0}
    assert len(held_out.tasks["toy_copy"]) == 6
    inputs, targets = train.tasks["toy_reverse"].get(3)

    def text(ids):
        return bytes(i - 3 for i in ids if i > 2).decode()

    assert text(inputs.ids) == f"reverse: {text(targets.ids)[::-1]}"
    assert inputs.ids[-1] == targets.ids[-1] == 1 and not inputs.weights.any()
    assert targets.weights.all()


def test_a_change_makes_a_second_preparation_start_a_child(toy, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    other = dataclasses.replace(toy, decoder_length=17)
    prepare.Preparation(other, "encoder_decoder", ("train",))
    prepare.Preparation(toy, "decoder", ("train",))
    assert len(started) == 2


ROWS = [
    ("ask", "four"),  # 3 + 1 and 4 + 1 tokens
    ("ask", "   "),
    ("ask", "x" * 16),  # with its end token one too long
    ("ask", "\u00e4"),  # two bytes
    ("a" * 32, "long"),
]  # fmt: skip


@pytest.mark.parametrize(
    "too_long, counts, kept",
    [
        (
            "drop",
            {"kept": 2, "dropped": 3, "truncated": 0, "dropped: empty response": 1,
             "dropped: too long": 2, "tokens": 9 + 7, "learnt_tokens": 5 + 3},
            [0, 3],
        ),
        (
            "cut_prompt",
            {"kept": 3, "dropped": 2, "truncated": 1, "dropped: empty response": 1,
             "dropped: answer too long": 1, "tokens": 9 + 7 + 37, "learnt_tokens": 5 + 3 + 5},
            [0, 3, 4],
        ),
        (
            "cut_response",
            {"kept": 3, "dropped": 2, "truncated": 1, "dropped: empty response": 1,
             "dropped: prompt too long": 1, "tokens": 9 + 20 + 7, "learnt_tokens": 5 + 16 + 3},
            [0, 2, 3],
        ),
    ],
)  # fmt: skip
def test_card_counts_what_was_read_dropped_and_cut(data, too_long, counts, kept):
    write_rows(pathlib.Path(data.data), ROWS)
    data = dataclasses.replace(data, too_long=too_long)
    split = cache.read_split(prepare.prepare_split(data, "encoder_decoder", "train"))
    expected = {"read": 5, **counts}
    for card in (split.card, split.card["tasks"]["toy_file"]):
        assert {key: card[key] for key in expected} == expected
        assert card["examples"] == counts["kept"]
        cut = {key: n for key, n in card.items() if key.startswith("truncated: ")}
        assert cut == ({f"truncated: {too_long}": 1} if counts["truncated"] else {})
    assert split.card["tasks"]["toy_file"]["rate"] == 1.0
    assert split.tasks["toy_file"].numbers.tolist() == kept
    line = prepare.describe("train", split.card)
    assert line.startswith(f"train: 5 examples read, {counts['kept']} kept, ")
    assert "1 empty response" in line and f"{counts['truncated']} truncated" in line


def complaint(kind, data, layout="encoder_decoder", split="train"):
    with pytest.raises(kind) as raised:
        prepare.prepare_split(data, layout, split)
    assert not list(pathlib.Path(data.cache_dir).glob("prepared/[!.]*"))
    return str(raised.value)


def test_when_every_example_is_dropped_the_counts_are_told(data):
    write_rows(pathlib.Path(data.data), [("ask", ""), ("ask", "x" * 99), ("ask", "y" * 99)])
    got = complaint(errors.DataError, data)
    for part in ("left of 3", "2 too long", "1 empty response", "toy_file",
                 "'train'", "decoder_length"):  # fmt: skip
        assert part in got


def test_wrong_task_and_split_name_what_there_is(data):
    got = complaint(errors.ConfigError, dataclasses.replace(data, task="toy_copi"))
    assert "'toy_copi' (did you mean 'toy_copy'?)" in got
    got = complaint(errors.ConfigError, data, split="test")
    assert "no split 'test'" in got and "train, validation" in got
    got = complaint(errors.DataError, data, split="validation")
    assert "no rows; split 'validation'" in got


def test_a_bad_row_stops_it_and_is_told(data):
    pathlib.Path(data.data).write_text('[{"inputs": "a", "targets": "b"}, 7]')
    assert f"{data.data}[1]" in complaint(errors.DataError, data)


def test_cut_short_it_leaves_no_half_cache_and_takes_up_its_work(data, monkeypatch):
    """The mixture has two tasks: the process ends while it writes the second."""
    data = dataclasses.replace(data, task="toy")
    merge, written = parts.merge, []

    def dies(directory, paths):
        if written:
            raise KeyboardInterrupt
        written.append(directory)
        return merge(directory, paths)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "merge", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare_split(data, "encoder_decoder", "train")
    (half,) = written
    assert (half / "targets.ids.npy").exists()  # what a killed process leaves behind
    target = prepare.directory(data, "encoder_decoder", "train")
    assert not target.exists()
    monkeypatch.setattr(parts, "make", None)  # every chunk has been tokenised already
    assert prepare.prepare_split(data, "encoder_decoder", "train") == target
    assert len(cache.read_split(target).tasks) == 2
    assert not list(target.parent.glob(".*.parts"))


def test_only_work_that_nobody_will_take_up_is_removed(data):
    """Hosts that share a cache, or two runs begun together, prepare the same split at once."""
    target = prepare.directory(data, "decoder", "train")
    old, recent = (target.parent / f".{target.name}.{pid}.tmp" for pid in (2**22 + 1, 1))
    for path in (old, recent):
        path.mkdir(parents=True)
    os.utime(old, (0, 0))
    prepare.prepare_split(data, "decoder", "train")
    assert recent.exists() and not old.exists()
    assert sorted(target.parent.iterdir()) == sorted([recent, target])


def test_two_processes_at_the_same_split_do_not_meet(data):
    root = prepare.directory(data, "decoder", "train").parent
    with workshop.directory_of_parts(root, "same") as first:
        with workshop.directory_of_parts(root, "same") as second:
            assert first != second and second.exists()
        assert first.exists() and not second.exists()
    assert not list(root.iterdir())


def test_the_quicker_of_two_processes_wins(data, tmp_path):
    target = prepare.prepare_split(data, "decoder", "train")
    slower = tmp_path / "slower"
    shutil.copytree(target, slower)
    cache.publish(slower, target, {"tasks": {}})
    assert not slower.exists()
    assert len(cache.read_split(target).tasks["toy_file"]) == 1


def test_a_position_belongs_to_the_examples_not_to_the_code_that_made_them(
    data, tmp_path, monkeypatch
):
    """Another cache of the same tokens goes on with a run; a weight more is another run's."""
    module = tmp_path / "rows_of_one.py"
    module.write_text("from toy_task import *\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    data = dataclasses.replace(data, modules=("rows_of_one",))
    paths, digests = [], []
    for changed in ({}, {}, {"prompt_weight": 0.5}, {"learn": "last_assistant"}):
        made = dataclasses.replace(data, **changed)
        paths.append(prepare.prepare_split(made, "decoder", "train"))
        digests.append(cache.read_split(paths[-1]).digest)
        module.write_text("from toy_task import *  # the same, said otherwise\n")
    assert len(set(paths)) == 4
    assert digests[0] == digests[1] == digests[3] != digests[2]
    write_rows(pathlib.Path(data.data), [("ask", "answer"), ("ask", "more")])
    more = cache.read_split(prepare.prepare_split(data, "decoder", "train")).digest
    assert more not in digests


def test_a_damaged_cache_says_what_to_do(data):
    target = prepare.prepare_split(data, "decoder", "train")
    (target / "toy_file" / "targets.offsets.npy").write_bytes(b"")
    with pytest.raises(errors.DataError, match=f"damaged.*{target.name}.*remove the directory"):
        cache.read_split(target)


def test_an_example_without_a_learnt_token_is_dropped_or_an_error(data):
    """A row of 4 places takes the first 5 tokens: the answer lies behind them."""
    write_rows(pathlib.Path(data.data), [("a", "b"), ("a longer question", "b")])
    data = dataclasses.replace(data, too_long="cut_response", decoder_length=4)
    split = cache.read_split(prepare.prepare_split(data, "decoder", "train"))
    assert (split.card["kept"], split.card["dropped: nothing to learn"]) == (1, 1)
    data = dataclasses.replace(data, unlearnt="error", cache_dir=data.cache_dir + "2")
    assert "no token of it learns; toy_file[1]" in complaint(errors.DataError, data, "decoder")


def test_a_directory_given_as_data_is_where_tasks_look(data, tmp_path, monkeypatch):
    monkeypatch.setenv("T5SFT_DATA", "elsewhere")
    prepare.register(dataclasses.replace(data, data=str(tmp_path), modules=()))
    assert os.environ["T5SFT_DATA"] == str(tmp_path)


def test_the_summary_tells_every_figure_and_writes_the_page(data, capsys, monkeypatch):
    rows = [("ask", "four"), ("ask", "four"), ("ask", "   "), ("ask", "x" * 16), ("<b>", "<i>&")]
    write_rows(pathlib.Path(data.data), rows)
    for split in ("train",):
        prepare.prepare_split(data, "encoder_decoder", split)
    monkeypatch.setattr(subprocess, "Popen", None)
    model = types.SimpleNamespace(layout="encoder_decoder")
    got = prepare.prepare(model=model, data=data, splits=("train",), sequence_length=("32,16", "9"))
    assert json.loads(json.dumps(got)) == got
    expected = {"examples": 3, "read": 5, "kept": 3, "dropped": 2, "truncated": 0, "tokens": 27,
                "learnt_tokens": 15, "duplicates": 1, "truncated_by": {},
                "dropped_by": {"empty response": 1, "too long": 1}}  # fmt: skip
    (split,) = got["splits"].values()
    for one in (got, split):
        assert {key: one[key] for key in expected} == expected
        assert one["packing_efficiency"] == one["packing"][0]["efficiency"] > 0.3
        assert [row["sequence_length"] for row in one["packing"]] == ["32,16", "9,9"]
    assert split["tasks"]["toy_file"]["lengths"]["targets"]["max"] == 5
    assert split["sources"][0]["path"] == data.data and got["seconds"] >= 0
    page = pathlib.Path(got["page"]).read_text(encoding="utf-8")
    assert "&lt;i&gt;&amp;" in page and "<i>&" not in page and "dropped: too long" in page
    err = capsys.readouterr().err
    assert "train: 5 examples read, 3 kept, 2 dropped (1 empty response, 1 too long)" in err
    assert "exact duplicates: 1" in err and got["page"] in err and "rows of 32,16" in err
