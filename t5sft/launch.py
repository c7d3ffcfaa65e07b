"""Turns gin files and flags into a call: the only module that imports gin.

`resolve` checks a configuration without importing JAX; `run` then imports what it configures and
calls the verb's root function with its bindings.
"""

import contextlib
import dataclasses
import importlib
import importlib.util  # noqa: F401  gin 0.5.0 uses importlib.util without importing it
import inspect
import logging
import pathlib
import sys
import tokenize
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import gin

from t5sft import paths, preflight, statements, verbs
from t5sft.errors import ConfigError, suggest
from t5sft.statements import Binding, Import, Macro, Reference
from t5sft.train import hosts

if not hasattr(gin, "parse_config"):  # The folder gin/ of a checkout, found as a namespace.
    raise ConfigError("gin-config is not installed; this Python; run pip install gin-config==0.5.0")

from gin import config_parser

ROOTS = {name: verb.root for name, verb in verbs.VERBS.items()}
SAVED_CONFIG = "config.gin"  # where a run keeps its configuration, in its model directory


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A checked configuration: what gin will be given, and what is called."""

    root: str
    files: tuple[pathlib.Path, ...]
    overrides: str  # gin text that takes effect after the files
    imports: tuple[str, ...]


class _Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as they are written; gin's own would import."""

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> Reference:
        scope, _, selector = scoped_name.rpartition("/")
        return Reference(selector, scope, evaluate)

    def macro(self, name: str) -> Macro:
        return Macro(name)


def resolve(
    verb: str,
    gin_files: Sequence[str] = (),
    bindings: Sequence[str] = (),
    macros: Mapping[str, Any] | None = None,
    arguments: Collection[str] = (),
    allowed: Collection[str] = (),
) -> Configuration:
    """Returns the checked configuration of a verb; raises ConfigError for any mistake in it.

    Args:
      verb: a key of ROOTS.
      gin_files: in the order they take effect, looked for as `find` does.
      bindings: "NAME=value" texts of --gin.NAME=value; NAME is a macro, or the last parts of a
        parameter's name (T5.emb_dim, run.train.seed). A later one wins.
      macros: values of the plain flags, as {"STEPS": 100}; the files must use each.
      arguments: parameters of the root function that `run` will be given.
      allowed: modules besides t5sft and optax that the files may import (--gin_import).
    """
    if allowed and "" not in sys.path:
        sys.path.append(str(pathlib.Path.cwd()))  # Last: a stray seqio.py must not win.
    files = tuple(find(name) for name in gin_files)
    lines = [s for name, path in zip(gin_files, files, strict=True) for s in read(name, path)]
    flags = [_flag(text) for text in bindings]
    for name, value in (macros or {}).items():
        flag = f"--{name.lower()}"
        if any(binding.macro == name for binding in flags):
            raise ConfigError(f"{flag} and --gin.{name} set the same; command line; give one")
        if not any(_uses(s, name) for s in lines):
            raise ConfigError(f"{flag} has no effect; these gin files use no %{name}; drop it")
        flags.append(Binding("", name, "", value, flag, "", None))
    flags = preflight.check([*lines, *flags], ROOTS[verb], arguments, allowed)
    return Configuration(
        root=ROOTS[verb],
        files=files,
        overrides=statements.as_gin(flags),
        imports=tuple(dict.fromkeys(s.module for s in lines if isinstance(s, Import))),
    )


def _uses(statement: Import | Binding, name: str) -> bool:
    leaves = statements.walk(statement.value) if isinstance(statement, Binding) else []
    return any(isinstance(leaf, Macro) and leaf.name == name for leaf in leaves)


def find(name: str, where: str = "--gin_file") -> pathlib.Path:
    """Returns the file of a gin path: from the working directory, else where gin/ is."""
    top = paths.folder("gin").parent
    for candidate in (pathlib.Path(name), top / name):
        if candidate.is_file():
            return candidate.absolute()
    known = [path.relative_to(top).as_posix() for path in sorted(top.glob("gin/**/*.gin"))]
    known += [path.as_posix() for path in sorted(pathlib.Path(name).parent.glob("*.gin"))]
    ends = "/" + name.removesuffix(".gin") + ".gin"
    hint = suggest(next((path for path in known if path.endswith(ends)), name), known)
    raise ConfigError(f"no file {name}{hint}; {where}; looked in {pathlib.Path.cwd()} and {top}")


