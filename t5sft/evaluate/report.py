"""The report of a run: result.json, a table for people, and pictures."""

import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

from t5sft import errors
from t5sft.evaluate import plots
from t5sft.train import metrics

_WIDTH = 100  # columns
_SUITES_ABREAST = 3
_NUM_SAMPLES = 6
_UNKNOWN: Mapping = {"before": None, "after": None}


def write_result(
    model_dir,
    *,
    asked: Mapping,
    answers: Mapping,
    clusters: Mapping = {},
    seconds: float = 0.0,
    results: Sequence[Mapping] = (),
) -> dict:
    """Writes MODEL_DIR/result.json and draws MODEL_DIR/plots.

    Suites may hold variants of one task: "sort.held_out_wordings" is told in the row of "sort".

    Args:
      asked: suite -> [evaluator.Questions].
      answers: (when, suite) -> {task: evaluator.Answered}, `when` being "before" and "after"
        tuning; "before" may be absent.
      clusters: name -> tasks; a task may be named without the prefix that all tasks share.
      seconds: what answering took.
      results: lines of `results.record`, with all that the figures "after" depend on.

    Returns:
      What the file holds; scores lie in [0, 1], a figure that is not known is null:
        {"metric": "exact_match",
         "before": {"seen_templates": 0.02, ...}, "after": {...},    means over the tasks
         "tasks": {"village_sort": {"cluster": "sorting", "seen_templates":
                   {"before": 0.0, "after": 0.96, "n": 24, "unfinished": 0}, ...}},
         "samples": [{"suite", "task", "prompt", "expected", "before", "after"}],
         "seconds": 31.0, "results": [...], "paths": {"model_dir", "result", "metrics", "plots"}}

    Raises:
      StorageError: the directory cannot be written.
    """
    directory = pathlib.Path(model_dir).expanduser()
    names = {_row(task.task) for tasks in asked.values() for task in tasks}
    tasks: dict = {
        name: {"cluster": _cluster(name, _prefix(names), clusters)} for name in sorted(names)
    }
    metric = _metric(answers)
    means: dict = {"before": {}, "after": {}}
    for suite, questions in asked.items():
        scores = {when: answers.get((when, suite), {}) for when in means}
        for one in questions:
            tasks[_row(one.task)][suite] = {
                **{when: _score(scores[when].get(one.task), metric) for when in means},
                "n": len(one.prompts),
                "unfinished": getattr(scores["after"].get(one.task), "num_unfinished", None),
            }
        for when in means:
            if (when, suite) in answers:
                values = [task[suite][when] for task in tasks.values() if suite in task]
                means[when][suite] = _mean(values)
    result = {
        "metric": metric,
        **means,
        "tasks": tasks,
        "samples": list(_samples(asked, answers)),
        "seconds": seconds,
        "results": list(results),
    }
    path = directory / "result.json"
    paths = {"model_dir": directory, "result": path, "metrics": directory / "metrics.jsonl"}
    result["paths"] = {name: str(place.absolute()) for name, place in paths.items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        result["paths"]["plots"] = _draw(directory, result)
        _replace(path, json.dumps(result, indent=1, ensure_ascii=False))
    except OSError as error:
        raise errors.StorageError(f"cannot write ({error}); {path}; free or mend it") from error
    return result


def _replace(path: pathlib.Path, text: str) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def table(result: Mapping, *, color: bool | None = None) -> str:
    """Lays a result out for people, at most 100 columns wide.

    Args:
      result: of `write_result`.
      color: None: when stderr is a terminal and NO_COLOR is not set.
    """
    if color is None:
        color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    lines = []
    for suites, names in _blocks(result):
        for first in range(0, len(suites), _SUITES_ABREAST):
            lines += [*_block(result, suites[first : first + _SUITES_ABREAST], names, color), ""]
    lines += [*_sample_lines(result, color), *_summary_lines(result, color), ""]
    lines += [_bold("Where it is", color)]
    for name, value in result["paths"].items():
        for path in [value] if isinstance(value, str) else value:
            lines.append(f"  {name.replace('_', ' '):<10} {path}")  # whole: it is copied from here
            name = ""
    return "\n".join(lines)


def plot(model_dir) -> list[str]:
    """Draws loss.png, accuracy.png and exact_match.png in MODEL_DIR/plots, from the files there.

    Returns:
      The paths of those for which metrics.jsonl and result.json have figures.
    """
    directory = pathlib.Path(model_dir).expanduser()
    path = directory / "result.json"
    return _draw(directory, json.loads(path.read_text("utf-8")) if path.exists() else None)


def _draw(directory: pathlib.Path, result: Mapping | None) -> list[str]:
    folder = directory / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    paths = plots.curves(folder, metrics.read(directory))
    if result and result["tasks"] and result["metric"] == "exact_match":
        rows = [
            [_panel(result, suite, names) for suite in suites] for suites, names in _blocks(result)
        ]
        paths.append(plots.bars(folder / "exact_match.png", "exact match (% of answers)", rows))
    return [str(path.absolute()) for path in paths]


def _panel(result: Mapping, suite: str, names: Sequence[str]) -> plots.Panel:
    scores = [result["tasks"][name].get(suite, _UNKNOWN) for name in names]
    shown = [_words(_label(name, result["tasks"])) for name in names]
    percent = {
        when: [None if score[when] is None else 100 * score[when] for score in scores]
        for when in ("before", "after")
    }
    return plots.Panel(_words(suite), shown, **percent)


def _blocks(result: Mapping) -> list[tuple[list[str], list[str]]]:
    """Suites that share a task go side by side; tasks by cluster: [(suites, tasks)]."""
    tasks = result["tasks"]
    out: list[tuple[list[str], set[str]]] = []
    for suite in result["after"] | result["before"]:
        names = {name for name, task in tasks.items() if suite in task}
        together = [block for block in out if block[1] & names]
        apart = [block for block in out if not block[1] & names]
        suites = [one for block in together for one in block[0]] + [suite]
        out = [*apart, (suites, names.union(*(block[1] for block in together)))]
    return [
        (suites, sorted(names, key=lambda name: (tasks[name]["cluster"] or "", name)))
        for suites, names in out
    ]


def _label(name: str, names) -> str:
    """A task's name without the prefix that all names share."""
    return name.removeprefix(_prefix(names))


def _block(result, suites, names, color) -> Iterator[str]:
    tasks, cluster = result["tasks"], None
    scale = 100 if result["metric"] == "exact_match" else 1
    rows = [[tasks[name].get(suite, _UNKNOWN) for suite in suites] for name in names]
    sizes = {score["n"] for row in rows for score in row if score is not _UNKNOWN}
    size = f" of {sizes.pop()}" if len(sizes) == 1 else ""
    title = _words(result["metric"]) + (f", %{size}" if scale == 100 else "")
    width = min(max([len(_label(name, tasks)) for name in names] + [24]), 40) + 2
    yield _bold(f"{title:<{width}}" + "".join(_cut(_words(s), 18).rjust(20) for s in suites), color)
    yield f"{'':<{width}}" + "before -> after".rjust(20) * len(suites)
    for name, row in zip(names, rows, strict=True):
        if tasks[name]["cluster"] != cluster:
            cluster = tasks[name]["cluster"]
            yield _words(cluster or "")
        cells = (_cell(score["before"], score["after"], scale, color) for score in row)
        yield f"  {_cut(_label(name, tasks), width - 2):<{width - 2}}" + "".join(cells)
    means = [
        tuple(_mean([score[when] for score in column]) for when in ("before", "after"))
        for column in zip(*rows, strict=True)
    ]
    count = f"average of {len(names)} task{'s' * (len(names) != 1)}"
    yield f"{count:<{width}}" + "".join(
        _cell(before, after, scale, color) for before, after in means
    )


def _cell(before, after, scale: int, color: bool) -> str:
    def number(value):
        text = "-" if value is None else f"{value * scale:.1f}" if scale == 100 else f"{value:.3f}"
        return text.rjust(5)

    text = f"{number(before)} -> {number(after)}".rjust(20)
    if not color or before is None or after is None or before == after:
        return text
    return f"\033[{32 if after > before else 31}m{text}\033[0m"


def _sample_lines(result, color) -> Iterator[str]:
    samples = result["samples"]
    if not samples:
        return
    suites = list(dict.fromkeys(sample["suite"] for sample in samples))
    each = max(_NUM_SAMPLES // len(suites), 1)
    yield _bold("Answers: the first example of some tasks", color)
    for suite in suites:
        mine = [sample for sample in samples if sample["suite"] == suite]
        for i in range(min(each, len(mine))):
            sample = mine[i * len(mine) // each] if each < len(mine) else mine[i]
            yield f"  {_words(suite)}: {_label(_row(sample['task']), result['tasks'])}"
            yield f"    prompt    {_cut(' '.join(sample['prompt'].split()), _WIDTH - 14)}"
            for name in ("expected", "before", "after"):
                if sample[name] is not None:
                    text = _cut(_one_line(sample[name]), _WIDTH - 14)
                    right = sample[name].strip() == sample["expected"].strip()
                    is_green = color and name != "expected" and right
                    yield f"    {name:<9} " + (f"\033[32m{text}\033[0m" if is_green else text)
    yield ""


def _summary_lines(result, color) -> Iterator[str]:
    scale = 100 if result["metric"] == "exact_match" else 1
    title = f"{_words(result['metric'])}, average{', %' * (scale == 100)}"
    yield _bold(f"{title:<42}" + "before -> after".rjust(20), color)
    for suite in result["after"] | result["before"]:
        count = sum(suite in task for task in result["tasks"].values())
        label = f"  {_cut(_words(suite), 26)} ({count} task{'s' * (count != 1)})"
        before, after = (result[when].get(suite) for when in ("before", "after"))
        yield f"{label:<42}" + _cell(before, after, scale, color)


def _samples(asked: Mapping, answers: Mapping) -> Iterator[dict]:
    """The first example of every task: chosen by nobody."""
    for suite, questions in asked.items():
        for one in questions:
            given = {
                when: answers.get((when, suite), {}).get(one.task) for when in ("before", "after")
            }
            yield {
                "suite": suite,
                "task": one.task,
                "prompt": one.texts[0],
                "expected": one.answers[0],
                **{when: got and got.predictions[0] for when, got in given.items()},
            }


def _metric(answers: Mapping) -> str:
    """exact_match where all tasks have it, else the first metric that they share."""
    found = [answered.metrics for tasks in answers.values() for answered in tasks.values()]
    shared = [name for name in (found[0] if found else ()) if all(name in m for m in found)]
    return "exact_match" if "exact_match" in shared or not shared else shared[0]


def _score(answered, metric: str) -> float | None:
    value = None if answered is None else answered.metrics.get(metric)
    return None if value is None or not math.isfinite(value) else float(value)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _row(task: str) -> str:
    return task.partition(".")[0]


def _prefix(names) -> str:
    """What all names begin with, up to an underscore: "village_" """
    common = os.path.commonprefix(list(names)) if len(names) > 1 else ""
    return common[: common.rfind("_") + 1]


def _cluster(name: str, prefix: str, clusters: Mapping) -> str | None:
    for cluster, tasks in clusters.items():
        if name in tasks or name.removeprefix(prefix) in tasks:
            return cluster
    return None


def _words(name: str) -> str:
    return name.replace("_", " ")


def _one_line(text: str) -> str:
    # A model may write anything, also what a terminal would take for a command.
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown or "(nothing)"


def _cut(text: str, width: int) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= width else text[: width - 3] + "..."


def _bold(text: str, color: bool) -> str:
    return f"\033[1m{text}\033[0m" if color else text
