"""Definitions: one call registers a corpus as a SeqIO task.

A t5sft task yields records as text. Template, vocabulary and lengths belong to the run, so that
one task serves every model; `bind` makes the tokenised SeqIO task a run is evaluated on.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import reading, records, sources, vocab


def add_task(
    name: str,
    source: Any,
    *,
    fields: Sequence[str] = ("inputs", "targets"),
    metric_fns: Sequence[Callable] = (),
    postprocess_fn: Callable | None = None,
    replace: bool = False,
) -> str:
    """Registers a SeqIO task that yields the text fields of `source`; returns its name.

    Args:
      source: a seqio.DataSource.
      fields: the text features, in one of the formats of `records.from_features`.
      metric_fns: SeqIO metric functions (targets, predictions) -> dict.
      replace: a task of that name may exist (another data file in the same process).
    """
    seqio = sources.load_seqio()
    import tensorflow as tf

    text = seqio.Feature(
        seqio.PassThroughVocabulary(size=0), dtype=tf.string, rank=0, add_eos=False
    )
    if replace and name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[],
        output_features={field: text for field in fields},
        metric_fns=list(metric_fns),
        postprocess_fn=postprocess_fn,
    )
    return name


def add_mixture(
    name: str,
    tasks: Sequence[str] | Mapping[str, float | Callable[[Any], float]],
    *,
    replace: bool = False,
) -> str:
    """Registers a SeqIO mixture: equal rates for a list of tasks or mixtures, or the given ones.

    Args:
      tasks: a rate may be a function of the SeqIO task, called when rates are asked for.
      replace: a mixture of that name may exist.
    """
    seqio = sources.load_seqio()
    rates = tasks if isinstance(tasks, Mapping) else {task: 1.0 for task in tasks}
    if replace and name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    listed = [(task, rate if callable(rate) else float(rate)) for task, rate in rates.items()]
    seqio.MixtureRegistry.add(name, listed)
    return name


def rates(name: str) -> dict[str, float]:
    """Returns task -> mixing rate of a registered task or mixture.

    Raises:
      ConfigError: no such name, with the nearest one.
    """
    seqio = sources.load_seqio()
    known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
    if name not in known:
        raise errors.ConfigError(
            f"no SeqIO task or mixture {name!r}{errors.suggest(name, known)}; task; "
            f"registered: {', '.join(known[:12]) or 'none'}; name the module that registers it"
        )
    provider = seqio.get_mixture_or_task(name)
    if isinstance(provider, seqio.Task):
        return {name: 1.0}
    return {task.name: float(provider.get_rate(task)) for task in provider.tasks}


def rates_of_split(name: str, split: str) -> dict[str, float]:
    """Returns the rates of the tasks that have this split.

    Raises:
      ConfigError: none has.
    """
    shares = rates(name)
    reading.provider(name, split)
    get = sources.load_seqio().TaskRegistry.get
    return {task: rate for task, rate in shares.items() if split in get(task).splits}


def read_records(task: str, split: str):
    """Yields (index, Record or Dropped) of one split, in the task's own order.

    A task of token ids is read by the texts it was made of, SeqIO's `inputs_pretokenized` and
    `targets_pretokenized`.

    Raises:
      ConfigError: the task has no such split.
    """
    for chunk in reading.chunks(task, split, lengths=(0, 0), as_text=True):
        for i, values in enumerate(zip(*chunk.columns.values(), strict=True)):
            index = chunk.number * reading.CHUNK + i
            features = dict(zip(chunk.columns, values, strict=True))
            try:
                yield index, records.from_features(features, source=task, number=index)
            except records.Dropped as reason:
                yield index, reason


def _seqio_vocabulary(vocabulary: vocab.Vocabulary):
    """Wraps a vocabulary for SeqIO's metrics, which decode ids up to the end token."""
    seqio = sources.load_seqio()

    def decode(self, ids):
        return vocabulary.decode([i for i in ids if i != vocabulary.eos_id])

    wrapped = type("Wrapped", (seqio.PassThroughVocabulary,), {"_decode": decode})
    return wrapped(size=vocabulary.size, eos_id=vocabulary.eos_id)


def _spec(rows: Sequence[Mapping[str, Any]], name: str):
    """The tf.TensorSpec of a feature; its sizes may differ from example to example."""
    import numpy as np
    import tensorflow as tf

    first = np.asarray(rows[0][name])
    dtype = tf.string if first.dtype.kind in "OSU" else tf.as_dtype(first.dtype)
    return tf.TensorSpec([None] * first.ndim, dtype)


def bind(
    task: str,
    split: str,
    *,
    vocabulary: vocab.Vocabulary,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[str],
    features: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Registers a copy of a task whose features are token ids; returns its name.

    The copy keeps the task's metric and postprocess functions and has the given examples, in order:
    `inputs` [prompt ids] and `targets_pretokenized` (the expected answer, text).

    Args:
      features: what else each example holds, for its postprocess function: scalars and arrays.
    """
    seqio = sources.load_seqio()
    import tensorflow as tf

    original = seqio.TaskRegistry.get(task)
    name = f"{task}:{split}:tokens"
    wrapped = _seqio_vocabulary(vocabulary)
    feature = functools.partial(seqio.Feature, wrapped, add_eos=False, dtype=tf.int32)

    def dataset(split, shuffle_files=False, seed=None):
        del split, shuffle_files, seed
        columns = {
            "inputs": tf.ragged.constant([list(ids) for ids in prompts], tf.int32),
            "targets": tf.ragged.constant(
                [vocabulary.encode_with_offsets(text)[0] for text in answers], tf.int32
            ),
            "targets_pretokenized": tf.constant(list(answers), tf.string),
        }
        ds = tf.data.Dataset.from_tensor_slices(columns)
        if not features:
            return ds
        rest = [{k: v for k, v in row.items() if k not in columns} for row in features]
        spec = {name: _spec(rest, name) for name in rest[0]}
        others = tf.data.Dataset.from_generator(lambda: iter(rest), output_signature=spec)
        return tf.data.Dataset.zip(ds, others).map(lambda ours, theirs: {**theirs, **ours})

    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    bound = original.replace(
        name=name,
        source=seqio.FunctionDataSource(dataset, splits=[split]),
        preprocessors=[],
        output_features={"inputs": feature(), "targets": feature()},
    )
    seqio.TaskRegistry.add_provider(name, bound)
    return name