def recipes() -> list[str]:
    """Returns the recipes that come with t5sft, as --gin_file takes them."""
    top = paths.folder("gin").parent
    return [path.relative_to(top).as_posix() for path in sorted(top.glob("gin/recipes/*.gin"))]


def read(name: str, path: pathlib.Path, outer: tuple[str, ...] = ()) -> Iterator[Import | Binding]:
    """Yields the statements of a file and of the files it includes, in the order they act."""
    file = str(path)
    if file in outer:
        raise ConfigError(f"{name} includes itself; {outer[-1]}; remove the include")
    symbols: dict[str, str] = {"gin": "gin"}
    is_dynamic = False
    with open(path, encoding="utf-8") as stream:
        for statement in _parse(stream, name):
            where = f"{name} line {statement.location.line_num}"
            if isinstance(statement, config_parser.IncludeStatement):
                included = find(statement.filename, where)
                yield from read(statement.filename, included, (*outer, file))
            elif isinstance(statement, config_parser.BindingStatement):
                key = (statement.scope, statement.selector, statement.arg_name)
                yield Binding(*key, statement.value, where, file, symbols, outer)
            elif isinstance(statement, config_parser.ImportStatement):
                if statement.module.startswith("__gin__."):
                    is_dynamic = True
                    continue
                if not is_dynamic:
                    text = "from __gin__ import dynamic_registration"
                    raise ConfigError(
                        f"import before dynamic registration; {where}; put '{text}' first"
                    )
                is_whole = statement.is_from or statement.alias
                module = statement.module if is_whole else statement.module.partition(".")[0]
                symbols[statement.bound_name()] = module
                yield Import(statement.module, where)


def _parse(source: Any, name: str) -> Iterator[Any]:
    """Yields gin's statements; raises ConfigError where the text is not gin."""
    try:
        yield from config_parser.ConfigParser(source, _Delegate())
    except (SyntaxError, tokenize.TokenError) as error:
        message, *rest = error.args
        line = rest[0][1] if rest and isinstance(rest[0], tuple) else rest[0][0] if rest else 0
        token = str(message).rpartition("Failed to parse token ")[2].strip("'")
        if "Failed to parse token" in str(message):
            text = f"{token} is not a gin value: a text needs quotes, a macro a %"
        else:
            text = str(message).splitlines()[0].rstrip(".")
        where = f"{name} line {line}" if hasattr(source, "readline") else name
        raise ConfigError(f"{text}; {where}; correct it") from None
    except (OSError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"no gin ({str(error)[:80]}); {name}; name a gin file") from None


def _flag(text: str) -> Binding:
    """Parses NAME=value of --gin.NAME=value."""
    name, equals, value = text.partition("=")
    flag = f"--gin.{name}"
    if not (name and equals and value.strip()):
        raise ConfigError(f"{flag} has no value; command line; write {flag}=value")
    try:
        statements = list(_parse(f"{name} = {value}", flag))
    except ConfigError as error:
        quoted = f"""{flag}='"{value}"'"""
        hint = f"write {quoted}" if "quotes" in str(error) else "correct it"
        raise ConfigError(f"{str(error).removesuffix('correct it')}{hint}") from None
    if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
        raise ConfigError(f"{flag} is not one binding; command line; write {flag}=value")
    found = statements[0]
    return Binding(found.scope, found.selector, found.arg_name, found.value, flag, "", None)


