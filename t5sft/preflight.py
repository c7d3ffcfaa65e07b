"""Checks a parsed gin configuration without importing what it configures.

Gin finds a mistyped name only after importing its module, an unbound macro only when it is
used, and a wrong type or an unused macro never. All of them are told here, in milliseconds,
with the nearest right name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from t5sft import signatures, verbs
from t5sft.errors import ConfigError, suggest
from t5sft.statements import Binding, Import, Macro, Reference, Target, check_macros_are_small, walk

REQUIRED = ("gin.REQUIRED", "REQUIRED")
ALLOWED_IMPORTS = ("t5sft", "optax")
# Where what a gin file names must be defined. A module's own imports are attributes of it, too:
# `@prepare.subprocess.Popen()` in a stranger's recipe would run a program.
CONFIGURABLE = (
    *sorted({verb.root.rpartition(".")[0] for verb in verbs.VERBS.values()}),
    *(f"t5sft.data.{name}" for name in ("mixture", "prepare", "settings")),
    *(f"t5sft.parallel.{name}" for name in ("mesh", "rules")),
    *(f"t5sft.train.{name}" for name in ("brought", "guard", "optim")),
    "t5sft.generate.settings", "t5sft.models", "t5sft.objectives", "optax",
)  # fmt: skip
FLAGS = ("MODEL_DIR", "DATA", "INIT_FROM", "STEPS", "BATCH_SIZE")  # macros with a plain flag


def check(
    statements: Iterable[Import | Binding],
    root: str,
    arguments: Collection[str],
    allowed: Collection[str] = (),
) -> list[Binding]:
    """Raises ConfigError for the first mistake; returns the flags' bindings with full names.

    Args:
      statements: of all files and of the command line, in the order they take effect.
      root: full name of the function that will be called, as t5sft.train.run.train.
      arguments: names of the root's parameters that the caller gives itself.
      allowed: modules besides t5sft and optax that gin files may import.
    """
    statements = list(statements)
    for statement in statements:
        if isinstance(statement, Import):
            _check_import(statement, allowed)
    bindings = [s for s in statements if isinstance(s, Binding)]
    _check_order(bindings)
    known = _known_targets(bindings, root, [s.module for s in statements if isinstance(s, Import)])
    targets = {id(b): _target(b.selector, b, known) for b in bindings if b.parameter}
    macros = {b.macro: b for b in bindings if not b.parameter}
    _check_macros_are_used([b for b in macros.values() if b.symbols is None], bindings)
    check_macros_are_small(macros)
    for binding in bindings:
        references = [leaf for leaf in walk(binding.value) if isinstance(leaf, Reference)]
        for reference in references:
            target = _target(reference.selector, binding, known)
            _check_place(target, reference.selector, binding, allowed)
            signatures.lookup(target.module, target.attributes, binding.where)
        if binding.parameter:
            _check_place(targets[id(binding)], binding.selector, binding, allowed)
            _check_parameter(binding, targets[id(binding)], macros)
    _check_scopes(bindings)
    _check_root(root, arguments, bindings, targets, macros, known)
    _check_macros_are_used(macros.values(), bindings)
    return [
        b.renamed(lambda selector, b=b: _target(selector, b, known).name)  # type: ignore[misc]
        for b in bindings
        if b.symbols is None
    ]


def _check_import(statement: Import, allowed: Collection[str]) -> None:
    module = statement.module
    top = module.partition(".")[0]
    if not any(f"{module}.".startswith(f"{prefix}.") for prefix in (*ALLOWED_IMPORTS, *allowed)):
        raise ConfigError(
            f"import of {module} is not allowed; {statement.where}; "
            f"if you trust it, add --gin_import {module}"
        )
    if top not in ALLOWED_IMPORTS[1:] and signatures.source(module) is None:
        hint = suggest(module, signatures.siblings(module))
        raise ConfigError(f"no module {module}{hint}; {statement.where}; correct the import")


def _check_place(target: Target, selector: str, binding: Binding, allowed: Collection[str]) -> None:
    """Raises unless the target is public, and defined where gin files may reach."""
    places = (*CONFIGURABLE, *allowed)
    is_near = any(f"{target.module}.".startswith(f"{prefix}.") for prefix in places)
    if is_near and not any(name.startswith("_") for name in selector.split(".")):
        return
    module = target.module or selector.rpartition(".")[0]
    raise ConfigError(
        f"{selector} ({target.name}) is not for gin files; {binding.where}; if you trust it, add "
        f"--gin_import {module}"
    )


def _check_order(bindings: list[Binding]) -> None:
    """A second binding of one name in a file, or one that an include overrides, is a mistake."""
    seen: dict[tuple[str, str, str, str], Binding] = {}
    for binding in bindings:
        if binding.symbols is None:  # Of two flags the last wins, as everywhere.
            continue
        what = (binding.scope, binding.selector, binding.parameter)
        for file in (binding.file, *binding.included_by):
            earlier = seen.get((file, *what))
            if earlier is not None:
                name = ".".join(part for part in (binding.macro, binding.parameter) if part)
                raise ConfigError(
                    f"{name} is bound twice; {earlier.where} and {binding.where}; "
                    "remove one (an include belongs above what overrides it)"
                )
        seen[(binding.file, *what)] = binding


def _known_targets(bindings: list[Binding], root: str, imports: list[str]) -> list[Target]:
    """Returns what a flag --gin.name.parameter may mean: first what the files name themselves."""
    named = [root]
    for binding in bindings:
        leaves = [leaf.selector for leaf in walk(binding.value) if isinstance(leaf, Reference)]
        for selector in [*leaves, *([binding.selector] if binding.parameter else [])]:
            first, _, rest = selector.partition(".")
            if binding.symbols and first in binding.symbols:
                named.append(f"{binding.symbols[first]}.{rest}")
    for module in imports:
        if module.partition(".")[0] != "optax":
            members = signatures.members(module).items()
            named += [f"{module}.{name}" for name, node in members if not isinstance(node, str)]
    return list(dict.fromkeys(Target(*signatures.canonical(name)) for name in named))


def _target(selector: str, binding: Binding, known: list[Target]) -> Target:
    if binding.symbols is None:
        return _by_suffix(selector, binding.where, known)
    first, _, rest = selector.partition(".")
    if first not in binding.symbols:
        hint = suggest(first, binding.symbols)
        raise ConfigError(
            f"{first!r} is not imported{hint}; {binding.where}; "
            f"correct the name, or import its module above"
        )
    return Target(*signatures.canonical(".".join(p for p in (binding.symbols[first], rest) if p)))


def _by_suffix(selector: str, where: str, known: list[Target]) -> Target:
    matches = [t for t in known if f".{t.name}".endswith(f".{selector}")]
    if not matches:
        names = [".".join(t.name.split(".")[-n:]) for t in known for n in (1, 2)]
        raise ConfigError(
            f"nothing configurable is called {selector!r}{suggest(selector, names)}; {where}; "
            "correct the name"
        )
    if len(matches) > 1:
        choices = ", ".join(sorted(t.name for t in matches))
        raise ConfigError(f"{selector!r} is ambiguous: {choices}; {where}; write more of the name")
    return matches[0]


def _check_macros_are_used(macros: Iterable[Binding], bindings: Iterable[Binding]) -> None:
    leaves = [leaf for binding in bindings for leaf in walk(binding.value)]
    used = {leaf.name for leaf in leaves if isinstance(leaf, Macro)}
    for binding in macros:
        if binding.macro not in used:
            raise ConfigError(
                f"macro {binding.macro} is not used{suggest(binding.macro, used)}; "
                f"{binding.where}; correct the name or remove it"
            )


def _literal(value: Any, macros: Mapping[str, Binding], inside: tuple[str, ...] = ()) -> Any:
    """Returns a value with its macros put in, and references as `signatures.fits` takes them."""
    if isinstance(value, Macro):
        if value.name in REQUIRED or value.name not in macros:  # told if the root reaches it
            return signatures.RESULT
        if value.name in inside:
            where = macros[value.name].where
            raise ConfigError(f"macro %{value.name} refers to itself; {where}; correct it")
        return _literal(macros[value.name].value, macros, (*inside, value.name))
    if isinstance(value, Reference):
        return signatures.RESULT if value.is_call else signatures.FUNCTION
    if isinstance(value, dict):
        return {k: _literal(v, macros, inside) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_literal(v, macros, inside) for v in value)
    return value


def _check_parameter(binding: Binding, target: Target, macros: Mapping[str, Binding]) -> None:
    signature = signatures.lookup(target.module, target.attributes, binding.where)
    name = target.short if binding.symbols is None else binding.selector
    value = _literal(binding.value, macros)
    parameter = signature.parameters.get(binding.parameter)
    if parameter is None:
        if signature.is_open:
            return
        raise ConfigError(
            f"{name} has no parameter {binding.parameter!r}"
            f"{suggest(binding.parameter, signature.parameters)}; {binding.where}; "
            f"parameters: {', '.join(signature.parameters) or 'none'}"
        )
    if signatures.fits(value, parameter.annotation, parameter.module):
        return
    if _is_unset(binding, parameter, macros):  # told if the root reaches it
        return
    where = binding.where
    if isinstance(binding.value, Macro):
        where = f"{macros[binding.value.name].where}, used in {where}"
    got = "a function: add () to call it" if value is signatures.FUNCTION else f"{value!r}"
    raise ConfigError(
        f"{name}.{binding.parameter} must be {signatures.written(parameter)}, not {got}; "
        f"{where}; correct the value"
    )


def _is_unset(binding: Binding, parameter: Any, macros: Mapping[str, Binding]) -> bool:
    """Tells whether a flag's macro says None where a value is needed, as an unbound one would."""
    value = binding.value
    if parameter is None or not (isinstance(value, Macro) and value.name in FLAGS):
        return False
    is_none = value.name in macros and _literal(value, macros) is None
    return is_none and not signatures.fits(None, parameter.annotation, parameter.module)


