"""A stranger's gin file binds values: it runs no program and reaches no other module."""

import os

import pytest

from t5sft import errors, launch

MODULES = ("t5sft.data.prepare", "t5sft.train.run", "t5sft.train.optim", "t5sft.train.places")
HEAD = "from __gin__ import dynamic_registration\nimport optax\n" + "".join(
    f"from {module.rpartition('.')[0]} import {module.rpartition('.')[2]}\n" for module in MODULES
)
CALLS = {  # what is referred to -> a binding that makes it do harm
    "prepare.subprocess.Popen": "args = ['touch', '{canary}']",
    "prepare.os.mkdir": "path = '{canary}'",
    "prepare.errors.difflib.get_close_matches": "word = '{canary}'",
    "places.delete": "path = '{canary}'",
    "places.manifest.seal": "directory = '{folder}'",
    "run.pathlib.Path": "x = '{canary}'",
    "run.checkpoint.epath.Path": "x = '{canary}'",
    "optim.jax.numpy.save": "file = '{canary}'",
    "optax.adamw.__globals__.clear": "x = 1",
    "optim.adamw.__init_subclass__": "x = 1",
    "optim.adamw.func": "x = 1",
}


def write(tmp_path, text):
    path = tmp_path / "hostile.gin"
    path.write_text(HEAD + text.format(canary=tmp_path / "canary", folder=tmp_path))
    return str(path)


def refuse(tmp_path, text, match):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(errors.ConfigError, match=match) as raised:
        launch.run(launch.resolve("train", [write(tmp_path, text)]))
    assert raised.value.exit_code == 2
    assert set(tmp_path.iterdir()) <= {*before, tmp_path / "hostile.gin"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("use", ["run.train.model = @{}()", "MODEL = @{}", "run.train.x = [@{}]"])
def test_nothing_but_models_and_the_like_is_called(tmp_path, name, use):
    """`@prepare.subprocess.Popen()` ran a program: a module's imports are its attributes."""
    refuse(
        tmp_path,
        f"{name}.{CALLS[name]}\n{use.format(name)}\n",
        "not for gin files|within no class|has no",
    )


@pytest.mark.parametrize("name", CALLS)
def test_the_same_by_a_flag(tmp_path, name):
    with pytest.raises(errors.ConfigError):
        launch.resolve("train", [write(tmp_path, "")], [f"run.train.model=@{name}()"])


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "import subprocess as optax",
        "from os import path",
        "from t5sft.. import os",
        "import t5sft_evil",
        "import optaxx.os",
    ],
)
def test_other_modules_are_not_imported(tmp_path, text):
    refuse(tmp_path, f"{text}\n", "not allowed|hostile.gin line|not a gin|no module")


def test_an_included_file_may_do_no_more(tmp_path):
    """From any place: an absolute path is no mistake, and no way around the checks."""
    (tmp_path / "inner.gin").write_text(
        "from __gin__ import dynamic_registration\nimport os\nA = @os.abort()\n"
    )
    refuse(tmp_path, f"include '{tmp_path}/inner.gin'\n", "import of os is not allowed")


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/mem", "/", "fifo", "/etc/shadow\0"])
def test_only_a_file_is_included(tmp_path, name):
    """A device or a pipe would be read for ever."""
    if name == "fifo":
        name = f"{tmp_path}/fifo"
        os.mkfifo(name)
    refuse(tmp_path, f"include '{name}'\n", "no file|no gin|hostile.gin line")


def test_values_are_literals(tmp_path):
    for value in ("__import__('os').abort()", "1 + 1", "[x for x in (1,)]", "lambda: 1"):
        refuse(tmp_path, f"STEPS = {value}\n", "hostile.gin line")


def test_a_tower_of_brackets(tmp_path):
    tower = "(" * 5000 + "1" + ")" * 5000
    refuse(tmp_path, f"A = {tower}\n", "hostile.gin")


def test_a_tower_of_macros(tmp_path):
    """2^60 values in sixty lines; and a chain that is longer than Python's stack."""
    use = "run.train.mixing = %M0\n"
    doubled = "".join(f"M{i} = [%M{i + 1}, %M{i + 1}]\n" for i in range(60))
    refuse(tmp_path, f"{doubled}M60 = 1\n{use}", "holds more than 100,000 values")
    chain = "".join(f"M{i} = %M{i + 1}\n" for i in range(3000))
    refuse(tmp_path, f"{chain}M3000 = 1\n{use}", "100 macros in macros")
