"""Results: a line for each task and step in evaluation/results.jsonl, TensorBoard, and a table."""

import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

import t5sft
from t5sft import errors
from t5sft.train import tensorboard

FOLDER, NAME = "evaluation", "results.jsonl"


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of t5sft and of the packages that decide figures."""
    found = {name: importlib.metadata.version(name) for name in dict.fromkeys(packages)}
    return {"t5sft": t5sft.__version__, **found}


def record(
    *,
    suite: str,
    task: str,
    task_sha256: str,
    split: str | None,
    step: int | None,
    n: int,
    metrics: Mapping[str, float],
    standard_errors: Mapping[str, float | None],
    about: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Returns one result: the figures, and all that they depend on.

    Args:
      task_sha256: of the questions and answers: the version of the task.
      step: of the checkpoint; None: weights that have none.
      about: checkpoint, template, tokenizer, decode settings, versions; see `run`.
      more: what a task has besides, such as unfinished answers.
    """
    whole = {
        "suite": suite,
        "task": task,
        "step": step,
        "split": split,
        "n": n,
        "metrics": {name: _finite(value) for name, value in metrics.items()},
        "standard_errors": {name: standard_errors.get(name) for name in metrics},
        **more,
        "task_sha256": task_sha256,
        **about,
    }
    return json.loads(json.dumps(whole))  # as it is read back: lists, no tuples


def fingerprint(questions: Sequence[Mapping]) -> str:
    """Returns the SHA-256 of a benchmark's questions: its version."""
    whole = json.dumps(questions, sort_keys=True, default=str).encode()
    return hashlib.sha256(whole).hexdigest()


def of_benchmark(
    name: str, questions: Sequence[Mapping], metrics: Mapping, standard_errors: Mapping, **more
) -> dict[str, Any]:
    """Returns the arguments of `record` for a benchmark."""
    return {
        "suite": name,
        "task": name,
        "split": None,
        "task_sha256": fingerprint(questions),
        "n": len(questions),
        "metrics": metrics,
        "standard_errors": standard_errors,
        **more,
    }


def write_rows(path: str | None, rows: Sequence[Mapping]) -> None:
    """Writes a JSON line for each question, on the first process."""
    if path is None or jax.process_index() != 0:
        return
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    try:
        pathlib.Path(path).expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.StorageError(f"cannot write ({error.strerror}); {path}; mend it") from error
    print(f"{len(rows)} rows in {path}", file=sys.stderr)


def first(questions: Sequence[Mapping], num_examples: int | None) -> list[Any]:
    """Returns at most so many questions of each task among them, all for None."""
    if num_examples is None:
        return list(questions)
    counts: dict[Any, int] = {}
    kept = []
    for one in questions:
        task = one.get("task")
        counts[task] = counts.get(task, 0) + 1
        if counts[task] <= num_examples:
            kept.append(one)
    return kept


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write(model_dir, records: Sequence[Mapping[str, Any]]) -> pathlib.Path | None:
    """Adds results to MODEL_DIR/evaluation/results.jsonl and to TensorBoard's files beside it.

    Only the first process writes; None on the others.

    Raises:
      StorageError: the directory cannot be written.
    """
    if jax.process_index() != 0:
        return None
    path = pathlib.Path(model_dir).expanduser() / FOLDER / NAME
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")  # a killed process left half a line
            file.write(text.encode())
        _write_tensorboard(path.parent / "tensorboard", records)
    except OSError as error:
        raise errors.StorageError(f"cannot write ({error}); {path}; free or mend it") from error
    return path


def _write_tensorboard(folder: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> None:
    with tensorboard.Board(folder) as board:
        for one in records:
            of = f"{one['suite']}/{one['task']}"
            known = {f"{of}/{k}": v for k, v in one["metrics"].items() if v is not None}
            board.add(one["step"], known)


def read(model_dir) -> list[dict[str, Any]]:
    """Returns the results written so far; a line that a killed process left half is passed over."""
    path = pathlib.Path(model_dir).expanduser() / FOLDER / NAME
    if not path.exists():
        return []
    out = []
    for line in path.read_text("utf-8").split("\n"):
        try:
            out.append(json.loads(line))
        except ValueError:
            continue
    return out


def done(model_dir, wanted: Mapping[tuple, Mapping[str, Any]], run: str | None = None) -> set[int]:
    """Returns the steps that have all results wanted, got alike.

    Args:
      wanted: (suite, task, split) -> what a result must hold: template and tokenizer, the
        questions, how they were asked. Results got with others do not count.
      run: whose checkpoints they must be, where several runs share a directory of results.
    """
    checkpoints = run and (pathlib.Path(run).expanduser() / "checkpoints").absolute()
    told = json.loads(json.dumps(list(wanted.values())))  # as it is read back: lists, no tuples
    must = dict(zip(wanted, told, strict=True))
    found: dict[int, set[tuple]] = {}
    for one in read(model_dir):
        names = (one["suite"], one["task"], one["split"])
        is_ours = (
            not run or pathlib.Path(one.get("checkpoint", "")).absolute().parent == checkpoints
        )
        if is_ours and names in must and must[names].items() <= one.items():
            found.setdefault(one["step"], set()).add(names)
    return {step for step, names in found.items() if set(must) <= names}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Lays results out for people: a row for each task and metric, a column for each step.

    Example:
      task        metric        n      step 200      step 400
      toy_copy    exact_match   6  0.500 +- 0.22  1.000 +- 0.00
    """
    steps = sorted({one["step"] for one in records}, key=lambda step: -1 if step is None else step)
    rows: dict[tuple[str, str, str, int], dict[Any, str]] = {}
    for one in records:
        label = one["task"] if one["suite"] == one["task"] else f"{one['suite']}/{one['task']}"
        for name, value in one["metrics"].items():
            key = (label, one["split"] or "", name, one["n"])
            rows.setdefault(key, {})[one["step"]] = _cell(value, one["standard_errors"][name])
    heads = ["task", "split", "metric", "n"]
    heads += ["" if step is None else f"step {step}" for step in steps]
    lines = [heads]
    lines += [[*map(str, key), *(cells.get(s, "-") for s in steps)] for key, cells in rows.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 3 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(value: float | None, error: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4g}" + ("" if error is None else f" \N{PLUS-MINUS SIGN} {error:.2g}")
