"""Recorded answers that need more than their questions: a judge, or a sandbox."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import t5sft
from t5sft import errors
from t5sft.data import files
from t5sft.evaluate.answers import judge as judge_lib
from t5sft.evaluate.answers import judged, matching, programs

TASKS = (programs.NAME, *judged.NAMES)


def score(
    task: str,
    predictions: str,
    data: str | None,
    output: str | None,
    extraction: str | None,
    **options: Any,
) -> dict[str, Any]:
    """Scores a file of answers to humaneval, mt_bench or pairwise.

    Args:
      options: judge, judge_model, baseline; or allow_code_execution.

    Returns:
      As `predictions.score`; `asked` counts the questions.
    """
    is_code = task == programs.NAME
    wanted = {"allow_code_execution"} if is_code else {"judge", "judge_model", "baseline"}
    unused = [f"--{name}" for name in options if name not in wanted]
    unused += ["--extraction"] if extraction else []
    if unused:
        raise errors.ConfigError(f"{unused[0]} has no effect on {task}; evaluate; leave it out")
    if task == programs.NAME:
        programs.refuse(bool(options.get("allow_code_execution")))
        rows = matching.read(predictions)
        asked, scores, missing = programs.score_recorded(rows, data)
        count = len(asked) + missing
    else:
        if not options.get("judge"):
            raise errors.ConfigError(
                f"{task} needs a judge; evaluate; add --judge http://HOST/v1 --judge_model NAME, "
                "or a file of judgements"
            )
        ask = judge_lib.open_judge(options["judge"], options.get("judge_model"))
        scorer = _mt_bench if task == "mt_bench" else _pairwise
        asked, scores = scorer(predictions, data, options.get("baseline"), ask)
        count = len(asked)
    rows_out = [{**one, **verdict} for one, verdict in zip(asked, scores.verdicts, strict=True)]
    if output is not None:
        write(output, rows_out)
    whole = json.dumps(asked, sort_keys=True).encode()
    found = {
        "task": task,
        "n": len(asked),
        "asked": count,
        "metrics": scores.values,
        "standard_errors": scores.standard_errors,
        "versions": {"t5sft": t5sft.__version__},
        "questions_sha256": hashlib.sha256(whole).hexdigest(),
    }
    return found | ({"by_kind": scores.by_group} if scores.by_group else {})


def _mt_bench(predictions: str, data, baseline, ask: judge_lib.Judge):
    asked, known = judged.questions(data), judged.prompts(data)
    answers = judged.recorded_turns(list(files.read_rows(predictions)), asked)
    if baseline is None:
        return asked, judged.grade(asked, answers, known, ask)
    theirs = judged.recorded_turns(list(files.read_rows(baseline)), asked)
    return asked, judged.compare_mt_bench(asked, answers, theirs, known, ask)


def _pairwise(predictions: str, data, baseline, ask: judge_lib.Judge):
    if data is not None or baseline is None:
        what = "--data has no effect on pairwise" if data else "pairwise compares with answers"
        raise errors.ConfigError(f"{what}; evaluate; give --predictions and --baseline")
    theirs = {row["prompt"]: row["response"] for row in _with_prompts(baseline)}
    asked = [row for row in _with_prompts(predictions) if row["prompt"] in theirs]
    if not asked:
        raise errors.DataError(f"no prompt is in both; {predictions}, {baseline}; compare answers "
                               "to the same prompts")  # fmt: skip
    pairs = [judge_lib.Pair(row["prompt"], row["response"], theirs[row["prompt"]]) for row in asked]
    return asked, judged.compare(pairs, ask)


def _with_prompts(path: str) -> list[dict[str, Any]]:
    rows = [(where, row) for where, row in matching.read(path)]
    for where, row in rows:
        if not isinstance(row.get("prompt"), str):
            raise errors.DataError(f"no prompt; {where}; pairs are joined by their prompts")
    return [row for _, row in rows]


def write(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as JSON lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        pathlib.Path(path).expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.StorageError(
            f"cannot write ({error.strerror}); {path}; free or mend it"
        ) from error
