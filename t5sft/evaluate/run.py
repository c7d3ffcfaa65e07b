"""Evaluating SeqIO tasks at a checkpoint, beside the model before tuning; and generating."""

import functools
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

import jax

from t5sft import errors
from t5sft.data import files, prepare, preprocess, records, templates, vocab
from t5sft.evaluate import evaluator, report
from t5sft.generate import decode
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import start, state


def evaluate(
    *,
    model,
    data: prepare.Data,
    model_dir: str,
    suites: Sequence[tuple[str, str]] = (),
    task: str | None = None,
    split: str = "validation",
    init_from: str | None = None,
    compare: bool = False,
    clusters: Mapping[str, Sequence[str]] | None = None,
    num_examples: int | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    buckets: Sequence[int] | None = None,
    seed: int = 0,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> dict:
    """Answers the examples of SeqIO tasks greedily and writes MODEL_DIR/result.json.

    Args:
      suites: (name, SeqIO task or mixture); a suite's figure is the mean over its tasks.
      task: one task or mixture, in place of `suites`; neither: the task trained on.
      compare: also evaluate the model before tuning: `init_from`, or random parameters of `seed`.
      clusters: name -> tasks, to group the table.
      num_examples: at most so many examples of each task.
      buckets: padded prompt lengths, each compiled once; None: as few as waste little.

    Returns:
      What result.json holds.
    """
    suites = {task: task} if task else dict(suites or [(data.task, data.task)])
    vocabulary = vocab.load(data.vocabulary)
    mesh = mesh_lib.resolve(mesh)
    params = {"after": start.load(model_dir, model, start.like(model, mesh, rules), vocabulary)}
    if compare:
        params["before"] = _untuned(model, init_from, seed, mesh, rules)
    _say("reading the tasks")
    prepare.register(data)
    asked = {
        suite: evaluator.questions(data, model.layout, name, split, num_examples)
        for suite, name in suites.items()
    }
    options = {
        "max_new_tokens": max_new_tokens,
        "eos_id": preprocess.end_ids(templates.get(data.template), vocabulary),
        "start_id": vocabulary.pad_id,
        "batch_size": batch_size,
        "buckets": buckets,
        "mesh": mesh,
        "rules": rules,
    }
    begun, answers = time.monotonic(), {}
    for when in sorted(params, reverse=True):
        answer = functools.partial(decode.generate, model, params[when], **options)
        for suite, tasks in asked.items():
            _say(f"{when} tuning: {suite}, {sum(len(one.prompts) for one in tasks)} examples")
            answers[when, suite] = evaluator.answer(answer, tasks, vocabulary, split)
    seconds = time.monotonic() - begun
    directory = pathlib.Path(model_dir).expanduser()
    result = report.write_result(
        directory, asked=asked, answers=answers, clusters=clusters or {}, seconds=seconds
    )
    _say(report.table(result))
    return result


def _untuned(model, init_from, seed, mesh, rules):
    """Returns the parameters a run began with."""
    like = start.like(model, mesh, rules)
    if init_from:
        return start.load(init_from, model, like)
    return state.initial_params(model, like, seed)


def generate(
    *,
    model,
    data: prepare.Data,
    model_dir: str,
    prompt: str | None = None,
    inputs: str | None = None,
    output: str | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> dict:
    """Answers a prompt, or each row of a JSON file, greedily.

    Args:
      prompt: one instruction.
      inputs: .json or .jsonl whose rows hold `instruction` (and `input`), `inputs` or `prompt`.
      output: a JSONL file for the rows with their `response`; default standard output.

    Raises:
      ConfigError: neither or both of prompt and inputs.
    """
    if (prompt is None) == (inputs is None):
        raise errors.ConfigError("give one of --prompt and --inputs; generate; see --help")
    rows = _rows(inputs) if inputs is not None else [{"prompt": prompt}]
    vocabulary, template = vocab.load(data.vocabulary), templates.get(data.template)
    mesh = mesh_lib.resolve(mesh)
    params = start.load(model_dir, model, start.like(model, mesh, rules), vocabulary)
    asked = [
        preprocess.prompt(
            _question(row, i), vocabulary, template, layout=model.layout, system=data.system
        )
        for i, row in enumerate(rows)
    ]
    answers = decode.generate(
        model,
        params,
        asked,
        max_new_tokens=max_new_tokens,
        eos_id=preprocess.end_ids(template, vocabulary),
        start_id=vocabulary.pad_id,
        batch_size=batch_size,
        mesh=mesh,
        rules=rules,
    )
    for row, one in zip(rows, answers, strict=True):
        row["response"] = vocabulary.decode(one.tokens)
        row["finished"] = one.finished
    if output:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        pathlib.Path(output).expanduser().write_text("".join(f"{line}\n" for line in lines))
        print(f"{len(rows)} answers in {output}", file=sys.stderr)
    else:
        for row in rows:
            print(row["response"], file=sys.stderr)
    return {"responses": rows}


def _rows(path: str) -> list[dict]:
    file = pathlib.Path(path).expanduser()
    if not file.exists():
        raise errors.ConfigError(f"no file {path}; --inputs; check the path")
    return [row for _, row in files.read_rows(file)]


def _question(row: dict, index: int) -> records.Record:
    """Reads a prompt; the answer still to come is empty."""
    for field in ("instruction", "inputs", "prompt"):
        if isinstance(row.get(field), str):
            user = records.Message("user", row[field], str(row.get("input") or ""))
            return records.Record((user, records.Message("assistant", "")), "row", index)
    raise errors.DataError(
        f"no prompt among the fields {sorted(row)}; row {index}; name it instruction or prompt"
    )


def _say(line: str):
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)
