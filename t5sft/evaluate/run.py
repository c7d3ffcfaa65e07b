"""The verb evaluate: checkpoints on SeqIO tasks or benchmarks; and generating."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from t5sft import errors
from t5sft.data import prepare, templates
from t5sft.evaluate import answering, at_model, opening, report, results
from t5sft.evaluate import steps as steps_lib
from t5sft.evaluate import suites as suites_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import start, state


def evaluate(
    *,
    model_dir: str,
    model: Any = None,
    data: prepare.Data | None = None,
    vocabulary: str | None = None,
    template: str | None = None,
    system: str | None = None,
    dtype: str | None = None,
    results_dir: str | None = None,
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
    steps: str | None = None,
    watch: bool = False,
    wait_seconds: float = 3600.0,
    last_step: int | None = None,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
    **protocol: Any,
) -> dict:
    """Evaluates checkpoints on SeqIO tasks, or on a benchmark.

    Every figure becomes a line of RESULTS_DIR/evaluation/results.jsonl and a point for TensorBoard.

    Args:
      model_dir to dtype: see `opening.find`; of these SeqIO tasks need `data`, a benchmark none.
      results_dir: in place of model_dir for what is written; of bare weights evaluations/NAME.
      suites: (name, SeqIO task or mixture); a suite's figure is the mean over its tasks.
      task: one SeqIO task, mixture or benchmark in place of `suites`; none: the task trained on.
      compare: also evaluate the model before tuning: `init_from`, or random parameters of `seed`.
      clusters: name -> tasks, to group the table.
      num_examples: at most so many examples of each task.
      buckets: padded prompt lengths, each compiled once; None: as few as waste little.
      steps: as "200,400" or "all"; None: the newest, with result.json and pictures.
      watch: each one without results as training writes it, until `last_step`, or none came for
        wait_seconds.
      protocol: how a benchmark is asked, see `at_model.Options`.

    Returns what result.json holds; otherwise {"results": lines of results.jsonl, "path"}.
    """
    options = at_model.Options(num_examples=num_examples, seed=seed, **protocol)
    name = at_model.benchmark_of(task, data, suites)
    _check(name, task or (data and data.task), data, split, model_dir, options)
    _check_output(options, watch or bool(steps and not steps.isdecimal()))
    ready = opening.find(
        model_dir=model_dir, model=model, data=data, vocabulary=vocabulary, template=template,
        system=system, dtype=dtype, batch_size=batch_size, mesh=mesh, rules=rules,
    )  # fmt: skip
    if not watch:  # before tasks are read, which takes longer
        start.find(model_dir, ready.model, ready.vocabulary)
    measure = _measure(name, task, data, suites, split, ready, max_new_tokens, options)
    if not name:  # a benchmark's prompts have lengths of their own
        ready = ready._replace(buckets=buckets)
    about, target = describe(ready), steps_lib.home(model_dir, results_dir)
    if steps is None and not watch and not name:
        origin = (init_from, seed) if compare else None
        return _newest(model_dir, target, ready, measure, about, origin, clusters or {})
    wanted = {key: {**about, **measure.known.get(key, {})} for key in measure.key}
    done = results.done(target, wanted, results_dir and model_dir) if watch else ()
    found = _steps(model_dir, steps, watch, wait_seconds, last_step, done)
    return _each(found, target, ready, measure, about)


def _check(name: str | None, task, data, split: str, model_dir: str, options) -> None:
    """Refuses what weights without a configuration cannot be asked, and what has no effect."""
    if not name and data is None:
        raise errors.ConfigError(
            f"{task!r} is no benchmark; {model_dir}, weights without a configuration; name one "
            f"({', '.join(at_model.names())}), or add the --gin_file that registers the SeqIO task"
        )
    if not name:
        at_model.refuse_unused(options, task)
    elif split != "validation":
        raise errors.ConfigError(f"--split has no effect on {name}; evaluate; leave it out")


def _check_output(options, are_many: bool) -> None:
    if options.output and are_many:
        raise errors.ConfigError("--output holds the answers of one step; evaluate; give --steps N")


def _measure(name, task, data, suites, split, ready, length, options) -> suites_lib.Measure:
    if name:
        return at_model.prepare(name, ready, options)
    how = answering.Decoding(max_new_tokens=length)
    named = {task: task} if task else dict(suites or [(data.task, data.task)])
    return suites_lib.prepare(named, data, split, ready, how, options)


def describe(ready: answering.Ready) -> dict[str, Any]:
    """Returns what every figure depends on besides the task and the checkpoint."""
    return {
        "template": ready.template_name,
        "template_sha256": templates.fingerprint(ready.template_name),
        "vocabulary": ready.vocabulary_name,
        "vocabulary_sha256": ready.vocabulary.fingerprint(),
        "system": ready.system,
        "dtype": ready.model.dtype,
    }


def _steps(model_dir, steps, watch, wait_seconds, last_step, done) -> Iterator[Any]:
    """Yields (step, path) of the checkpoints asked for."""
    if watch:
        if steps is not None:
            raise errors.ConfigError("--steps and --watch exclude each other; evaluate; give one")
        options = {"last_step": last_step, "done": done, "wait_seconds": wait_seconds, "say": _say}
        for step in steps_lib.watch(model_dir, **options):
            yield step, steps_lib.path_of(model_dir, step)
    elif steps is not None:
        for step in steps_lib.chosen(model_dir, steps):
            yield step, steps_lib.path_of(model_dir, step)
    else:
        yield steps_lib.of(model_dir)


def _each(found, target, ready, measure: suites_lib.Measure, about) -> dict:
    """Evaluates checkpoints one by one; each one's results are written before the next is read."""
    lines: list[dict] = []
    path = None
    for step, checkpoint in found:
        try:
            loaded = opening.load(checkpoint, ready)
        except errors.CheckpointError:
            if checkpoint.exists():
                raise
            _say(f"step {step} was removed before it could be read")
            continue
        begun = time.monotonic()
        made = measure.run(loaded)
        about_step = {**about, "checkpoint": str(checkpoint)}
        fresh = [results.record(**one, step=step, about=about_step) for one in measure.lines(made)]
        path = results.write(target, fresh)
        lines += fresh
        what = checkpoint if step is None else f"step {step}"
        _say(f"{what}: evaluated in {time.monotonic() - begun:.1f} s")
    _say(results.table(lines) if lines else "nothing was evaluated")
    return {"results": lines, "path": path and str(path)}


