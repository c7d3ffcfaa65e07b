"""A gin file means what it says, and a mistake in it is told at once with the nearest name.

The library configured here is a small stand-in, written to a temporary folder: what is tested is
the way from gin text to a call, not what is called.
"""

import json
import os
import subprocess
import sys
import textwrap
import time

import gin
import pytest

from t5sft import errors, launch, signatures

LIBRARY = {
    "__init__": "",
    "net": """
        import dataclasses
        from collections.abc import Callable
        from typing import ClassVar, Literal

        from t5sft import errors

        Remat = Literal["none", "full"]

        @dataclasses.dataclass(frozen=True)
        class Model:
            vocab_size: int
            dropout_rate: float = 0.0
            layout: ClassVar[str] = "decoder"
            _hidden: int = dataclasses.field(default=1, init=False)

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class T5(Model):
            num_layers: int = 2
            remat: Remat = "none"
            sizes: tuple[int, ...] = ()
            name: str | None = None

            def __post_init__(self):
                if self.num_layers < 1:
                    raise errors.ConfigError("num_layers is 0; T5; give at least 1")

        class Mesh:
            def __init__(self, *, data=-1, tensor: int = 1):
                self.sizes = (data, tensor)

        def adam(learning_rate: "float", b1=0.9, decay: Callable | None = None):
            return ("adam", learning_rate, b1, decay)

        def sgd(learning_rate: float, **options):
            return ("sgd", learning_rate, options)

        def halve(step):
            return step / 2
    """,
    "run": """
        from stand_in import net

        def train(
            *, model: net.T5, optimizer, steps: int, model_dir: str,
            lengths: dict[str, int] | None = None, is_packed: bool = True,
            other=None, config: str = "",
        ) -> dict:
            if isinstance(other, type):
                other(num_layers=0)
            return {
                "model": model, "optimizer": optimizer, "steps": steps, "model_dir": model_dir,
                "lengths": lengths, "other": other, "config": config,
            }

        def evaluate(*, model: net.T5, model_dir: str, task: str = "all") -> dict:
            return {"model": model, "model_dir": model_dir, "task": task}
    """,
}
BASE = """\
from __gin__ import dynamic_registration
from stand_in import net
from stand_in import run

MODEL_DIR = %gin.REQUIRED
STEPS = 10
MODEL = @net.T5()

run.train:
    model = %MODEL
    optimizer = @net.adam()
    steps = %STEPS
    model_dir = %MODEL_DIR
run.evaluate:
    model = %MODEL
    model_dir = %MODEL_DIR
net.T5.vocab_size = 100
net.adam.learning_rate = 1e-3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "stand_in").mkdir()
    for name, text in LIBRARY.items():
        (tmp_path / "stand_in" / f"{name}.py").write_text(textwrap.dedent(text))
    (tmp_path / "base.gin").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == "stand_in"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(launch.ROOTS, "train", "stand_in.run.train")
    monkeypatch.setitem(launch.ROOTS, "evaluate", "stand_in.run.evaluate")
    for cached in (signatures.source, signatures.members):
        cached.cache_clear()
    with gin.config.interactive_mode():  # each test registers its own copy of the library
        yield tmp_path
    gin.clear_config()
    for cached in (signatures.source, signatures.members):
        cached.cache_clear()


def resolve(*bindings, verb="train", files=("base.gin",), macros=None, arguments=(), **options):
    options.setdefault("allowed", ["stand_in"])
    macros = {"MODEL_DIR": "/runs/a"} if macros is None else macros
    return launch.resolve(verb, files, bindings, macros, arguments, **options)


def run(*bindings, **options):
    return launch.run(resolve(*bindings, **options))


def test_binds_files_then_flags(folder):
    (folder / "recipe.gin").write_text("include 'base.gin'\nSTEPS = 20\n")
    result = run("T5.num_layers=4", "run.train.lengths={'inputs': 8}", files=["recipe.gin"])
    assert result["steps"] == 20
    assert result["model_dir"] == "/runs/a"
    assert result["lengths"] == {"inputs": 8}
    assert (result["model"].vocab_size, result["model"].num_layers) == (100, 4)
    assert result["optimizer"] == ("adam", 1e-3, 0.9, None)


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("STEPS=7", "steps", 7),
        ("train.steps=7", "steps", 7),
        ("stand_in.run.train.steps=7", "steps", 7),
        ("train.model_dir='/b c'", "model_dir", "/b c"),
        ("train.optimizer=@sgd()", "optimizer", ("sgd", 0.5, {})),
        ("train.other=(1,)", "other", (1,)),
        ("train.other=[%STEPS, {'a': (-2.5, None)}]", "other", [10, {"a": (-2.5, None)}]),
    ],
)
def test_a_flag_names_a_macro_or_a_parameter(folder, flag, name, value):
    extra = ["sgd.learning_rate=0.5"] if "sgd" in flag else []
    assert run(flag, *extra)[name] == value


def test_the_last_of_two_flags_wins(folder):
    assert run("STEPS=1", "STEPS=2")["steps"] == 2


def test_scopes_reach_the_call(folder):
    flags = ["train.other=@slow/adam()", "slow/adam.learning_rate=9.0"]
    result = run(*flags)
    assert result["other"] == ("adam", 9.0, 0.9, None)
    assert result["optimizer"] == ("adam", 1e-3, 0.9, None)


def test_a_callers_argument_replaces_a_binding(folder):
    configuration = resolve(verb="evaluate", arguments=["task"])
    assert launch.run(configuration, task="mine")["task"] == "mine"


@pytest.mark.parametrize("left_out", ["STEPS = 10\n", "    steps = %STEPS\n"])
def test_what_a_verb_does_not_need_may_be_missing(folder, left_out):
    text = BASE.replace(left_out, "")
    (folder / "more.gin").write_text(
        text.replace("STEPS = 10\n", "") if "steps" in left_out else text
    )
    assert run(verb="evaluate", files=["more.gin"])["task"] == "all"


def test_the_saved_configuration_repeats_the_run(folder):
    flags = ["T5.num_layers=4", "train.other=@slow/sgd()", "slow/sgd.learning_rate=2.0"]
    first = run(*flags)
    (folder / "config.gin").write_text(first["config"])
    again = run(files=["config.gin"], macros={})
    assert again == first
    assert "net.T5.remat = 'none'" in first["config"]  # a default, kept in case it changes
    assert run(files=["config.gin"], verb="evaluate")["model"] == first["model"]
    changed = run("T5.remat='full'", files=["config.gin"], macros={})
    assert changed["model"].remat == "full"


def test_the_saved_configuration_drops_what_a_flag_replaced(folder):
    first = run("train.optimizer=('none',)", "train.steps=3")
    assert "adam" not in first["config"] and "STEPS" not in first["config"]
    (folder / "config.gin").write_text(first["config"])
    assert run(files=["config.gin"], macros={}) == first


def test_gin_files_are_found_from_anywhere(folder, monkeypatch):
    (folder / "elsewhere").mkdir()
    (folder / "gin" / "runs").mkdir(parents=True)
    (folder / "gin" / "runs" / "base.gin").write_text(BASE)
    (folder / "gin" / "recipe.gin").write_text("include 'gin/runs/base.gin'\n")
    monkeypatch.setattr(launch.paths, "folder", lambda name: folder / name)
    monkeypatch.chdir(folder / "elsewhere")
    assert run(files=["gin/recipe.gin"])["steps"] == 10


def test_the_search_for_gin_files_is_quiet(folder, monkeypatch, caplog):
    test_gin_files_are_found_from_anywhere(folder, monkeypatch)
    assert "Path not found" not in caplog.text


@pytest.mark.parametrize("flag", ["T5.num_layers=0", "train.other=@net.T5"])
def test_an_error_keeps_its_words(folder, flag):
    # The first is raised while gin makes the model, the second when train calls `other`.
    with pytest.raises(errors.ConfigError) as caught:
        run(flag)
    assert str(caught.value) == "num_layers is 0; T5; give at least 1"


# Each: what is wrong, the words that tell it, and a change to BASE or a flag that causes it.
MISTAKES = [
    ("parameter", "no parameter 'drop_rate' (did you mean 'dropout_rate'?); --gin.T5.drop_rate",
     ["T5.drop_rate=0.1"]),
    ("parameter in a file", "no parameter 'vocab' (did you mean 'vocab_size'?); base.gin line 17",
     ("T5.vocab_size", "T5.vocab")),
    ("object", "stand_in.net has no 'adm' (did you mean 'adam'?); base.gin line 11",
     ("@net.adam", "@net.adm")),
    ("object of a flag", "nothing configurable is called 'T55' (did you mean 'T5'?)",
     ["T55.vocab_size=3"]),
    ("alias", "'nets' is not imported (did you mean 'net'?); base.gin line 18",
     ("net.adam.l", "nets.adam.l")),
    ("module", "no module t5sft.errorz (did you mean 't5sft.errors'?); base.gin line 4",
     ("import run\n", "import run\nfrom t5sft import errorz\n")),
    ("macro used", "macro %STEP is not bound (did you mean 'STEPS'?); base.gin line 12",
     ("%STEPS", "%STEP")),
    ("macro bound", "macro STEP is not used (did you mean 'STEPS'?); --gin.STEP", ["STEP=3"]),
    ("file", "no file bse.gin (did you mean 'base.gin'?); --gin_file", {"files": ["bse.gin"]}),
    ("include", "no file x/zzz.gin; base.gin line 1",
     ("from __gin__", "include 'x/zzz.gin'\nfrom __gin__")),
    ("text for int", "T5.vocab_size must be int, not 'eight'", ["T5.vocab_size='eight'"]),
    ("float for int", "T5.vocab_size must be int, not 1000.0", ["T5.vocab_size=1e3"]),
    ("bool for int", "T5.vocab_size must be int, not True", ["T5.vocab_size=True"]),
    ("int for bool", "train.is_packed must be bool, not 1", ["train.is_packed=1"]),
    ("None for float", "T5.dropout_rate must be float, not None", ["T5.dropout_rate=None"]),
    ("text for float", "adam.learning_rate must be float, not '1e-3'",
     ["adam.learning_rate='1e-3'"]),
    ("not one of the words", "T5.remat must be Literal['none', 'full'], not 'half'",
     ["T5.remat='half'"]),
    ("item of a tuple", "T5.sizes must be tuple[int, ...], not (1, 'b')", ["T5.sizes=(1, 'b')"]),
    ("value of a dict", "train.lengths must be dict[str, int] | None, not {'inputs': 'x'}",
     ["train.lengths={'inputs': 'x'}"]),
    ("type of a macro",
     "train.steps must be int, not 'many'; --gin.STEPS, used in base.gin line 12",
     ["STEPS='many'"]),
    ("call left out", "train.steps must be int, not a function: add () to call it",
     ["train.steps=@halve"]),
    ("text without quotes", """--gin.MODEL_DIR='"here"'""", ["MODEL_DIR=here"]),
    ("text without quotes in a file",
     "ten is not a gin value: a text needs quotes, a macro a %; base.gin line 6",
     ("STEPS = 10", "STEPS = ten")),
    ("macro with a flag", "macro %MODEL_DIR is not bound; base.gin line 13; add --model_dir or",
     {"macros": {}, "text": ("MODEL_DIR = %gin.REQUIRED\n", "\n")}),
    ("required macro", "MODEL_DIR is required; base.gin line 5; add --model_dir or",
     {"macros": {}}),
    ("required parameter",
     "net.T5 needs vocab_size; nothing binds it; add --gin.net.T5.vocab_size=",
     ("net.T5.vocab_size = 100\n", "")),
    ("bound twice", "STEPS is bound twice; base.gin line 6 and base.gin line 7",
     ("STEPS = 10", "STEPS = 10\nSTEPS = 11")),
    ("scope", "scope 'slwo' is opened by no reference @slwo/... (did you mean 'slow'?)",
     ["train.other=@slow/adam()", "slwo/adam.b1=0.5"]),
    ("flag without effect", "--batch_size has no effect",
     {"macros": {"MODEL_DIR": "/a", "BATCH_SIZE": 3}}),
    ("flag without effect on a verb", "--steps has no effect; run.evaluate; drop it",
     {"macros": {"MODEL_DIR": "/a", "STEPS": 3}, "verb": "evaluate"}),
    ("flag and binding", "--steps and --gin.STEPS set the same",
     {"macros": {"MODEL_DIR": "/a", "STEPS": 3}, "bindings": ["STEPS=4"]}),
    ("foreign import",
     "import of os is not allowed; base.gin line 4; if you trust it, add --gin_import os",
     ("import run\n", "import run\nimport os\n")),
    ("no value", "--gin.STEPS has no value", ["STEPS="]),
    ("statements in a flag", "--gin.STEPS is not one binding", ["STEPS=1\nimport os"]),
    ("syntax", "base.gin line", ("STEPS = 10", "STEPS = (10")),
    ("a module bound", "stand_in.net is a module", ("@net.adam()", "@net()")),
    ("ambiguity", "no parameter 'modell' (did you mean 'model'?)", ["run.train.modell=3"]),
    ("macro of itself", "macro %STEPS refers to itself", ["STEPS=%STEPS"]),
    ("unknown argument", "run.evaluate has no parameter 'tsk' (did you mean 'task'?)",
     {"verb": "evaluate", "arguments": ["tsk"]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "cause"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_tells_a_mistake_at_once(folder, words, cause):
    options = {}
    if isinstance(cause, tuple):
        assert cause[0] in BASE
        (folder / "base.gin").write_text(BASE.replace(*cause))
    elif isinstance(cause, list):
        options["bindings"] = cause
    else:
        options = dict(cause)
        (folder / "base.gin").write_text(BASE.replace(*options.pop("text", ("", ""))))
    before = time.perf_counter()
    with pytest.raises(errors.ConfigError) as caught:
        resolve(*options.pop("bindings", []), **options)
    assert time.perf_counter() - before < 2
    assert words in str(caught.value)
    assert str(caught.value).count("; ") >= 2, "what; where; what to do"
    assert "stand_in" not in sys.modules, "checked without importing what it configures"


def test_an_include_must_come_before_what_overrides_it(folder):
    (folder / "recipe.gin").write_text("STEPS = 20\ninclude 'base.gin'\n")
    with pytest.raises(errors.ConfigError, match="STEPS is bound twice; recipe.gin line 1 and"):
        resolve(files=["recipe.gin"])


def test_a_file_that_includes_itself_is_told(folder):
    (folder / "a.gin").write_text("include 'b.gin'\n")
    (folder / "b.gin").write_text("include 'a.gin'\n")
    with pytest.raises(errors.ConfigError, match="a.gin includes itself"):
        resolve(files=["a.gin"])


def test_an_ambiguous_flag_lists_the_choices(folder):
    text = LIBRARY["run"] + "\n\n        def T5(*, vocab_size: int): pass\n"
    (folder / "stand_in" / "run.py").write_text(textwrap.dedent(text))
    with pytest.raises(errors.ConfigError, match="ambiguous: stand_in.net.T5, stand_in.run.T5"):
        resolve("T5.vocab_size=3")


def test_open_parameters_are_left_to_the_call(folder):
    flags = ["train.optimizer=@sgd()", "sgd.learning_rate=0.5", "sgd.nesterov=True"]
    assert run(*flags)["optimizer"] == ("sgd", 0.5, {"nesterov": True})


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--gin.T5.emb_dmi=8", "T5 has no parameter 'emb_dmi' (did you mean 'emb_dim'?)"),
        ("--gin.STEPZ=8", "macro STEPZ is not used"),
        ("--gin.T5.emb_dim='x'", "T5.emb_dim must be int, not 'x'"),
    ],
)
def test_exits_before_jax_is_imported(tmp_path, flag, words):
    (tmp_path / "a.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom t5sft.models import t5\n"
        "from t5sft.train import run\nrun.train.model = @t5.T5()\n"
    )
    program = (
        "import sys, time; begun = time.perf_counter(); from t5sft import cli; "
        "code = cli.main(sys.argv[1:]); seconds = time.perf_counter() - begun; "
        "heavy = sorted({'jax', 'tensorflow', 'seqio', 'flax'} & set(sys.modules)); "
        "import json; print(json.dumps([code, heavy, seconds]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(launch.paths.folder("gin").parent)}
    command = [sys.executable, "-c", program, "train", "--gin_file", "a.gin", flag]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    code, heavy, seconds = json.loads(ran.stdout)
    assert (code, heavy) == (2, [])
    assert seconds < 2
    assert words in ran.stderr and ran.stderr.startswith("t5sft: error[CONFIG]: ")
