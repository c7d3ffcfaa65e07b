"""Evaluation of SeqIO tasks: the model answers or scores, SeqIO's Evaluator applies the metrics.

A metric function of a task says by its arguments what it needs (SeqIO's convention): `(targets,
predictions)`, `(targets, predictions, aux_values)` or `(targets, scores)`. Only that is computed.
"""

import functools
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5sft import errors
from t5sft.data import define, prepare, reading, records, sources
from t5sft.evaluate import answering, likelihoods, uncertainty

_TEXT = {"record", "text", "instruction", "input", "output", "prompt", "completion"}
_TEXT |= {"inputs", "targets", "inputs_pretokenized", "targets_pretokenized"}


class Questions(NamedTuple):
    """The examples of one task and split."""

    task: str
    prompts: list[list[int]]  # token ids, as in training
    texts: list[str]  # the prompts, for people
    answers: list[str]
    rows: list[answering.Continuation] = []  # the answers as tokens behind their prompts
    features: list[Mapping[str, Any]] = []  # what else the task's examples hold


class Needs(NamedTuple):
    """What the metric functions of a task ask of the model."""

    predictions: bool
    scores: bool
    aux_values: bool


class Answered(NamedTuple):
    """What the model made of one task."""

    metrics: dict[str, float]
    predictions: list[str]
    num_unfinished: int  # answers that hit max_new_tokens
    standard_errors: Mapping[str, float | None] = {}
    scores: Sequence[float] = ()  # log-likelihood of each target, where a metric needs it


Generate = Callable[[Sequence[Sequence[int]]], Sequence[answering.Reply]]
Score = Callable[[Sequence[answering.Continuation]], Sequence[float]]
ScoreReplies = Callable[[Sequence[Sequence[int]], Sequence[answering.Reply]], Sequence[float]]


class Functions(NamedTuple):
    """The model, as functions over prompts and rows; see `answering`."""

    generate: Generate
    score: Score
    score_replies: ScoreReplies


def questions(
    data: prepare.Data,
    ready: answering.Ready,
    task: str,
    split: str,
    num_examples: int | None = None,
) -> list[Questions]:
    """Reads the examples of a SeqIO task, or of every task of a mixture.

    Args:
      ready: its model's layout, vocabulary and template; parameters are not looked at.

    Raises:
      ConfigError: a task of ids of another vocabulary.
      DataError: a task without a usable example.
    """
    out = []
    lengths = (data.encoder_length, data.decoder_length)
    for name in define.rates(task):
        found = Questions(name, [], [], [], [], [])
        rows = enumerate(reading.rows(name, split, lengths=lengths))
        checked = False
        for index, features in rows:
            if num_examples is not None and len(found.prompts) >= num_examples:
                break
            if _is_ids(features):
                if not checked:
                    reading.check_vocabulary(name, ready.vocabulary)
                    checked = True
                _add_ids(found, features, ready)
                continue
            try:
                record = records.from_features(features, source=name, number=index)
            except records.Dropped:
                continue
            _add(found, features, record, ready)
        if not found.prompts:
            raise errors.DataError(
                f"no example to evaluate; task {name!r}, split {split!r}; choose another split"
            )
        out.append(found)
    return out


def _add(found: Questions, features, record: records.Record, ready: answering.Ready) -> None:
    if record.candidates or record.messages[-1].role != "assistant" or len(record.messages) < 2:
        raise errors.DataError(
            f"no question with one answer; {record.source}[{record.number}]; evaluate a task of "
            "conversations (of preferences: --gin.CANDIDATES='\"best\"' only trains)"
        )
    found.prompts.append(answering.prompt(ready, record.messages[:-1]))
    found.texts.append(record.messages[-2].content)
    found.answers.append(record.messages[-1].content)
    found.rows.append(answering.continuation(ready, record))
    found.features.append(features)


def _is_ids(features: Mapping[str, Any]) -> bool:
    """Whether a task yields token ids without the text they were made of."""
    texts = ("record", "targets_pretokenized")
    is_number = getattr(features.get("targets"), "dtype", np.dtype(object)).kind in "iu"
    return is_number and not any(name in features for name in texts)


def _add_ids(found: Questions, features, ready: answering.Ready) -> None:
    """Takes ids as the task made them; its own end tokens are among them."""
    inputs = [int(i) for i in features.get("inputs", ())]
    targets = [int(i) for i in features["targets"]]
    if ready.model.layout == "decoder" and not inputs:
        raise errors.DataError(f"nothing stands before the targets; {found.task}; give inputs")
    found.prompts.append(inputs)
    found.texts.append(ready.vocabulary.decode(inputs))
    found.answers.append(ready.vocabulary.decode(targets))
    row = answering.Continuation(likelihoods.Ids(inputs, targets), [1.0] * len(targets))
    found.rows.append(row)
    found.features.append(features)


