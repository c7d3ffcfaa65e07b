"""The statements of gin files and flags, as data: parsed, not yet bound to anything."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from t5sft import signatures
from t5sft.errors import ConfigError

_MOST_LEAVES, _MOST_DEEP = 100_000, 100  # of a macro, with all macros in it


@dataclasses.dataclass(frozen=True)
class Macro:
    """The value %NAME."""

    name: str


@dataclasses.dataclass(frozen=True)
class Reference:
    """The value @scope/selector, or @scope/selector() if `is_call`."""

    selector: str
    scope: str
    is_call: bool


@dataclasses.dataclass(frozen=True)
class Import:
    module: str
    where: str


@dataclasses.dataclass(frozen=True)
class Binding:
    """scope/selector.parameter = value; a macro NAME = value has no parameter.

    `symbols` are the names its file imports, with the full module each stands for; None on the
    command line, where the last parts of a full name are enough.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    where: str  # "gin/runs/sft.gin line 7", "--gin.STEPS"
    file: str
    symbols: Mapping[str, str] | None
    included_by: tuple[str, ...] = ()  # the files that include this one, outermost first

    @property
    def macro(self) -> str:
        return "/".join(part for part in (self.scope, self.selector) if part)

    def renamed(self, full: Callable[[str], str]) -> "Binding":
        """Returns the binding with `full` applied to every selector in it."""

        def rename(value: Any) -> Any:
            if isinstance(value, Reference):
                return dataclasses.replace(value, selector=full(value.selector))
            if isinstance(value, dict):
                return {k: rename(v) for k, v in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(map(rename, value))
            return value

        selector = full(self.selector) if self.parameter else self.selector
        return dataclasses.replace(self, selector=selector, value=rename(self.value))


@dataclasses.dataclass(frozen=True)
class Target:
    """A function or class that a selector stands for."""

    module: str  # "" when nothing is known of it before it is imported
    attributes: tuple[str, ...]

    @property
    def name(self) -> str:
        return ".".join(part for part in (self.module, *self.attributes) if part)

    @property
    def short(self) -> str:
        return ".".join(self.name.split(".")[-2:])


def walk(value: Any) -> Iterator[Any]:
    """Yields the leaves of a value: literals, macros and references."""
    if isinstance(value, dict):
        for pair in value.items():
            yield from walk(pair)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from walk(item)
    else:
        yield value


def check_macros_are_small(macros: Mapping[str, Binding]) -> None:
    """Sixty macros of two macros each would be 2^60 values."""
    sizes: dict[str, int] = {}

    def size(name: str, inside: tuple[str, ...]) -> int:
        if name in inside or name not in macros:  # told elsewhere
            return 1
        if name not in sizes:
            leaves = walk(macros[name].value) if len(inside) < _MOST_DEEP else ()
            inner = (leaf.name if isinstance(leaf, Macro) else "" for leaf in leaves)
            sizes[name] = sum(size(one, (*inside, name)) for one in inner)
        if sizes[name] > _MOST_LEAVES or len(inside) >= _MOST_DEEP:
            raise ConfigError(
                f"macro %{name} holds more than {_MOST_LEAVES:,} values, or more than "
                f"{_MOST_DEEP} macros in macros; {macros[name].where}; write a smaller one"
            )
        return sizes[name]

    for name in macros:
        size(name, ())


def as_gin(bindings: Iterable[Binding]) -> str:
    """Returns bindings with full names as the text of a gin file."""
    aliases: dict[str, str] = {}  # full module name -> name in the text

    def short(selector: str) -> str:
        target = Target(*signatures.canonical(selector))
        module, attributes = target.module, target.attributes
        package, _, stem = module.rpartition(".")
        if module not in aliases:
            aliases[module] = module.replace(".", "_") if stem in aliases.values() else stem
        return ".".join([aliases[module], *attributes])

    def written(value: Any) -> str:
        if isinstance(value, Macro):
            return f"%{value.name}"
        if isinstance(value, Reference):
            scope = f"{value.scope}/" if value.scope else ""
            return f"@{scope}{short(value.selector)}{'()' if value.is_call else ''}"
        if isinstance(value, dict):
            pairs = ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items())
            return f"{{{pairs}}}"
        if isinstance(value, list):
            return f"[{', '.join(map(written, value))}]"
        if isinstance(value, tuple):
            return f"({''.join(written(v) + ', ' for v in value)})"
        return repr(value)

    lines = []
    for b in bindings:
        scope = f"{b.scope}/" if b.scope else ""
        name = f"{short(b.selector)}.{b.parameter}" if b.parameter else b.selector
        lines.append(f"{scope}{name} = {written(b.value)}")
    imports = []
    for module, alias in aliases.items():
        package, _, stem = module.rpartition(".")
        plain = f"from {package} import {stem}" if package else f"import {module}"
        imports.append(plain if alias in (stem, module) else f"{plain} as {alias}")
    return "\n".join(["from __gin__ import dynamic_registration", *imports, *lines])