def _newest(model_dir, target, ready, measure, about, origin, clusters) -> dict:
    """Evaluates the newest checkpoint, and if asked the model it began as, for result.json."""
    step, path = steps_lib.of(model_dir)
    loaded = {"after": opening.load(path, ready)}
    if origin:
        loaded["before"] = ready._replace(params=_untuned(ready, *origin))
    begun = time.monotonic()
    answers: dict[tuple[str, str], Any] = {}
    lines: list[dict] = []
    for when in sorted(loaded, reverse=True):
        _say(f"{when} tuning")
        made = measure.run(loaded[when])
        answers |= {(when, suite): answered for suite, answered in made.items()}
        if when == "after":
            about = {**about, "checkpoint": str(path)}
            lines = [results.record(**one, step=step, about=about) for one in measure.lines(made)]
    results.write(target, lines)
    result = report.write_result(
        target,
        asked=measure.asked,
        answers=answers,
        clusters=clusters,
        seconds=time.monotonic() - begun,
        results=lines,
    )
    _say(report.table(result))
    return result


def _untuned(ready: answering.Ready, init_from: str | None, seed: int):
    """Returns the parameters a run began with."""
    like = start.like(ready.model, ready.mesh, ready.rules)
    if init_from:
        return start.load(init_from, ready.model, like)
    return state.initial_params(ready.model, like, seed)


def _say(line: str):
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)
