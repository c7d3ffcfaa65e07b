"""One command line, one exit code, one line that tells what went wrong."""

import importlib
import json
import os
import resource
import subprocess
import sys

import pytest

from t5sft import cli, errors, launch, paths, signatures

BASE = """\
from __gin__ import dynamic_registration
from played import verbs
MODEL_DIR = %gin.REQUIRED
SEED = 1
verbs.train.model_dir = %MODEL_DIR
verbs.train.seed = %SEED
verbs.generate.model_dir = %MODEL_DIR
"""
VERBS = """
import os
from t5sft import errors

def train(*, model_dir: str, seed: int = 0, config: str = "") -> dict:
    print("for people")
    os.write(1, b"from a library in C\\n")
    if seed == 2:
        raise errors.DataError("no rows; data.jsonl; add some")
    if seed == 3:
        raise OSError(28, "No space left on device", "/full")
    if seed == 4:
        raise KeyboardInterrupt
    if seed == 5:
        raise RuntimeError("a bug")
    if seed == 6:
        raise BrokenPipeError
    return {"seed": seed, "model_dir": model_dir, "config": config}

def generate(*, model_dir: str, prompt: str | None = None, inputs: str | None = None,
             output: str | None = None) -> dict:
    return {"prompt": prompt, "model_dir": model_dir}
"""


