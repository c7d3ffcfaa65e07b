"""Suites of SeqIO tasks as something to measure a model by."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from t5sft import errors
from t5sft.data import prepare as prepare_lib
from t5sft.evaluate import answering, evaluator, results
from t5sft.evaluate.answers import ranking, statistics


class Measure(NamedTuple):
    """What a model is measured by.

    Args:
      key: (suite, task, split) of every line, known before anything runs.
      run: a loaded model -> suite -> task -> evaluator.Answered; of a benchmark -> Scored.
      lines: what `run` gave -> arguments of `results.record`, a line each.
      asked: suite -> questions, for the report of SeqIO tasks.
      known: of every key what its line will hold, see `results.done`.
    """

    key: Sequence[tuple[str, str, str | None]]
    run: Callable[[answering.Ready], Any]
    lines: Callable[[Any], list[dict[str, Any]]]
    asked: Mapping[str, Any] = {}
    known: Mapping[tuple, Mapping[str, Any]] = {}


class Scored(NamedTuple):
    """What a model made of a benchmark."""

    scores: statistics.Scores | None  # None: answered only, or scored on another process
    answers: Sequence[Mapping[str, Any]]  # of each question, for --output; its verdict is added
    more: Mapping[str, Any] = {}  # what the line holds besides


def of_benchmark(
    name: str,
    questions: Sequence[Mapping],
    known: Mapping[str, Any],
    run: Callable[[answering.Ready], Scored],
    *,
    output: str | None = None,
    packages: Sequence[str] = (),
    groups: str = "by_kind",
) -> Measure:
    """Returns the measure of a benchmark: one line, which will hold `known`.

    Args:
      output: a JSONL file for every question with its answer and verdict.
      packages: whose versions decide the figures.
      groups: the name of the figures by group.
    """
    key = (name, name, None)
    whole = {**known, "task_sha256": results.fingerprint(questions)}

    def lines(made: Scored) -> list[dict[str, Any]]:
        scores = made.scores
        verdicts = scores.verdicts if scores else [{}] * len(questions)
        rows = [{**one, **verdict} for one, verdict in zip(made.answers, verdicts, strict=True)]
        results.write_rows(output, rows)
        if scores is None:
            return []
        more = {**known, **made.more, **({groups: scores.by_group} if scores.by_group else {})}
        more["versions"] = results.versions("jax", "numpy", *packages)
        values, found_errors = scores.values, scores.standard_errors
        return [results.of_benchmark(name, questions, values, found_errors, **more)]

    return Measure([key], run, lines, known={key: whole})


def prepare(
    suites: Mapping[str, str],
    data: prepare_lib.Data,
    split: str,
    ready: answering.Ready,
    how: answering.Decoding,
    options: Any,
) -> Measure:
    """Reads the questions of SeqIO tasks, once for all checkpoints.

    Args:
      suites: name -> SeqIO task or mixture.
      options: `at_model.Options`: num_examples, template_split, output.
    """
    _say("reading the tasks")
    prepare_lib.register(data)

    def read(part: str):
        return {
            suite: evaluator.questions(data, ready, name, part, options.num_examples)
            for suite, name in suites.items()
        }

    asked = read(split)
    chosen_on = read(options.template_split) if options.template_split else {}

    def answer(loaded: answering.Ready, tasks, part: str):
        return evaluator.answer(_functions(loaded, how), tasks, loaded.vocabulary, part)

    def run(loaded: answering.Ready):
        out = {}
        for suite, tasks in asked.items():
            _say(f"  {suite}: {sum(len(one.prompts) for one in tasks)} examples")
            out[suite] = answer(loaded, tasks, split)
            if suite in chosen_on:
                there = answer(loaded, chosen_on[suite], options.template_split)
                out[suite] = {
                    task: best_template(one, there[task].metrics)
                    for task, one in out[suite].items()
                }
        return out

    def lines(made):
        results.write_rows(options.output, _rows(asked, made))
        return [_line(suite, one, split, how, made[suite][one.task])
                for suite, tasks in asked.items() for one in tasks]  # fmt: skip

    known = {
        (suite, one.task, split): _known(one, how)
        for suite, tasks in asked.items()
        for one in tasks
    }
    return Measure(list(known), run, lines, asked, known)


def _functions(loaded: answering.Ready, how: answering.Decoding) -> evaluator.Functions:
    return evaluator.Functions(
        lambda prompts: answering.reply(loaded, prompts, how),
        lambda rows: answering.log_likelihoods(loaded, rows),
        lambda prompts, replies: answering.generated_log_likelihoods(loaded, prompts, replies),
    )


def _known(one: evaluator.Questions, how: answering.Decoding) -> dict[str, Any]:
    """What the result of a task depends on, of the task itself."""
    decode = how._asdict() if evaluator.needs(one.task).predictions else None
    return {"task_sha256": evaluator.fingerprint(one), "decode": decode}


def _line(suite: str, one: evaluator.Questions, split, how, got: evaluator.Answered) -> dict:
    need = evaluator.needs(one.task)
    return {
        "suite": suite,
        "task": one.task,
        "split": split,
        "n": len(one.prompts),
        "metrics": got.metrics,
        "standard_errors": got.standard_errors,
        "unfinished": got.num_unfinished if need.predictions else None,
        **_known(one, how),
        "metric_functions": evaluator.metric_names(one.task),
        "versions": results.versions("jax", "numpy", "seqio", *evaluator.packages(one.task)),
    }


def best_template(one: evaluator.Answered, elsewhere: Mapping[str, float]) -> evaluator.Answered:
    """Adds the accuracy of the template that is best on another split (FLAN, section 3).

    Args:
      elsewhere: metrics there; those named `accuracy_sum/template_...` are compared.
    """
    prefix = "accuracy_sum/template_"
    here = {k: v for k, v in one.metrics.items() if k.startswith(prefix)}
    there = {k: v for k, v in elsewhere.items() if k in here}
    if not there:
        raise errors.ConfigError(
            "the task tells no accuracy by template; template_split; leave it out, or evaluate a "
            "task of rank classification over templates"
        )
    found = ranking.over_templates(here, there)["best_validation_template"]
    return one._replace(metrics={**one.metrics, "best_validation_template": found})


def _rows(asked, made) -> list[dict[str, Any]]:
    """Every question with its answer."""
    rows = []
    for suite, tasks in asked.items():
        for one in tasks:
            got = made[suite][one.task]
            for i, (prompt, target) in enumerate(zip(one.texts, one.answers, strict=True)):
                row = {"suite": suite, "task": one.task, "index": i, "prompt": prompt}
                row["target"] = target
                if got.predictions:
                    row["response"] = got.predictions[i]
                if len(got.scores):
                    row["log_likelihood"] = got.scores[i]
                rows.append(row)
    return rows


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)
