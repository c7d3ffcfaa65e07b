"""The cache is named by all that decides its content, appears whole, and counts what it left out."""

import dataclasses
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest

from t5sft import errors
from t5sft.data import cache, prepare

VILLAGE = "tasks/village/vocab.model"
TOY = prepare.Data(
    task="toy", vocabulary="bytes", modules=("toy_task",), encoder_length=32, decoder_length=16
)


def write_rows(path, rows):
    path.write_text(json.dumps([{"inputs": a, "targets": b} for a, b in rows]))
    return str(path)


@pytest.fixture
def data(tmp_path):
    """Settings over a file of one's own."""
    file = write_rows(tmp_path / "rows.json", [("ask", "answer")])
    return dataclasses.replace(TOY, task="toy_file", data=file, cache_dir=str(tmp_path / "cache"))


def name(data, layout="encoder_decoder", split="train"):
    return prepare.digest(data, layout, split)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "toy_copy"},
        {"template": "lines"},
        {"vocabulary": VILLAGE},
        {"encoder_length": 33},
        {"decoder_length": 17},
        {"objective": "span_corruption"},
        {"learn": "everything"},
        {"prompt_weight": 0.1},
        {"too_long": "cut_prompt"},
        {"noise_density": 0.2},
        {"seed": 1},
        {"modules": ("toy_task", "golden.remake")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_digest_changes_with_every_setting(data, change):
    assert name(dataclasses.replace(data, **change)) != name(data)


def test_every_setting_is_in_that_test():
    (mark,) = test_digest_changes_with_every_setting.pytestmark
    changed = {field for change in mark.args[1] for field in change}
    fields = {field.name for field in dataclasses.fields(prepare.Data)}
    assert fields - changed == {"data", "cache_dir"}


def test_digest_changes_with_layout_split_and_the_bytes_of_data(data):
    before = name(data)
    assert len({before, name(data, "decoder"), name(data, split="validation")}) == 3
    write_rows(pathlib.Path(data.data), [("ask", "Answer")])
    assert name(data) != before


def test_digest_does_not_change_with_places(data, tmp_path):
    """Another cache, or the same vocabulary and data elsewhere, is the same content."""
    moved = shutil.copy(data.data, tmp_path / "elsewhere.json")
    assert name(dataclasses.replace(data, cache_dir="/elsewhere", data=moved)) == name(data)
    copied = shutil.copy(VILLAGE, tmp_path / "other.model")
    first, second = (dataclasses.replace(data, vocabulary=str(path)) for path in (VILLAGE, copied))
    assert name(first) == name(second)


def test_cache_lies_where_it_is_told(data, tmp_path, monkeypatch):
    def root(**change):
        path = prepare.directory(dataclasses.replace(data, **change), "decoder", "train")
        assert path.name == name(data, "decoder")
        return path.parent

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("T5SFT_CACHE", raising=False)
    assert root() == tmp_path / "cache" / "prepared"
    assert root(cache_dir=None) == tmp_path / "xdg" / "t5sft" / "prepared"
    monkeypatch.setenv("T5SFT_CACHE", str(tmp_path / "variable"))
    assert root(cache_dir=None) == tmp_path / "variable" / "prepared"


@pytest.mark.parametrize(
    "line",
    [
        "import rows_{n}.texts",
        "import rows_{n}.texts as texts",
        "from rows_{n} import texts",
        "from rows_{n}.texts import ROWS",
        "from . import texts",
        "from .texts import ROWS",
        "def later():\n    from rows_{n} import texts",
    ],
)
@pytest.mark.parametrize("module", ["rows_{n}.task", "rows_{n}"])
def test_digest_changes_with_the_source_of_modules(
    data, tmp_path, monkeypatch, request, line, module
):
    number = zlib.crc32(
        request.node.name.encode()
    )  # a package of its own: Python remembers where they are
    line, module = line.format(n=number), module.format(n=number)
    package = tmp_path / f"rows_{number}"
    package.mkdir()
    is_package = "." not in module
    (package / "__init__.py").write_text(line if is_package else "")
    (package / "task.py").write_text(line)
    (package / "texts.py").write_text("ROWS = 1")
    (package / "other.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    data = dataclasses.replace(data, modules=(module,))
    before = name(data)
    (package / "other.py").write_text("# nobody imports it")
    assert name(data) == before
    own = package / ("__init__.py" if is_package else "task.py")
    own.write_text(f"{line}\n# changed")
    of_itself = name(data)
    (package / "texts.py").write_text("ROWS = 2")
    assert len({before, of_itself, name(data)}) == 3


def test_unknown_module_file_and_choices_are_refused_at_once(data):
    def complaint(**change):
        with pytest.raises(errors.ConfigError) as raised:
            name(dataclasses.replace(data, **change))
        return str(raised.value)

    assert "no module 'toy_tusk'" in complaint(modules=("toy_tusk",))
    assert "no module 'no_package.task'" in complaint(modules=("no_package.task",))
    assert "nowhere.json" in complaint(data="/nowhere.json")
    assert "nowhere.model" in complaint(vocabulary="/nowhere.model")
    assert "did you mean 'lines'" in complaint(template="line")
    assert "did you mean 'drop'" in complaint(too_long="dropp")
    assert "did you mean 'instruction'" in complaint(objective="instructions")


# What follows runs SeqIO: in this process where the outcome is looked at, in a child where the
# child itself is.


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The toy mixture, prepared."""
    data = dataclasses.replace(TOY, cache_dir=str(tmp_path_factory.mktemp("cache")))
    for split in ("train", "validation"):
        prepare.prepare_split(data, "encoder_decoder", split)
    return data


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
    assert split.card["tasks"] == {"toy_file": {"rate": 1.0, **expected}}
    assert {key: split.card.get(key, 0) for key in expected} == expected
    assert split.tasks["toy_file"].numbers.tolist() == kept
    line = prepare.describe("train", split.card)
    assert line.startswith(f"train: 5 examples read, {counts['kept']} kept, ")
    assert "1 empty response" in line and f"{counts['truncated']} truncated" in line


def complaint(kind, data, layout="encoder_decoder", split="train"):
    with pytest.raises(kind) as raised:
        prepare.prepare_split(data, layout, split)
    assert not list(pathlib.Path(data.cache_dir).glob("prepared/*"))
    return str(raised.value)


def test_when_every_example_is_dropped_the_counts_are_told(data):
    write_rows(pathlib.Path(data.data), [("ask", ""), ("ask", "x" * 99), ("ask", "y" * 99)])
    got = complaint(errors.DataError, data)
    for part in ("left of 3", "'dropped: too long': 2", "'dropped: empty response': 1", "toy_file",
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


def test_cut_short_it_leaves_no_half_cache(data, monkeypatch):
    """The mixture has two tasks: the process ends between the first and the second."""
    data = dataclasses.replace(data, task="toy")
    write_task, written = cache.write_task, []

    def dies(directory, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(directory)
        write_task(directory, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_task", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare_split(data, "encoder_decoder", "train")
    (half,) = written
    assert (half / "targets.ids.npy").exists()  # what a killed process leaves behind
    target = prepare.directory(data, "encoder_decoder", "train")
    assert not target.exists()
    assert prepare.prepare_split(data, "encoder_decoder", "train") == target
    assert len(cache.read_split(target).tasks) == 2


def test_only_what_dead_processes_left_is_removed(data):
    """Hosts that share a cache, or two runs begun together, prepare the same split at once."""
    target = prepare.directory(data, "decoder", "train")
    dead, alive = (target.parent / f".{target.name}.{pid}.tmp" for pid in (2**22 + 1, 1))
    for path in (dead, alive):
        path.mkdir(parents=True)
    os.utime(dead, (0, 0))
    prepare.prepare_split(data, "decoder", "train")
    assert alive.exists() and not dead.exists()
    assert sorted(target.parent.iterdir()) == sorted([alive, target])


def test_the_quicker_of_two_processes_wins(data, tmp_path):
    target = prepare.prepare_split(data, "decoder", "train")
    slower = tmp_path / "slower"
    shutil.copytree(target, slower)
    cache.publish(slower, target, {"tasks": {}})
    assert not slower.exists()
    assert len(cache.read_split(target).tasks["toy_file"]) == 1


def test_a_damaged_cache_says_what_to_do(data):
    target = prepare.prepare_split(data, "decoder", "train")
    (target / "toy_file" / "targets.offsets.npy").write_bytes(b"")
    with pytest.raises(errors.DataError, match=f"damaged.*{target.name}.*remove the directory"):
        cache.read_split(target)


def child(data, tmp_path, monkeypatch, source):
    """What `Preparation` raises when the module of the task has this source."""
    (tmp_path / "broken_task.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    data = dataclasses.replace(data, modules=("broken_task",))
    with pytest.raises(errors.T5sftError) as raised:
        prepare.Preparation(data, "decoder", ("train",)).result()
    assert not list(pathlib.Path(data.cache_dir).glob("prepared/*"))
    return raised.value


@pytest.mark.parametrize("kind", [errors.ConfigError, errors.DataError, errors.StorageError])
def test_errors_of_the_child_come_back_as_they_are(data, tmp_path, monkeypatch, kind):
    source = f"""
        from t5sft import errors
        print("noise")
        def register(data):
            raise errors.{kind.__name__}("what ä; " + data + ";\\ndo")
        """
    got = child(data, tmp_path, monkeypatch, source)
    assert type(got) is kind and str(got) == f"what ä; {data.data}; do"


@pytest.mark.parametrize(
    "source, code",
    [("import os; os._exit(9)", 9), ("1 / 0", 1), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_a_child_that_dies_is_an_error(data, tmp_path, monkeypatch, source, code):
    got = child(data, tmp_path, monkeypatch, source)
    assert type(got) is errors.DataError and f"code {code};" in str(got)


def test_a_module_missing_in_the_child_is_named(data, tmp_path, monkeypatch):
    got = child(data, tmp_path, monkeypatch, "import no_such_module_anywhere")
    assert type(got) is errors.ConfigError and "no_such_module_anywhere" in str(got)


@pytest.mark.slow
def test_a_child_prepares_and_this_process_stays_without_tensorflow(toy, tmp_path):
    """In a fresh process: the child is killed half-way, started again, and gives the same data."""
    (tmp_path / "killed_task.py").write_text(
        textwrap.dedent("""
        import os, pathlib, signal
        import toy_task
        from t5sft.data import cache

        write_task = cache.write_task

        def dies(directory, *arguments):
            mark = pathlib.Path(__file__).with_suffix(".mark")
            if mark.exists() or directory.name == "toy_copy":
                return write_task(directory, *arguments)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        cache.write_task = dies
        """)
    )
    code = f"""
        import sys
        sys.path[:0] = [{str(tmp_path)!r}, {str(pathlib.Path(__file__).parents[1])!r}]
        from t5sft import errors
        from t5sft.data import prepare

        data = prepare.Data(**{dataclasses.asdict(toy)!r} | dict(
            modules=("killed_task",), cache_dir={str(tmp_path)!r}))
        for attempt in range(2):
            try:
                (split,) = prepare.Preparation(data, "encoder_decoder", ("train",)).result()
            except errors.DataError as error:
                assert "code -9" in str(error) and attempt == 0
        assert "tensorflow" not in sys.modules and "seqio" not in sys.modules
        print(prepare.directory(data, "encoder_decoder", "train"))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    got = cache.read_split(pathlib.Path(done.stdout.strip()))
    expected = cache.read_split(prepare.directory(toy, "encoder_decoder", "train"))
    for task, examples in expected.tasks.items():
        for column, values in examples.columns.items():
            np.testing.assert_array_equal(got.tasks[task].columns[column], values)
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [got.digest]
    assert signal.SIGKILL == 9
