"""t5sft evaluate --predictions: scores recorded answers to a benchmark."""

import hashlib
import importlib.metadata
import json
import sys
from typing import Any

import t5sft
from t5sft import errors
from t5sft.evaluate.answers import benchmarks, matching, special, statistics


def score(
    *,
    predictions: str,
    task: str | None = None,
    data: str | None = None,
    extraction: str | None = None,
    output: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores a file of answers, without a model.

    Args:
      predictions: JSON Lines (or another kind that `data.files` reads) with `response`, and the
        `prompt` of its question or its `index` in the question file, 0 being the first.
      task: ifeval, gsm8k, bbh, bbh_NAME, exact_match, squad, trivia_qa, rouge, bleu, translation or
        natural_instructions.
      data: the folder that T5SFT_DATA would name, or the question file itself.
      extraction: the rule that finds the answer in a response, where the task has several; it
        decides `accuracy`, the figures of the others stand beside it.
      output: a JSONL file for the questions' index with what was found and judged.
      options: of humaneval, mt_bench and pairwise, see `special.score`.

    Returns:
      {"task", "n": questions answered, "metrics": {name: value}, "standard_errors": {name: value or
      null}, "extraction": rule or null, "answers": see `matching.match`, "by_kind": {...},
      "versions": of t5sft and of the packages that decide the figures, "questions_sha256"}

    Raises:
      ConfigError: an unknown task or rule, or no file.
      DataError: rows that cannot be used, or no answer that belongs to a question.
    """
    if task is None:
        raise errors.ConfigError("no task; --predictions; add --task, as ifeval or gsm8k")
    if task in special.TASKS:
        result = special.score(task, predictions, data, output, extraction, **options)
        print(table(result), file=sys.stderr)
        return result
    if options:
        raise errors.ConfigError(
            f"--{next(iter(options))} has no effect on {task}; --predictions; leave it out"
        )
    benchmark = benchmarks.get(task)
    if extraction is not None and extraction not in benchmark.extractions:
        known = ", ".join(benchmark.extractions) or "none"
        raise errors.ConfigError(
            f"no rule {extraction!r}{errors.suggest(extraction, benchmark.extractions)}; "
            f"--extraction of {task}; use {known}"
        )
    rows = matching.read(predictions)
    questions = benchmark.load(data, rows)
    if data is None and benchmark.load is benchmarks.own_references:
        rows = [(where, {**row, "prompt": None, "index": i}) for i, (where, row) in enumerate(rows)]
    matched = matching.match([question[benchmark.prompt] for question in questions], rows)
    answered = [i for i, response in enumerate(matched.responses) if response is not None]
    scores = benchmark.score(
        [questions[i] for i in answered],
        [response for response in matched.responses if response is not None],
        extraction,
    )
    if output is not None:
        _write(output, answered, questions, benchmark.prompt, scores)
    result = _result(task, benchmark, questions, matched.account, scores)
    print(table(result), file=sys.stderr)
    return result


def _result(task, benchmark, questions, account, scores: statistics.Scores) -> dict[str, Any]:
    whole = json.dumps(questions, sort_keys=True).encode()
    packages = {name: importlib.metadata.version(name) for name in benchmark.packages}
    result = {
        "task": task,
        "n": len(scores.verdicts),
        "metrics": scores.values,
        "standard_errors": scores.standard_errors,
        "extraction": scores.verdicts[0].get("extraction"),
        "answers": account,
        "versions": {"t5sft": t5sft.__version__} | packages,
        "questions_sha256": hashlib.sha256(whole).hexdigest(),
    }
    if scores.by_group:
        result["by_kind"] = scores.by_group
    return result


def _write(output, answered, questions, prompt, scores: statistics.Scores):
    rows = [
        {"index": i, "prompt": questions[i][prompt], **verdict}
        for i, verdict in zip(answered, scores.verdicts, strict=True)
    ]
    special.write(output, rows)


def table(result: dict[str, Any]) -> str:
    """Lays the figures out for people, what did not come out even first."""
    account = result.get("answers")
    lines = [f"warning: {line}" for line in matching.warnings(account)] if account else []
    asked = account["matched"] + account["missing"]["count"] if account else result["asked"]
    lines.append(f"{result['task']}: {result['n']} of {asked} questions answered")
    if result.get("extraction"):
        lines.append(f"answers found by the rule {result['extraction']}")
    width = max(len(name) for name in result["metrics"])
    for name, value in result["metrics"].items():
        error = result["standard_errors"][name]
        shown = f"  \N{PLUS-MINUS SIGN} {error:.4f}" if error is not None else ""
        lines.append(f"  {name:<{width}}  {value:8.4f}{shown}")
    return "\n".join(lines)
