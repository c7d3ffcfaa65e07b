"""Parameters of functions and classes, read from their source without importing it.

Importing a module of t5sft imports JAX, which takes seconds; reading its syntax tree takes
milliseconds. So a mistyped gin file is told before anything is loaded.
"""

import ast
import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import Any

from t5sft import paths
from t5sft.errors import ConfigError, suggest

_CONTAINERS = {
    "tuple": (tuple,),
    "list": (list,),
    "dict": (dict,),
    "Mapping": (dict,),
    "Sequence": (list, tuple),
    "Iterable": (list, tuple, dict),
    "Collection": (list, tuple, dict),
}
_SIMPLE = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    annotation: ast.expr | None
    is_required: bool
    module: str  # where the names of the annotation are looked up


@dataclasses.dataclass(frozen=True)
class Signature:
    """What may be bound; `is_open` when further names may be accepted (**kwargs, foreign bases)."""

    parameters: dict[str, Parameter]
    is_open: bool = False


OPAQUE = Signature({}, is_open=True)

# What a gin reference stands for in `fits`: @name() may return anything, @name is a callable.
RESULT = object()
FUNCTION = object()


@functools.cache
def source(module: str) -> pathlib.Path | None:
    """Returns the file of a module, or None if there is no such Python source."""
    top, *rest = module.split(".")
    if top == "t5sft":
        locations = [str(pathlib.Path(paths.__file__).parent)]
        if rest[:1] == ["tasks"] and len(rest) > 1:
            locations, rest = [str(paths.folder("tasks"))], rest[1:]
        if not rest:
            return pathlib.Path(locations[0]) / "__init__.py"
        spec = PathFinder.find_spec(rest[0], locations)
        rest = rest[1:]
    else:
        spec = importlib.util.find_spec(top)
    for name in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    is_python = spec is not None and spec.origin is not None and spec.origin.endswith(".py")
    return pathlib.Path(spec.origin) if is_python else None  # type: ignore[union-attr,arg-type]


def siblings(module: str) -> list[str]:
    """Returns the full names of the modules beside `module`, for a suggestion."""
    parent = module.rpartition(".")[0]
    init = source(parent) if parent else None
    if init is None and parent != "t5sft.tasks":
        return siblings(parent) if parent else []
    folder = paths.folder("tasks") if parent == "t5sft.tasks" else init.parent  # type: ignore[union-attr]
    stems = {path.stem for path in folder.glob("*.py")} | {
        p.parent.name for p in folder.glob("*/__init__.py")
    }
    return sorted(f"{parent}.{stem}" for stem in stems - {"__init__", "__main__"})


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        for block in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With):
                yield from _statements(getattr(statement, block, []))


