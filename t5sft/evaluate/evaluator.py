"""Evaluation of SeqIO tasks: their prompts are answered by the model, SeqIO scores the answers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from t5sft import errors
from t5sft.data import define, prepare, preprocess, records, templates, vocab
from t5sft.generate import decode


class Questions(NamedTuple):
    """The examples of one task and split."""

    task: str
    prompts: list[list[int]]  # token ids, as in training
    texts: list[str]  # the prompts, for people
    answers: list[str]


class Answered(NamedTuple):
    """What the model made of one task."""

    metrics: dict[str, float]
    predictions: list[str]
    num_unfinished: int  # answers that hit max_new_tokens


def questions(
    data: prepare.Data, layout: str, task: str, split: str, num_examples: int | None = None
) -> list[Questions]:
    """Reads the examples of a SeqIO task, or of every task of a mixture.

    Raises:
      DataError: a task without a usable example.
    """
    vocabulary, template = vocab.load(data.vocabulary), templates.get(data.template)
    out = []
    for name in define.rates(task):
        found = Questions(name, [], [], [])
        for _, record in define.read_records(name, split):
            if isinstance(record, records.Dropped):
                continue
            if num_examples is not None and len(found.prompts) >= num_examples:
                break
            system = {"system": data.system}
            prompt = preprocess.prompt(record, vocabulary, template, layout=layout, **system)
            found.prompts.append(prompt)
            found.texts.append(record.messages[-2].content)
            found.answers.append(record.messages[-1].content)
        if not found.prompts:
            raise errors.DataError(
                f"no example to evaluate; task {name!r}, split {split!r}; choose another split"
            )
        out.append(found)
    return out


def answer(
    generate: Callable[[Sequence[Sequence[int]]], Sequence[decode.Generated]],
    asked: Sequence[Questions],
    vocabulary: vocab.Vocabulary,
    split: str,
) -> Mapping[str, Answered]:
    """Answers all questions in one go and lets SeqIO's Evaluator score each task.

    Args:
      generate: prompts -> generated tokens, in order.
    """
    generated = list(generate([prompt for task in asked for prompt in task.prompts]))
    out, first = {}, 0
    for task in asked:
        mine = generated[first : first + len(task.prompts)]
        first += len(mine)
        values = _score(task, mine, vocabulary, split)
        texts = [vocabulary.decode(one.tokens) for one in mine]
        out[task.task] = Answered(values, texts, sum(not one.finished for one in mine))
    return out


def _score(task: Questions, generated, vocabulary, split) -> dict[str, float]:
    """Returns the metrics of the task, by its own metric and postprocess functions."""
    import seqio

    # SeqIO advises its own log files; the caller writes the results.
    logging.getLogger("absl").addFilter(_is_news)
    name = define.bind(
        task.task, split, vocabulary=vocabulary, prompts=task.prompts, answers=task.answers
    )
    evaluator = seqio.Evaluator(
        name,
        _converter(seqio),
        eval_split=split,
        async_compute_metrics=False,
    )
    # SeqIO stacks predictions into one array: end tokens fill the short ones, decoding stops there.
    width = max(len(one.tokens) for one in generated) + 1
    padded = np.full((len(generated), width), vocabulary.eos_id, np.int32)
    for row, one in zip(padded, generated, strict=True):
        row[: len(one.tokens)] = one.tokens

    def predict(dataset):
        return [(int(i), padded[int(i)]) for i, _ in dataset.as_numpy_iterator()]

    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
    return {key: float(value) for key, value in metrics.result()[name].items()}


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("'logger_cls' is empty")


def _converter(seqio):
    """Returns a converter that changes nothing: prompts are token ids already.

    SeqIO's own pass-through converter lacks two attributes that its Evaluator reads.
    """
    attributes = {"TASK_FEATURES": {}, "pack": False}
    return type("Prompts", (seqio.PassThroughFeatureConverter,), attributes)()