def _check_scopes(bindings: list[Binding]) -> None:
    """A binding in a scope that no reference opens would silently do nothing."""
    leaves = [leaf for binding in bindings for leaf in walk(binding.value)]
    opened = {leaf.scope for leaf in leaves if isinstance(leaf, Reference) and leaf.scope}
    opened |= {leaf.name for leaf in leaves if isinstance(leaf, Macro)}  # gin opens these too
    for binding in bindings:
        scope = binding.scope
        if not (binding.parameter and scope):
            continue
        if not any(f"{name}/".startswith(f"{scope}/") for name in opened):
            raise ConfigError(
                f"scope {scope!r} is opened by no reference @{scope}/...{suggest(scope, opened)}; "
                f"{binding.where}; correct the scope"
            )


def _check_root(
    root: str,
    arguments: Collection[str],
    bindings: list[Binding],
    targets: Mapping[int, Target],
    macros: Mapping[str, Binding],
    known: list[Target],
) -> None:
    """Everything the root and what it calls require must be bound, and every flag reach it."""
    by_target: dict[Target, dict[tuple[str, str], Binding]] = {}
    for binding in bindings:
        if binding.parameter:
            bound = by_target.setdefault(targets[id(binding)], {})
            bound[(binding.scope, binding.parameter)] = binding
    first = Target(*signatures.canonical(root))
    signature = signatures.lookup(
        first.module, first.attributes, f"the verb {first.attributes[-1]}"
    )
    for name in arguments:
        if name not in signature.parameters and not signature.is_open:
            hint = suggest(name, signature.parameters)
            raise ConfigError(
                f"{first.short} has no parameter {name!r}{hint}; command line; drop it"
            )
    pending = [(first, "", True)]
    seen = set()
    used: set[str] = set()
    while pending:
        target, scope, is_call = visit = pending.pop()
        if visit in seen:
            continue
        seen.add(visit)
        given = set(arguments) if target == first else set()
        inwards = sorted(by_target.get(target, {}).items(), key=lambda item: len(item[0][0]))
        effective = {  # the innermost scope wins
            parameter: binding
            for (outer, parameter), binding in inwards
            if parameter not in given and (not outer or f"{scope}/".startswith(f"{outer}/"))
        }
        signature = signatures.lookup(target.module, target.attributes, target.name)
        for name, parameter in signature.parameters.items():
            if is_call and parameter.is_required and name not in effective and name not in given:
                raise ConfigError(
                    f"{target.short} needs {name}; nothing binds it; "
                    f"add --gin.{target.short}.{name}=..."
                )
        for name, binding in effective.items():
            if _is_unset(binding, signature.parameters.get(name), macros):
                raise ConfigError(_unbound(binding.value.name, binding, macros))
            for holder, leaf in _reached(binding, macros):
                if isinstance(leaf, Reference):
                    inner = leaf.scope or (scope if holder.parameter else holder.macro)
                    pending.append((_target(leaf.selector, holder, known), inner, leaf.is_call))
                elif leaf.name in REQUIRED:
                    raise ConfigError(_missing(holder, target))
                elif leaf.name not in macros:
                    raise ConfigError(_unbound(leaf.name, holder, macros))
                else:
                    used.add(leaf.name)
    for macro in FLAGS[1:]:  # --model_dir also tells where the configuration is
        flag = f"--{macro.lower()}"
        if macro in macros and macros[macro].where == flag and macro not in used:
            raise ConfigError(f"{flag} has no effect; {first.short}; drop it")


def _reached(
    binding: Binding, macros: Mapping[str, Binding]
) -> Iterator[tuple[Binding, Macro | Reference]]:
    """Yields the references and macros in a value, with the binding that holds each."""
    for leaf in walk(binding.value):
        if isinstance(leaf, Macro | Reference):
            yield binding, leaf
        if isinstance(leaf, Macro) and leaf.name in macros:
            yield from _reached(macros[leaf.name], macros)


def _flags(macro: str) -> str:
    flag = f"--{macro.lower()} or " if macro in FLAGS else ""
    return f"{flag}--gin.{macro}=..."


def _unbound(name: str, holder: Binding, macros: Mapping[str, Binding]) -> str:
    hint = suggest(name, macros) if name not in FLAGS else ""
    return f"macro %{name} is not bound{hint}; {holder.where}; add {_flags(name)}"


def _missing(holder: Binding, target: Target) -> str:
    if not holder.parameter:
        return f"{holder.macro} is required; {holder.where}; add {_flags(holder.macro)}"
    name = f"{target.short}.{holder.parameter}"
    return f"{name} is required; {holder.where}; add --gin.{name}=..."