def fingerprint(asked: Questions) -> str:
    """Returns the SHA-256 of a task's questions and answers, tokens and order: its version."""
    whole = [asked.prompts, asked.answers, [row.ids.targets for row in asked.rows]]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def needs(task: str) -> Needs:
    """Returns what the metric functions of a SeqIO task need.

    Raises:
      ConfigError: it has none.
    """
    seqio = sources.load_seqio()
    kinds = {one.model_output_type for one in seqio.TaskRegistry.get(task).metric_objs}
    if not kinds:
        raise errors.ConfigError(
            f"task {task!r} has no metric function; evaluate; register it with metric_fns, as "
            "t5sft.evaluate.scores.exact_match"
        )
    known = seqio.metrics.ModelOutputType
    if known.SCORE_WITH_INTERMEDIATES in kinds:
        raise errors.ConfigError(
            f"a metric of task {task!r} asks for the model's intermediates; evaluate; use scores"
        )
    aux = known.PREDICTION_WITH_AUX in kinds
    return Needs(known.PREDICTION in kinds or aux, known.SCORE in kinds, aux)


def metric_names(task: str) -> list[str]:
    """Returns the metric functions of a SeqIO task by their full names."""
    functions = sources.load_seqio().TaskRegistry.get(task).metric_fns
    return [f"{f.__module__}.{getattr(f, '__qualname__', f)}" for f in functions]


def packages(task: str) -> list[str]:
    """Returns the installed packages, besides t5sft, that the metric functions come from."""
    import importlib.metadata

    functions = sources.load_seqio().TaskRegistry.get(task).metric_fns
    known = importlib.metadata.packages_distributions()
    tops = {str(function.__module__).partition(".")[0] for function in functions} - {"t5sft"}
    return sorted({known[top][0] for top in tops if top in known})


def answer(
    model: Functions, asked: Sequence[Questions], vocabulary, split: str
) -> dict[str, Answered]:
    """Answers all questions in one go and lets SeqIO's Evaluator score each task."""
    wanted = [needs(task.task) for task in asked]
    prompts = [p for task, need in zip(asked, wanted, strict=True) if need.predictions
               for p in task.prompts]  # fmt: skip
    rows = [r for task, need in zip(asked, wanted, strict=True) if need.scores for r in task.rows]
    replies = iter(model.generate(prompts) if prompts else ())
    likelihoods = iter(model.score(rows) if rows else ())
    out = {}
    for task, need in zip(asked, wanted, strict=True):
        size = len(task.prompts)
        mine = list(itertools.islice(replies, size if need.predictions else 0))
        scores = list(itertools.islice(likelihoods, size if need.scores else 0))
        own = list(model.score_replies(task.prompts, mine)) if need.aux_values else []
        out[task.task] = _measure(task, mine, scores, own, vocabulary, split)
    return out


class _Capture:
    """A SeqIO logger that keeps what the metric functions were given."""

    def __init__(self, kept: dict[str, Any], output_dir: str):
        del output_dir
        self._kept = kept

    def __call__(self, task_name, step, metrics, dataset, targets, inferences):
        del task_name, step, metrics, dataset
        self._kept.update(targets=targets, **inferences)


def _measure(task: Questions, replies, scores, own_scores, vocabulary, split) -> Answered:
    """Returns the metrics of the task, by its own metric and postprocess functions."""
    import seqio

    extra = [
        {k: v for k, v in features.items() if k not in _TEXT - {"record"}}
        | {"num_target_tokens": len(row.weights)}
        for features, row in zip(task.features, task.rows, strict=True)
    ]
    name = define.bind(
        task.task,
        split,
        vocabulary=vocabulary,
        prompts=task.prompts,
        answers=task.answers,
        features=extra,
    )
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        evaluator = seqio.Evaluator(
            name,
            _converter(seqio),
            eval_split=split,
            async_compute_metrics=False,
            logger_cls=[functools.partial(_Capture, kept)],
            log_dir=folder,
        )
        tokens = _padded(replies, vocabulary.eos_id)
        order = range(len(task.prompts))
        metrics, _ = evaluator.evaluate(
            compute_metrics=True,
            predict_fn=lambda _: list(zip(order, tokens, strict=True)),
            predict_with_aux_fn=lambda _: (
                list(zip(order, tokens, strict=True)),
                {"scores": list(own_scores)},
            ),
            score_fn=lambda _: list(zip(order, scores, strict=True)),
        )
    values = {key: _number(value) for key, value in metrics.result()[name].items()}
    values = {key: value for key, value in values.items() if value is not None}
    found = seqio.TaskRegistry.get(name)
    standard_errors = uncertainty.standard_errors(found.metric_fns, kept, values)
    unfinished = sum(not one.finished for one in replies)
    return Answered(values, [one.text for one in replies], unfinished, standard_errors, scores)


def _padded(replies: Sequence[answering.Reply], end: int) -> np.ndarray:
    """SeqIO stacks predictions into one array; end tokens fill the short ones and are not decoded.

    Decoding stops there, see `define.bind`.
    """
    width = max((len(one.tokens) for one in replies), default=0) + 1
    padded = np.full((len(replies), width), end, np.int32)
    for row, one in zip(padded, replies, strict=True):
        row[: len(one.tokens)] = one.tokens
    return padded


def _number(value: Any) -> float | None:
    """A metric's number; None for pictures, texts and histograms."""
    value = getattr(value, "value", value)
    return float(value) if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "bifu" else None


def _converter(seqio):
    """Returns a converter that changes nothing: prompts are token ids already.

    SeqIO's own pass-through converter lacks two attributes that its Evaluator reads.
    """
    attributes = {"TASK_FEATURES": {}, "pack": False}
    return type("Prompts", (seqio.PassThroughFeatureConverter,), attributes)()