@functools.cache
def members(module: str) -> dict[str, ast.stmt | str]:
    """Returns what a module binds at its top: a definition, or the full name it imports."""
    path = source(module)
    if path is None:
        return {}
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ConfigError(f"{error.msg}; {path}, line {error.lineno}; correct it") from None
    found: dict[str, ast.stmt | str] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update({t.id: node for t in node.targets if isinstance(t, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Import):
            for name in node.names:
                top = name.name.partition(".")[0]
                found[name.asname or top] = name.name if name.asname else top
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            found.update({n.asname or n.name: f"{base}.{n.name}" for n in node.names})
    return found


def canonical(name: str) -> tuple[str, tuple[str, ...]]:
    """Splits a full name into its module and the attributes in it, following imports.

    Example: t5sft.models.t5.T5 -> ("t5sft.models.t5", ("T5",)).
    """
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if source(module) is None:
            continue
        attributes = parts[end:]
        target = members(module).get(attributes[0]) if attributes else None
        if isinstance(target, str) and target != name:
            return canonical(".".join([target, *attributes[1:]]))
        return module, tuple(attributes)
    return "", tuple(parts)


def lookup(module: str, attributes: tuple[str, ...], where: str) -> Signature:
    """Returns the signature of module.attributes; raises ConfigError if there is none."""
    if not module:
        return OPAQUE
    known = members(module)
    if "*" in known or "__getattr__" in known:
        return OPAQUE
    full = ".".join([module, *attributes])
    if not attributes:
        raise ConfigError(f"{full} is a module; {where}; name a function or class in it")
    node = known.get(attributes[0])
    if node is None:
        names = [name for name in known if not name.startswith("_")]
        raise ConfigError(
            f"{module} has no {attributes[0]!r}{suggest(attributes[0], names)}; {where}; "
            "correct the name"
        )
    for attribute in attributes[1:]:
        if not isinstance(node, ast.ClassDef):
            raise ConfigError(f"{full} lies within no class; {where}; name a function or class")
        methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        if attribute not in methods:
            hint = suggest(attribute, methods)
            raise ConfigError(f"{full} does not exist{hint}; {where}; correct the name")
        node = methods[attribute]
    return _signature(module, node)


def _signature(module: str, node: ast.stmt | str) -> Signature:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return _of_function(module, node)
    if isinstance(node, ast.ClassDef):
        return _of_class(module, node)
    return OPAQUE


def _of_function(module: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature:
    positional = [*node.args.posonlyargs, *node.args.args]
    num_required = len(positional) - len(node.args.defaults)
    parameters = {
        a.arg: Parameter(a.annotation, i < num_required, module) for i, a in enumerate(positional)
    }
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        parameters[argument.arg] = Parameter(argument.annotation, default is None, module)
    if positional and positional[0].arg in ("self", "cls"):
        del parameters[positional[0].arg]
    return Signature(parameters, is_open=node.args.kwarg is not None)


def _of_class(module: str, node: ast.ClassDef) -> Signature:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name in ("__init__", "__new__"):
            return _of_function(module, member)
    parameters: dict[str, Parameter] = {}
    is_open = False
    for base in node.bases:
        if ast.unparse(base).split("[")[0] in ("object", "Protocol", "NamedTuple", "Generic"):
            continue
        inherited = _of_base(module, base)
        parameters.update(inherited.parameters)
        is_open |= inherited.is_open
    is_record = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    is_record |= any(ast.unparse(base).endswith("NamedTuple") for base in node.bases)
    for field in node.body if is_record else []:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            annotation = ast.unparse(field.annotation)
            if "ClassVar" in annotation or "KW_ONLY" in annotation:
                continue
            has_default, is_argument = _default(field.value)
            if is_argument:
                required = Parameter(field.annotation, not has_default, module)
                parameters[field.target.id] = required
    return Signature(parameters, is_open)


def _of_base(module: str, base: ast.expr) -> Signature:
    first, *rest = ast.unparse(base).split(".")
    target = members(module).get(first)
    owner, attributes = (
        canonical(".".join([target, *rest])) if isinstance(target, str) else (module, (first,))
    )
    node = members(owner).get(attributes[0]) if owner and len(attributes) == 1 else None
    return _signature(owner, node) if isinstance(node, ast.ClassDef) else OPAQUE


def _default(value: ast.expr | None) -> tuple[bool, bool]:
    """Tells of a dataclass field whether it has a default, and whether it is an argument."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field")):
        return value is not None, True
    options = {keyword.arg: keyword.value for keyword in value.keywords}
    is_argument = "init" not in options or ast.unparse(options["init"]) != "False"
    return "default" in options or "default_factory" in options, is_argument


def written(parameter: Parameter) -> str:
    """Returns the annotation of a parameter as a message shows it."""
    annotation = parameter.annotation
    if isinstance(annotation, ast.Name):
        alias = members(parameter.module).get(annotation.id)
        annotation = alias.value if isinstance(alias, ast.Assign) else annotation
    if isinstance(annotation, ast.Constant):
        return str(annotation.value)
    return ast.unparse(annotation) if annotation else "anything"


def fits(value: Any, annotation: ast.expr | None, module: str) -> bool:
    """Tells whether a literal may be bound to a parameter; True where the annotation is unknown.

    An int is a float, but True is not an int and 1e3 is not one either: a step count written as
    1e3 would fail where it is used, far from here.
    """
    if annotation is None or value is RESULT:
        return True
    if isinstance(annotation, ast.BinOp):
        return fits(value, annotation.left, module) or fits(value, annotation.right, module)
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):
            return fits(value, ast.parse(annotation.value, mode="eval").body, module)
        return annotation.value is not None or value is None
    if isinstance(annotation, ast.Subscript):
        return _fits_generic(value, annotation, module)
    if not isinstance(annotation, ast.Name | ast.Attribute):
        return True
    name = ast.unparse(annotation).rpartition(".")[2]
    if name in _SIMPLE:
        if isinstance(value, bool):
            return name == "bool"
        return isinstance(value, _SIMPLE[name])
    if name in _CONTAINERS:
        return isinstance(value, _CONTAINERS[name])
    alias = members(module).get(name)
    if isinstance(alias, ast.Assign) and isinstance(annotation, ast.Name):
        return fits(value, alias.value, module)
    return name != "Callable" or value is FUNCTION


def _fits_generic(value: Any, annotation: ast.Subscript, module: str) -> bool:
    name = ast.unparse(annotation.value).rpartition(".")[2]
    inner = annotation.slice
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Optional":
        return value is None or fits(value, inner, module)
    if name == "Union":
        return any(fits(value, item, module) for item in items)
    if name == "Annotated":
        return fits(value, items[0], module)
    if name == "Literal":
        allowed = [ast.literal_eval(item) for item in items]
        return any(value == a and type(value) is type(a) for a in allowed)
    if name not in _CONTAINERS:
        return name != "Callable" or value is FUNCTION
    if not isinstance(value, _CONTAINERS[name]):
        return False
    if isinstance(value, dict):
        pairs = len(items) == 2
        return not pairs or all(
            fits(k, items[0], module) and fits(v, items[1], module) for k, v in value.items()
        )
    if name == "tuple" and not (len(items) == 2 and ast.unparse(items[1]) in ("...", "Ellipsis")):
        return len(value) == len(items) and all(
            fits(v, item, module) for v, item in zip(value, items, strict=True)
        )
    return all(fits(v, items[0], module) for v in value)
