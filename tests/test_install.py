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
    for name in ("t5sft", "gin", "tasks"):
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
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    bound = next(line for line in metadata.splitlines() if line.startswith("Requires-Python"))
    assert ">=3.11" in bound and "<3.14" in bound


def test_every_requirement_has_bounds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith("METADATA"))
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
