"""The README and the documents say what is so: their commands, files and outputs."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from t5sft import cli, launch
from t5sft.convert import families

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for document in DOCUMENTS
    for block in re.findall(r"```bash\n(.*?)```", document, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("t5sft ")
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[1])
def test_every_command_resolves(command, tmp_path):
    """Everything but the run itself: flags, files, macros. A --data file stands for any."""
    verb, flags, bindings = cli._parse(command[1:])
    assert verb in launch.ROOTS
    if flags.gin_file:
        given = {"DATA": flags.data, "INIT_FROM": flags.init_from}
        macros = {"MODEL_DIR": str(tmp_path)} | {k: v for k, v in given.items() if v}
        launch.resolve(verb, flags.gin_file, bindings, macros)


@pytest.mark.parametrize("script", re.findall(r"^scripts/[\w.]+", README, flags=re.MULTILINE))
def test_every_script_is_there_and_is_bash(script):
    assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    sorted({m for text in DOCUMENTS for m in re.findall(r"`([\w/]+\.(?:py|gin))[:`]", text)}),
)
def test_every_file_named_is_there(name):
    assert (ROOT / name).exists() or (ROOT / "t5sft" / name).exists()


def test_the_typo_prints_what_is_shown():
    (block,) = [text for _, text in BLOCKS if "LEARNING_RAT=" in text]
    command, expected = block.strip().split("\n", 1)
    words = shlex.split(command.removeprefix("$ "))
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.split() == expected.split()


def test_every_family_is_named():
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs/models.md").read_text()))
    assert families.FAMILIES.keys() <= named
    assert "umt5" not in families.FAMILIES and "mixtral" not in families.FAMILIES


def test_every_test_named_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs/reliability.md").read_text())
    assert len(named) > 12 and all((ROOT / name).is_file() for name in named)
