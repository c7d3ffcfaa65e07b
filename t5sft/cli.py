"""The command line: t5sft VERB --gin_file FILE [--gin.NAME=value ...] [flags].

Nothing heavy is imported here: --help and a mistyped flag must be answered at once.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import t5sft
from t5sft.errors import ConfigError, DistributedError, StorageError, T5sftError, suggest
from t5sft.verbs import MACRO_FLAGS, MANY, PROCESS_FLAGS, VERBS

_Write = Callable[..., None]  # takes the object of --json
_TEXTS = ("prompt", "once", "system")  # flags that a model reads
_PLACE = ("coordinator", "num_processes", "process_id")
_EPILOG = """\
  --gin.NAME=value      bind a macro (--gin.STEPS=100) or a parameter (--gin.T5.emb_dim=64);
                        a text needs its quotes: --gin.TASK='"village_words"'
Without --gin_file, the configuration saved in --model_dir is used.
Exit codes: 0 done, 1 internal, 2 configuration, 3 data, 4 non-finite loss, 5 checkpoint,
6 storage, 7 another owner of the model directory, 8 distributed, 9 sandbox."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; command line; see {self.prog} --help")


def _parser(verb: str) -> argparse.ArgumentParser:
    summary, _, flags, positional, _ = VERBS[verb]
    parser = _Parser(
        prog=f"t5sft {verb}",
        description=summary,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "configuration, as gin/recipes/quickstart.gin; may be repeated"
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help=text)
    text = "let gin files import this module too; may be repeated"
    parser.add_argument("--gin_import", action="append", default=[], metavar="MODULE", help=text)
    shared = {} if positional else MACRO_FLAGS
    shared = {**shared, **(PROCESS_FLAGS if verb in MANY else {})}
    for name, (kind, text) in {**shared, **flags}.items():
        action = "append" if text.endswith("may be repeated") else "store"
        name = name if name in positional else f"--{name}"
        if kind is bool:
            parser.add_argument(name, action="store_const", const=True, help=text)
        else:
            parser.add_argument(name, type=kind, action=action, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--verbose", action="store_true", help="traceback of an error")
    return parser


def _overview() -> str:
    verbs = "\n".join(f"  {verb:10}{summary}" for verb, (summary, *_) in VERBS.items())
    return f"""\
usage: t5sft VERB --gin_file FILE [--gin.NAME=value ...] [--model_dir DIR] [flags]

{t5sft.__doc__}

{verbs}

t5sft VERB --help lists the flags of a verb.
{_EPILOG}"""


def _parse(arguments: Sequence[str]) -> tuple[str, argparse.Namespace, list[str]]:
    """Returns the verb, its flags, and the texts NAME=value of --gin.NAME=value."""
    verb, *rest = arguments
    if verb not in VERBS:
        kind = "flag" if verb.startswith("-") else "verb"
        known = VERBS if kind == "verb" else ["--help", "--version"]
        verbs = ", ".join(VERBS)
        raise ConfigError(
            f"unknown {kind} {verb!r}{suggest(verb, known)}; command line; use {verbs}"
        )
    parser = _parser(verb)
    bindings = [text.removeprefix("--gin.") for text in rest if text.startswith("--gin.")]
    for text in bindings:
        if "=" not in text:
            flag = f"--gin.{text}"
            raise ConfigError(f"{flag} has no value; command line; write {flag}=value")
    flags, unknown = parser.parse_known_args([t for t in rest if not t.startswith("--gin.")])
    if unknown:
        known = [*parser._option_string_actions, "--gin."]
        name = unknown[0].partition("=")[0]
        what = "flag" if name.startswith("-") else "argument"
        hint = suggest(name, known)
        raise ConfigError(f"unknown {what} {name!r}{hint}; command line; see t5sft {verb} --help")
    for name in _TEXTS:
        if any("\ud800" <= c <= "\udfff" for c in getattr(flags, name, None) or ""):
            raise ConfigError(f"--{name} is no UTF-8; command line; write it so")
    return verb, flags, bindings


def _processor() -> str:
    """Returns a name for the instruction set of this machine's CPU.

    XLA keeps programs for a CPU without it: from a home directory shared by different machines,
    one would load a program compiled for another, and may die of an illegal instruction.
    """
    told = [platform.machine()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        told += [next((x for x in lines if x.lower().startswith(("flags", "features"))), "")]
    return hashlib.sha256("".join(told).encode()).hexdigest()[:8]


def _set_environment() -> None:
    """Quietens TensorFlow and XLA and keeps compiled programs, unless the user has decided."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for name, value in {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "GRPC_VERBOSITY": "ERROR",
        "JAX_COMPILATION_CACHE_DIR": os.path.join(cache, "t5sft", "jax", _processor()),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }.items():
        os.environ.setdefault(name, value)


def _score_predictions(given: dict[str, Any], bindings: Sequence[str]) -> Any:
    """Scores recorded answers; no configuration takes part, so none may be given."""
    names = ("predictions", "task", "data", "extraction", "output", "judge", "judge_model")
    names += ("baseline", "allow_code_execution")
    unused = [f"--{name}" for name in given if name not in (*names, "json", "verbose")]
    unused += [f"--gin.{text.partition('=')[0]}" for text in bindings]
    if unused:
        raise ConfigError(
            f"{', '.join(unused)} would have no effect; evaluate --predictions; leave it out"
        )
    from t5sft.evaluate.answers import predictions

    return predictions.score(**{name: given[name] for name in names if name in given})


def _launch(verb: str, flags: argparse.Namespace, bindings: Sequence[str], write: _Write) -> Any:
    given = {name: value for name, value in vars(flags).items() if value not in (None, [])}
    if verb == "evaluate" and "predictions" in given:
        return _score_predictions(given, bindings)
    from t5sft import launch

    own = VERBS[verb].flags
    macros = {n.upper(): given[n] for n in MACRO_FLAGS if n in given and n not in own}
    arguments = {name: given[name] for name in own if name in given}
    files = flags.gin_file
    model_dir = given.get("model_dir")
    saved = pathlib.Path(model_dir or "", launch.SAVED_CONFIG)
    if not files and model_dir and saved.is_file():
        files = [str(saved.absolute())]
    elif not files:
        bare = [name for name in VERBS[verb].bare if name in given]
        arguments |= {name: given[name] for name in bare}
        macros = {name: value for name, value in macros.items() if name.lower() not in bare}
    needed = {"model_dir", "task"} if verb == "evaluate" else set()
    if not files and (not arguments or not needed <= arguments.keys()):
        reason = f"{model_dir} holds no {launch.SAVED_CONFIG}" if model_dir else "command line"
        choices = ", ".join(launch.recipes()) or "none found"
        raise ConfigError(
            f"{verb} has no configuration; {reason}; add --gin_file (recipes: {choices})"
        )
    configuration = launch.resolve(verb, files, bindings, macros, arguments, flags.gin_import)
    _set_environment()
    if verb not in MANY:
        return launch.run(configuration, **arguments)
    from t5sft.parallel import peers, processes

    def end(error: DistributedError) -> NoReturn:
        write(_failure(*_explain(error)), at_once=True)
        peers.end_process(error)

    joining = {name: given[name] for name in PROCESS_FLAGS if name in given}
    place = processes.find(**{name: joining.pop(name, None) for name in _PLACE})
    with processes.joined(place, **joining, end=end):  # before a device is touched
        return launch.run(configuration, **arguments)


@contextlib.contextmanager
def _only_json_on_stdout(is_wanted: bool) -> Iterator[_Write]:
    """Sends everything but the one object to stderr, also what libraries in C print.

    Yields what takes the object; `at_once` where the process ends before this block does.
    """
    if not is_wanted:
        yield lambda result, at_once=False: None
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    objects: list[dict] = []

    def write(result: dict, at_once: bool = False) -> None:
        if at_once:
            os.write(real, f"{json.dumps(result, default=str)}\n".encode())
        else:
            objects.append(result)

    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield write
    finally:
        os.dup2(real, 1)
        os.close(real)
        for result in objects:
            print(json.dumps(result, default=str), flush=True)


def _explain(error: BaseException) -> tuple[str, str, int]:
    """Returns the name, message and exit code of a failure."""
    if isinstance(error, KeyboardInterrupt):
        return "INTERRUPTED", "stopped from the keyboard", 130
    if isinstance(error, T5sftError):
        return error.name, str(error), error.exit_code
    full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if isinstance(error, OSError) and error.errno in full:
        message = f"{error.strerror}; {error.filename or 'a file'}; make room or change the path"
        return StorageError.name, message, StorageError.exit_code
    message = f"{type(error).__name__}: {error}; t5sft itself; run again with --verbose"
    return "INTERNAL", message, 1


def _failure(name: str, message: str, code: int) -> dict[str, Any]:
    return {"error": name, "message": message, "exit_code": code}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    code = _main(list(sys.argv[1:] if arguments is None else arguments))
    if code and "t5sft.parallel.processes" in sys.modules:
        from t5sft.parallel import processes

        processes.leave(code)
    return code


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else ConfigError.exit_code
    if arguments[0] == "--version":
        print(t5sft.__version__)
        return 0
    with _only_json_on_stdout("--json" in arguments) as write:
        try:
            write(_launch(*_parse(arguments), write))
            return 0
        except BrokenPipeError:  # t5sft inspect ... | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        except (Exception, KeyboardInterrupt) as error:
            if "--verbose" in arguments:
                traceback.print_exc()
            name, message, code = _explain(error)
            print(f"t5sft: error[{name}]: {message}", file=sys.stderr)
            write(_failure(name, message, code))
            return code
