"""Fails on a file over 350 lines or a function over 70 in t5sft/ and tasks/; prints the totals.

python scripts/sizes.py [FOLDER ...]
"""

import ast
import pathlib
import sys

MAX_FILE = 350
MAX_FUNCTION = 70


def measure(path: pathlib.Path) -> tuple[int, list[str]]:
    """Returns the number of lines of a file, and what in it is too long."""
    text = path.read_text(encoding="utf-8")
    length = len(text.splitlines())
    faults = [f"{path}: {length} lines, at most {MAX_FILE}"] if length > MAX_FILE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION:
                where = f"{path}:{node.lineno}"
                faults.append(f"{where}: {node.name} has {lines} lines, at most {MAX_FUNCTION}")
    return length, faults


def main(folders: list[str]) -> int:
    faults: list[str] = []
    for folder in folders:
        measured = [measure(path) for path in sorted(pathlib.Path(folder).rglob("*.py"))]
        lengths = [length for length, _ in measured]
        faults += [fault for _, found in measured for fault in found]
        longest = max(lengths, default=0)
        print(f"{folder}: {sum(lengths)} lines, {len(lengths)} files, longest {longest}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(main(sys.argv[1:] or [str(root / "t5sft"), str(root / "tasks")]))
