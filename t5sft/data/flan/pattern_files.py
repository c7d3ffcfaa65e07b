"""FLAN's template files: Python source, read as a tree and never run.

google-research/FLAN keeps its patterns in flan/templates.py (610), flan/v2/templates.py (zero-shot,
few-shot) and flan/v2/flan_templates_branched.py, Apache 2.0. None is shipped here. What is read:
a dict of lists of string pairs, or of FewShotPattern(...) with string arguments, and later lines
that add a list, or give one a second name: PATTERNS["a"] = PATTERNS["b"]. All else is passed over.
"""

import ast
import pathlib

from t5sft import errors
from t5sft.data.flan import patterns

MAX_BYTES = 8 << 20  # FLAN's largest has 450 kB
_FIELDS = frozenset(patterns.Pattern._fields)
_IGNORED = frozenset({"in_template_mix"})  # whether FLAN mixes it with patterns of another task


def read(path: pathlib.Path, name: str = "PATTERNS") -> dict[str, list[patterns.Pattern]]:
    """Returns task -> patterns of one dict of a FLAN template file.

    Args:
      name: PATTERNS (zero-shot) or FEWSHOT_PATTERNS.

    Raises:
      DataError: not readable as Python, no such dict, or an entry that is no pattern, with its
        line.
    """
    if path.stat().st_size > MAX_BYTES:
        raise errors.DataError(f"larger than {MAX_BYTES} bytes; {path}; give FLAN's templates.py")
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise errors.DataError(f"not Python: {error}; {path}; give FLAN's templates.py") from error
    found: dict[str, list[patterns.Pattern]] | None = None
    for node in tree.body:
        target, value = _assigned(node)
        if isinstance(target, ast.Name) and target.id == name:
            if not isinstance(value, ast.Dict):
                raise _fault(path, node, f"{name} is no dict")
            found = _dict(path, value)
        elif found is not None and (key := _key_of(target, name)) is not None:
            found[key] = _list_or_name(path, value, name, found)
    if found is None:
        raise errors.DataError(f"no dict {name}; {path}; give FLAN's templates.py")
    return found


def _assigned(node):
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        return node.targets[0], node.value
    if isinstance(node, ast.AnnAssign):
        return node.target, node.value
    return None, None


def _key_of(node, name: str) -> str | None:
    """Returns "a" of NAME["a"], or None."""
    if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)):
        return None
    return _string(node.slice) if node.value.id == name else None


def _string(node) -> str | None:
    """Returns a string literal, also one added up of several, or None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _string(node.left), _string(node.right)
        return None if left is None or right is None else left + right
    return None


def _list_or_name(path, value, name: str, found) -> list[patterns.Pattern]:
    if isinstance(value, ast.List | ast.Tuple):
        return [_pattern(path, element) for element in value.elts]
    source = _key_of(value, name)
    if source not in found:
        raise _fault(path, value, f"expected a list of patterns, or {name}[...] given above")
    return found[source]


def _dict(path, node: ast.Dict) -> dict[str, list[patterns.Pattern]]:
    found = {}
    for key, value in zip(node.keys, node.values, strict=True):
        task = _string(key)
        if task is None or not isinstance(value, ast.List | ast.Tuple):
            raise _fault(path, value, "expected a name and its list of patterns")
        found[task] = [_pattern(path, element) for element in value.elts]
    return found


def _pattern(path, node) -> patterns.Pattern:
    if isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 2:
        texts = [_string(element) for element in node.elts]
        if None not in texts:
            return patterns.Pattern(*(text or "" for text in texts))
    if isinstance(node, ast.Call) and not node.args:
        fields = {
            keyword.arg: _string(keyword.value)
            for keyword in node.keywords
            if keyword.arg not in _IGNORED
        }
        if None not in fields.values() and {"inputs", "targets"} <= set(fields) <= _FIELDS:
            return patterns.Pattern(**{str(name): text or "" for name, text in fields.items()})
    raise _fault(
        path, node, "expected a pair of strings or FewShotPattern(inputs=..., targets=...)"
    )


def _fault(path, node, what: str) -> errors.DataError:
    return errors.DataError(f"{what}; {path}:{node.lineno}; give FLAN's file as it is")
