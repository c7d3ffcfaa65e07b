"""A wheel holds the library, its gin files and its tasks, and works from any directory."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = """
import json, importlib.util
from t5sft import launch, paths
from t5sft.data import vocab
import t5sft.tasks
print(json.dumps({
    "gin": str(paths.folder("gin")),
    "recipes": launch.recipes(),
    "read": len(list(launch.read("x", launch.find("gin/runs/sft.gin")))),
    "task": importlib.util.find_spec("t5sft.tasks.alpaca").origin,
}))
"""


def tree(folder, prefix=""):
    """Returns the files of a source folder as they are named in a package."""
    found = [p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {prefix + p.relative_to(ROOT).as_posix() for p in found}


EXPECTED = tree("t5sft") | tree("gin", "t5sft/") | tree("tasks", "t5sft/")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Copies the checkout, with a space in its path: building writes into it."""
    copy = tmp_path_factory.mktemp("a checkout")
    for name in ("t5sft", "gin", "tasks", "scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    return copy


def build(checkout, kind):
    """Runs a hook of the build backend, as pip does, without its isolation and so offline."""
    program = f"from setuptools import build_meta; print(build_meta.build_{kind}('out'))"
    (checkout / "out").mkdir(exist_ok=True)
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return checkout / "out" / ran.stdout.splitlines()[-1]


def works(python_path, cwd):
    environment = {**os.environ, "PYTHONPATH": str(python_path)}
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def wheel(checkout):
    return build(checkout, "wheel")


def test_a_wheel_holds_every_file_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == EXPECTED


def test_a_wheel_works_from_another_directory(wheel, tmp_path):
    site = tmp_path / "site packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    told = works(site, tmp_path)
    assert told["gin"] == str(site / "t5sft" / "gin")
    assert told["task"] == str(site / "t5sft" / "tasks" / "alpaca.py")
    assert "gin/recipes/quickstart.gin" in told["recipes"]


def test_a_bare_checkout_works_from_another_directory(checkout, tmp_path):
    told = works(checkout, tmp_path)
    assert told["gin"] == str(checkout / "gin")
    assert told["task"] == str(checkout / "tasks" / "alpaca.py")


def test_a_wheel_has_the_command_and_the_supported_pythons(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        points = next(n for n in names if n.endswith("entry_points.txt"))
        assert "t5sft = t5sft.cli:main" in archive.read(points).decode()
        name = next(n for n in names if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    bound = next(line for line in metadata.splitlines() if line.startswith("Requires-Python"))
    assert ">=3.11" in bound and "<3.14" in bound


def test_every_requirement_has_bounds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist: ")]
    assert len(required) > 10
    for line in required:
        assert "==" in line or "<" in line, line
        assert "git+" not in line and "@" not in line, line


def test_a_source_distribution_holds_what_the_wheel_is_built_from(checkout):
    with tarfile.open(build(checkout, "sdist")) as archive:
        files = [member.name for member in archive.getmembers() if member.isfile()]
    names = {name.partition("/")[2] for name in files}
    assert tree("t5sft") | tree("gin") | tree("tasks") <= names
    assert {"setup.py", "pyproject.toml"} <= names
    assert not [name for name in names if "__pycache__" in name]


def sh(checkout, script, *arguments, **environment):
    """Runs a script as on a bare machine: no variables but HOME and PATH."""
    command = ["bash", str(checkout / "scripts" / script), *arguments]
    base = {"HOME": str(checkout), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, cwd="/", env={**base, **environment}, capture_output=True, text=True
    )


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path):
    """Makes an environment whose Python and t5sft write down what they are called with."""
    folder = tmp_path / "an environment"
    log = f'echo "$(basename "$0") $*" >> "{folder}/log"'
    executable(folder / "bin" / "t5sft", log)
    python = f'if [ "$1" = -m ]; then {log}; else exec "{sys.executable}" "$@"; fi'
    executable(folder / "bin" / "python", python)
    return folder


def called(environment):
    """Returns the calls since the last look, shortened to program and first two arguments."""
    lines = (environment / "log").read_text().splitlines()
    (environment / "log").unlink()
    return [" ".join(line.split()[:3]) for line in lines]


def test_test_sh_installs_once_and_again_when_setup_py_changes(checkout, environment):
    def test():
        ran = sh(checkout, "test.sh", "-k", "x", T5SFT_VENV=str(environment))
        assert ran.returncode == 0, ran.stderr
        return called(environment)

    assert test() == ["python -m pip", "python -m pytest"]
    assert test() == ["python -m pytest"]
    with open(checkout / "setup.py", "a") as setup:
        setup.write("# changed\n")
    assert test() == ["python -m pip", "python -m pytest"]


def test_test_sh_runs_the_slow_tests_when_told(checkout, environment):
    ran = sh(checkout, "test.sh", "-m", "slow", T5SFT_VENV=str(environment))
    assert ran.returncode == 0, ran.stderr
    assert (environment / "log").read_text().rstrip().endswith("-m slow")


def test_what_test_sh_installed_is_enough_for_quickstart(checkout, environment):
    sh(checkout, "test.sh", T5SFT_VENV=str(environment))
    called(environment)
    ran = sh(checkout, "quickstart.sh", "--steps", "3", T5SFT_VENV=str(environment))
    done = ["t5sft train --gin_file", "t5sft evaluate --model_dir"]
    assert called(environment) == done, ran.stderr


def test_quickstart_keeps_a_finished_run_and_continues_another(checkout, environment, tmp_path):
    def model_dir(name, *arguments):
        ran = sh(checkout, "quickstart.sh", *arguments, T5SFT_VENV=str(environment))
        log = (environment / "log").read_text().splitlines()[-2:]
        assert f"--gin_file gin/recipes/{name}.gin" in log[0], ran.stderr
        trained, evaluated = (line.partition(" --model_dir ")[2].split(" --")[0] for line in log)
        assert trained == evaluated
        return trained.removeprefix(str(checkout / "runs"))

    runs = checkout / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    assert model_dir("quickstart") == "/quickstart"
    (runs / "quickstart").mkdir(parents=True)  # begun, not finished
    assert model_dir("quickstart") == "/quickstart"
    (runs / "quickstart" / "result.json").write_text("{}")  # finished
    assert model_dir("quickstart", "--steps", "3") == "/quickstart-2"
    assert model_dir("quickstart_decoder", "decoder") == "/quickstart_decoder"
    assert model_dir("quickstart", "--model_dir", "/mine") == "/mine"


def test_scripts_tell_what_a_machine_lacks(checkout, tmp_path):
    for tool in ("bash", "dirname", "head", "tail", "rm"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    options = {"PATH": str(tmp_path), "T5SFT_VENV": str(tmp_path / "none")}
    ran = sh(checkout, "test.sh", **options)
    assert ran.returncode == 1 and "needs Python 3.11, 3.12 or 3.13 on PATH" in ran.stderr
    executable(tmp_path / "python3", 'if [ "$1" = -V ]; then echo Python 3.8.1; fi; exit 1')
    ran = sh(checkout, "test.sh", **options)
    assert ran.returncode == 1 and "python3 is Python 3.8.1" in ran.stderr
    executable(tmp_path / "python3", 'if [ "$1" = -m ]; then exit 1; fi')
    ran = sh(checkout, "test.sh", **options)
    assert ran.returncode == 1 and "apt install python3-venv" in ran.stderr
    assert not (tmp_path / "none").exists()


def test_an_unknown_quickstart_lists_those_there_are(checkout, environment):
    ran = sh(checkout, "quickstart.sh", "decodr", T5SFT_VENV=str(environment))
    assert ran.returncode == 1 and "gin/recipes/quickstart_decoder.gin" in ran.stderr
