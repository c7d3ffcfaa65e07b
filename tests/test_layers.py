"""The layers of docs/architecture.md hold, and the check of them finds a breach."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BREACHES = {  # contract -> (module, the import it must not have)
    "Layers": ("models/t5.py", "from t5sft.train import loop"),
    "gin only in launch": ("train/step.py", "import gin"),
    "Flax only in models": ("train/optim.py", "import flax"),
    "TensorFlow and SeqIO only": ("train/state.py", "import seqio"),
    "The library does not know the tasks": ("data/define.py", "import t5sft.tasks"),
}


def lint(folder):
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as f; f()"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    options = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "t5sft", tmp_path / "t5sft")
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("village"))
    return tmp_path


def test_layers_hold(copy):
    ran = lint(copy)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_breach_of_every_contract_is_found(copy):
    for name, line in BREACHES.values():
        path = copy / "t5sft" / name
        path.write_text(f"{path.read_text()}\n{line}\n")
    ran = lint(copy)
    assert ran.returncode != 0
    for contract in BREACHES:
        told = [text for text in ran.stdout.splitlines() if text.startswith(contract)]
        assert told and any("BROKEN" in text for text in told), ran.stdout


def test_no_file_or_function_is_too_long():
    command = [sys.executable, str(ROOT / "scripts" / "sizes.py")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_function_that_is_too_long_is_found(tmp_path):
    body = "\n".join("    x = 1" for _ in range(70))
    (tmp_path / "long.py").write_text(f"def long():\n{body}\n")
    command = [sys.executable, str(ROOT / "scripts" / "sizes.py"), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1 and "long has 71 lines, at most 70" in ran.stderr


def test_every_test_file_has_a_name_of_its_own():
    """pytest takes two files of one name for one module, and collects neither."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