def read_signatures_anew():
    for cached in (signatures.source, signatures.members):
        cached.cache_clear()


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Puts a small package of verbs in the place of the real ones."""
    (tmp_path / "played").mkdir()
    (tmp_path / "played" / "__init__.py").write_text("")
    (tmp_path / "played" / "verbs.py").write_text(VERBS)
    (tmp_path / "a.gin").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "_set_environment", lambda: None)
    for module in ("played", "played.verbs"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for verb in ("train", "generate"):
        monkeypatch.setitem(launch.ROOTS, verb, f"played.verbs.{verb}")
    read_signatures_anew()
    importlib.invalidate_caches()
    with launch.gin.config.interactive_mode():
        yield tmp_path
    launch.gin.clear_config()
    read_signatures_anew()


def main(*arguments):
    return cli.main([arguments[0], "--gin_import", "played", *arguments[1:]])


def train(*arguments):
    return main("train", "--gin_file", "a.gin", "--model_dir", "/runs/a", *arguments)


def test_returns_0_and_prints_one_json_object(played, capfd):
    assert train("--gin.SEED=9", "--json") == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert (result["seed"], result["model_dir"]) == (9, "/runs/a")
    assert "for people" in err and "from a library in C" in err


def test_without_json_stdout_is_for_people(played, capfd):
    assert train() == 0
    assert capfd.readouterr().out == "for people\nfrom a library in C\n"


@pytest.mark.parametrize(
    ("seed", "code", "line"),
    [
        (2, 3, "t5sft: error[DATA]: no rows; data.jsonl; add some"),
        (3, 6, "t5sft: error[STORAGE]: No space left on device; /full; make room"),
        (4, 130, "t5sft: error[INTERRUPTED]: stopped from the keyboard"),
        (5, 1, "t5sft: error[INTERNAL]: RuntimeError: a bug; t5sft itself; run again with"),
    ],
)
def test_every_failure_has_its_exit_code_and_line(played, capfd, seed, code, line):
    assert train(f"--gin.SEED={seed}") == code
    err = capfd.readouterr().err
    assert line in err and "Traceback" not in err
    assert train(f"--gin.SEED={seed}", "--verbose") == code
    assert "Traceback" in capfd.readouterr().err


def test_a_failure_is_one_json_object_too(played, capfd):
    assert train("--gin.SEED=2", "--json") == 3
    assert json.loads(capfd.readouterr().out) == {
        "error": "DATA",
        "message": "no rows; data.jsonl; add some",
        "exit_code": 3,
    }


def test_flags_of_a_verb_become_arguments_of_its_function(played, capfd):
    arguments = ["--gin_file", "a.gin", "--model_dir", "/runs/b", "--prompt", "Hi", "--json"]
    assert main("generate", *arguments) == 0
    assert json.loads(capfd.readouterr().out) == {"prompt": "Hi", "model_dir": "/runs/b"}


def test_the_configuration_saved_in_model_dir_is_used(played, capfd):
    assert train("--json") == 0
    (played / "config.gin").write_text(json.loads(capfd.readouterr().out)["config"])
    assert main("generate", "--model_dir", str(played), "--json") == 0
    assert json.loads(capfd.readouterr().out)["model_dir"] == str(played)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "unknown verb 'trian' (did you mean 'train'?); command line; use train, "),
        (["--helpp"], "unknown flag '--helpp' (did you mean '--help'?)"),
        (["train", "--gin_fil", "a.gin"], "unknown flag '--gin_fil' (did you mean '--gin_file'?)"),
        (["train", "--model-dir=x"], "unknown flag '--model-dir' (did you mean '--model_dir'?)"),
        (["train", "--prompt", "x"], "unknown flag '--prompt'; command line; see t5sft train"),
        (["train", "a.gin"], "unknown argument 'a.gin'"),
        (["train", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["train", "--gin_file"], "argument --gin_file: expected one argument"),
        (["train", "--gin_file", "none.gin"], "no file none.gin; --gin_file; looked in"),
        (["train"], "train has no configuration; command line; add --gin_file (recipes:"),
        (["evaluate", "--model_dir", "/none"], "/none holds no config.gin; add --gin_file"),
        (["train", "--gin.STEPS", "3"], "--gin.STEPS has no value; command line; write"),
    ],
)
def test_a_wrong_command_line_exits_2_with_the_nearest_name(capfd, arguments, words):
    assert cli.main(arguments) == 2
    err = capfd.readouterr().err
    assert err.startswith("t5sft: error[CONFIG]: ") and words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("verb", list(launch.ROOTS))
def test_every_verb_has_help(capfd, verb):
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    out = capfd.readouterr().out
    for flag in ("--gin_file", "--gin.NAME=value", "--model_dir", "--json", "--verbose"):
        assert flag in out


def test_no_arguments_is_an_error_that_shows_the_verbs(capfd):
    assert cli.main([]) == 2
    out, err = capfd.readouterr()
    assert out == "" and all(verb in err for verb in launch.ROOTS)


def test_exit_codes_in_the_help_are_those_of_the_errors():
    for kind in errors.T5sftError.__subclasses__():
        assert f"{kind.exit_code} " in cli._EPILOG


def python(program, *arguments, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(paths.folder("gin").parent)}
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_help_answers_in_half_a_second(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = python(["-m", "t5sft"], "--help", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.returncode == 0 and ran.stdout.startswith("usage: t5sft VERB")
    # Of the CPU, not of the clock: the machine may be busy.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_imports_the_standard_library_only(tmp_path):
    program = (
        "import sys; before = set(sys.modules); from t5sft import cli; cli.main(['--help']); "
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(tops - set(sys.stdlib_module_names) - {'t5sft'}))"
    )
    assert python(["-c", program], cwd=tmp_path).stdout.splitlines()[-1] == "[]"


def test_version(capfd):
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out.strip() == cli.t5sft.__version__


def test_compiled_programs_are_kept_unless_the_user_decides(monkeypatch, tmp_path):
    name = "JAX_COMPILATION_CACHE_DIR"
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path)})
    cli._set_environment()
    assert os.environ[name] == str(tmp_path / "t5sft" / "jax" / cli._processor())
    monkeypatch.setattr(os, "environ", {name: "/mine"})
    cli._set_environment()
    assert os.environ[name] == "/mine"


def test_flags_without_a_name_come_first_or_last(monkeypatch):
    """`t5sft convert SOURCE TARGET`: also a flag that other verbs give to a macro reaches it."""
    seen = []
    monkeypatch.setattr(launch, "resolve", lambda *arguments: arguments)
    monkeypatch.setattr(launch, "run", lambda _, **given: seen.append(given) or {})
    monkeypatch.setattr(cli, "_set_environment", lambda: None)
    assert cli.main(["convert", "a", "--dtype", "float32", "b"]) == 0
    assert cli.main(["score", "--model_dir", "m", "f.jsonl", "--batch_size", "4"]) == 0
    assert seen == [
        {"source": "a", "target": "b", "dtype": "float32"},
        {"file": "f.jsonl", "model_dir": "m", "batch_size": 4},
    ]


def test_a_name_that_is_lacking_is_told(capfd):
    assert cli.main(["convert", "a"]) == 2
    assert "required: target; command line" in capfd.readouterr().err


@pytest.mark.parametrize("flag", ["--prompt", "--system"])
def test_a_text_that_is_no_utf8_is_refused(flag, capsys):
    """Python hands such bytes over as half surrogates; tokenizers ended in a TypeError."""
    assert cli.main(["generate", "--model_dir", "nowhere", flag, "a\udcff"]) == 2
    assert f"{flag} is no UTF-8; command line" in capsys.readouterr().err
