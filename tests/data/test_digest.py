"""The cache is named by all that decides its content, and by nothing else."""

import dataclasses
import importlib
import pathlib
import shutil
import zlib

import pytest
from toy_data import write_rows

from t5sft import errors
from t5sft.data import prepare

VILLAGE = "tasks/village/vocab.model"


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
        {"candidates": "best"},
        {"system": "Be brief."},
        {"too_long": "cut_prompt"},
        {"unlearnt": "error"},
        {"format": "alpaca"},
        {"columns": {"output": "response"}},
        {"on_bad_record": "skip"},
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
    assert fields - changed == {"data", "cache_dir", "streaming"}


def test_digest_changes_with_layout_split_and_the_bytes_of_data(data):
    before = name(data)
    assert len({before, name(data, "decoder"), name(data, split="validation")}) == 3
    write_rows(pathlib.Path(data.data), [("ask", "Answer")])
    assert name(data) != before


def test_data_may_be_a_file_a_glob_or_a_directory(data, tmp_path):
    (tmp_path / "many").mkdir()
    for number in (2, 1):
        write_rows(tmp_path / "many" / f"{number}.json", [("ask", str(number))])
    every = dataclasses.replace(data, data=str(tmp_path / "many"))
    some = dataclasses.replace(data, data=str(tmp_path / "many" / "*.json"))
    assert [path.name for path in prepare.files(some.data)] == ["1.json", "2.json"]
    assert name(some) == name(every) != name(data)
    write_rows(tmp_path / "many" / "3.json", [("ask", "3")])
    assert len({name(some), name(every)}) == 1 and len(prepare.files(every.data)) == 3


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
