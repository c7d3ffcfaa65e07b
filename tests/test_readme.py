"""The README and the documents say what is so: their commands, files and outputs."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from t5sft import cli, launch

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    for line in block.splitlines()
    if language == "bash" and line.startswith("t5sft ")
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[1])
def test_every_command_resolves(command, tmp_path):
    """Everything but the run itself: flags, files, macros. A --data file stands for any."""
    verb, flags, bindings = cli._parse(command[1:])
    assert verb in launch.ROOTS
    if flags.gin_file:
        macros = {"MODEL_DIR": str(tmp_path)} | ({"DATA": flags.data} if flags.data else {})
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