def run(configuration: Configuration, **arguments: Any) -> Any:
    """Imports what a configuration names, binds it, and returns what its root function returns.

    The root is called with `arguments` over its bindings, and with the configuration in effect as
    `config` if it takes one: the text a run saves as SAVED_CONFIG.
    """
    root, bound = bind(configuration)
    parameters = inspect.signature(root).parameters.values()
    if any(parameter.name == "config" for parameter in parameters):
        unbound = [p for p in parameters if p.default is not p.empty and p.name not in bound]
        defaults = {p.name: p.default for p in unbound if p.name != "config"}
        key = ("", gin.config._INVERSE_REGISTRY[root].selector)
        arguments["config"] = _config_text({**gin.config._OPERATIVE_CONFIG, key: defaults})
    hosts.agree("software", hosts.software())
    hosts.agree("configuration", {**_settings(), **arguments})
    with _own_words():
        return root(**{**bound, **arguments})


def _settings() -> dict[str, str]:
    """Returns what the configuration binds, as {"run.train.microbatches": "1", "SEED": "0"}."""
    return {
        scope if selector == "gin.macro" else f"{selector}.{name}": repr(value)
        for (scope, selector), values in gin.config._CONFIG.items()
        for name, value in values.items()
    }


def bind(configuration: Configuration) -> tuple[Callable, dict[str, Any]]:
    """Returns the root function of a configuration and the arguments that are bound to it."""
    module, _, name = configuration.root.rpartition(".")
    for imported in (*configuration.imports, module):
        _import(imported)
    gin.clear_config(clear_constants=False)
    with _quiet_search():
        try:
            for path in configuration.files:
                gin.parse_config_file(str(path))
            gin.parse_config(configuration.overrides)
        except (NameError, AttributeError, SyntaxError, TypeError, ValueError) as error:
            message = " ".join(line.strip() for line in str(error).splitlines())
            raise ConfigError(f"{message}; gin; correct the configuration") from error
    root = getattr(sys.modules[module], name)
    if root not in gin.config._INVERSE_REGISTRY:  # no file mentions it
        gin.external_configurable(root, module=module)
    with _own_words():
        return root, gin.get_bindings(root)


@contextlib.contextmanager
def _own_words() -> Iterator[None]:
    """Raises the errors of what gin calls as they are, not gin's copies with words appended."""
    try:
        yield
    except Exception as error:
        original: BaseException | None = error
        while getattr(type(original).__str__, "__module__", "") == "gin.utils":
            original = original.__context__ if original else None
        if original is error or original is None:
            raise
        raise original from original.__cause__


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"no module {module}; gin import; correct the name") from None
        raise


@contextlib.contextmanager
def _quiet_search() -> Iterator[None]:
    """Finds included files where `find` does, without gin's error for each folder it tries."""
    top = str(paths.folder("gin").parent)
    if top not in gin.config._LOCATION_PREFIXES:
        gin.add_config_file_search_path(top)

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Path not found: ")

    logging.getLogger().addFilter(is_news)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_news)


def _config_text(used: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """Returns what is bound, and the defaults among the values `used`, as the text of a gin file.

    It holds what any verb's root can reach, so that evaluate can start from what train saved, and
    no more: what a flag has made unused would be an error when the text is read again.
    """
    config = {key: dict(values) for key, values in gin.config._CONFIG.items()}
    for (scope, selector), values in used.items():
        bound = [
            v for (s, n), v in gin.config._CONFIG.items() if n == selector and _holds(s, scope)
        ]
        for name, value in values.items():
            # Without the scope: gin opens one for every macro, which would beat later flags.
            if not any(name in names for names in bound):
                config.setdefault(("", selector), {}).setdefault(name, value)
    kept = {key: values for key, values in config.items() if _is_root(key[1])}
    while True:
        references = {r.config_key for r in gin.config.iterate_references(kept)}
        selectors = {selector for _, selector in references} - {"gin.macro"}
        more = {
            key: values
            for key, values in config.items()
            if key not in kept and (key in references or key[1] in selectors)
        }
        if not more:
            return gin.config._config_str(kept, max_line_length=100)
        kept.update(more)


def _holds(outer: str, scope: str) -> bool:
    return not outer or f"{scope}/".startswith(f"{outer}/")


def _is_root(selector: str) -> bool:
    wrapped = gin.config._REGISTRY[selector].wrapped
    return f"{wrapped.__module__}.{wrapped.__qualname__}" in ROOTS.values()
