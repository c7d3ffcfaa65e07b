"""Reading: the examples of any SeqIO task, in chunks, in the task's own order.

A task yields text (fields of `records.from_features`) or, with preprocessors and a vocabulary of
its own, token ids: `inputs` and `targets`, `targets` alone, or a feature converter's names. Both
go on as they are; what makes tokens of text runs elsewhere, in processes without TensorFlow.
"""

import functools
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from t5sft import errors
from t5sft.data import records, sources, vocab

CHUNK = 1024  # examples of a chunk: a unit of work, the same for every number of workers
IDS = {  # the features that hold ids, and what they are to us
    "inputs": "inputs",
    "targets": "targets",
    "encoder_input_tokens": "inputs",
    "decoder_target_tokens": "targets",
    "decoder_loss_weights": "weights",
}
_PROBES = ("Two  cats, 37 dogs; caf\u00e9 \u4e2d\u6587!", "An answer: yes.", "x = [1, 2]\n\ty")


class Chunk(NamedTuple):
    """Consecutive examples of a task: a list of values for each field."""

    number: int  # its first example is number * CHUNK
    is_ids: bool  # columns are inputs, targets, weights: arrays; else text, as bytes
    columns: Mapping[str, list]


def to_bytes(chunk: Chunk) -> bytes:
    """Writes a chunk as msgpack, for another process: what came from data is never unpickled."""
    return msgpack.packb(tuple(chunk), default=_plain)


def from_bytes(data: bytes) -> Chunk:
    """Reads what `to_bytes` wrote."""
    return Chunk(*msgpack.unpackb(data, ext_hook=_array))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        head = [value.dtype.str, list(value.shape), value.tobytes()]
        return msgpack.ExtType(1, msgpack.packb(head))
    raise TypeError(f"a chunk holds a {type(value).__name__}")


def _array(code: int, data: bytes) -> np.ndarray:
    dtype, shape, values = msgpack.unpackb(data)
    return np.frombuffer(values, dtype).reshape(shape)


def provider(task: str, split: str) -> Any:
    """Returns the SeqIO task or mixture of a name.

    Raises:
      ConfigError: it has no such split.
    """
    found = sources.load_seqio().get_mixture_or_task(task)
    if split not in found.splits:
        raise errors.ConfigError(
            f"task {task!r} has no split {split!r}; its splits: {', '.join(sorted(found.splits))}; "
            "choose one of them"
        )
    return found


def dataset(task: str, split: str, *, lengths: tuple[int, int], seed: int, num_epochs: int | None):
    """Returns the tf.data pipeline of a task, in order, nothing trimmed.

    Args:
      lengths: (S, T), told to preprocessors that cannot do without a sequence length.
      seed: of preprocessors that draw at random.
      num_epochs: None repeats for ever.
    """
    import tensorflow as tf

    found = provider(task, split)
    arguments: dict[str, Any] = {"num_epochs": num_epochs, "seed": seed, "shuffle": False}
    arguments["try_in_mem_cache"] = False  # it asks for the size, which may be a whole reading
    if hasattr(found, "preprocessors"):
        arguments["trim_output_features"] = False  # it would cut end tokens, and count nothing
        arguments["use_cached"] = found.requires_caching
        arguments["sequence_length"] = None
        if any(_needs_lengths(function) for function in found.preprocessors):
            names = sorted(found.output_features)
            arguments["sequence_length"] = {
                name: lengths[0] if IDS.get(name) == "inputs" else lengths[1] for name in names
            }
    options = tf.data.Options()
    options.deterministic = True
    return found.get_dataset(split=split, **arguments).with_options(options)


def _needs_lengths(preprocessor) -> bool:
    try:
        parameter = inspect.signature(preprocessor).parameters.get("sequence_length")
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.default is parameter.empty


def ids_features(spec: Mapping[str, Any]) -> list[str]:
    """Returns the features of an element_spec that hold token ids, [] for a task of text.

    Raises:
      DataError: the features are rows that a converter has packed.
    """
    flat = [name for name in IDS if name in spec and spec[name].shape.rank == 1]
    if not any(IDS[name] == "targets" and spec[name].dtype.is_integer for name in flat):
        return []
    if any(name.endswith("_segment_ids") for name in spec):
        raise errors.DataError(
            "the task's rows are packed; it has segment ids; give the task before its converter"
        )
    return flat


def chunks(
    task: str,
    split: str,
    *,
    lengths: tuple[int, int],
    seed: int = 0,
    vocabulary: vocab.Vocabulary | None = None,
    num_epochs: int | None = 1,
    as_text: bool = False,
) -> Iterator[Chunk]:
    """Yields the examples of one split; ids must be of `vocabulary`.

    Args:
      as_text: a task of ids gives the text it was made of.

    Raises:
      ConfigError: no such split, or ids of another vocabulary.
      DataError: what reading or the task's own preprocessors raised.
    """
    import tensorflow as tf

    made = _made(task, split)
    if made is not None:
        yield from _of_records(made, num_epochs)
        return
    ds = dataset(task, split, lengths=lengths, seed=seed, num_epochs=num_epochs)
    flat = [] if as_text else ids_features(ds.element_spec)
    if flat and vocabulary is not None:
        check_vocabulary(task, vocabulary)
    names = flat or [name for name, spec in ds.element_spec.items() if spec.shape.rank == 0]
    ds = ds.map(lambda row: {name: row[name] for name in names})
    ds = ds.ragged_batch(CHUNK) if flat else ds.batch(CHUNK)  # one by one is ten times slower
    try:
        for number, batch in enumerate(ds.as_numpy_iterator()):
            if flat:
                yield Chunk(number, True, {IDS[name]: _arrays(batch[name]) for name in flat})
            else:
                yield Chunk(number, False, {name: batch[name].tolist() for name in names})
    except tf.errors.OpError as error:
        raise _translate(error, f"task {task!r}, split {split!r}") from error


def _made(task: str, split: str) -> Callable[[], Iterable[sources.Made]] | None:
    """Returns what makes the records of a split, where SeqIO's pipeline would only carry them.

    A source of `sources.from_records` under a task without preprocessors: through TensorFlow every
    record would take longer than its reading.
    """
    found = provider(task, split)
    make = getattr(getattr(found, "source", None), "make_records", None)
    if make is None or found.preprocessors or found.requires_caching:
        return None
    return functools.partial(make, split)


def _of_records(make: Callable[[], Iterable[sources.Made]], num_epochs: int | None):
    """Yields the chunks that `dataset` would give of a source of records."""
    epochs = itertools.count() if num_epochs is None else range(num_epochs)
    texts = (records.to_json(one).encode() for _ in epochs for one in make())
    for number in itertools.count():
        values = list(itertools.islice(texts, CHUNK))
        if not values:
            return
        yield Chunk(number, False, {"record": values})


def rows(task: str, split: str, *, lengths: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yields the examples of one split with all of their features, one by one: for evaluation.

    Raises:
      ConfigError: no such split.
      DataError: what reading or the task's own preprocessors raised.
    """
    import tensorflow as tf

    try:
        ds = dataset(task, split, lengths=lengths, seed=0, num_epochs=1)
        yield from ds.as_numpy_iterator()
    except tf.errors.OpError as error:
        raise _translate(error, f"task {task!r}, split {split!r}") from error


def _arrays(batch) -> list[np.ndarray]:
    """Returns one array per example of a ragged batch (or of a dense one: equal lengths)."""
    if hasattr(batch, "row_splits"):
        return np.split(np.asarray(batch.values), np.asarray(batch.row_splits)[1:-1])
    return list(batch)


def _translate(error: Exception, where: str) -> errors.T5sftError:
    """Returns our own error that was raised inside the pipeline, or a DataError about it."""
    text = str(error)
    for kind in errors.T5sftError.__subclasses__():
        found = re.search(rf"\b{kind.__name__}: (.+)", text)
        if found:
            return kind(found[1].strip())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if re.match(r"\w+(Error|Exception): ", line)), "")
    return errors.DataError(
        f"the task's own pipeline failed: {told or (lines or [type(error).__name__])[0]}; {where}; "
        "mend the task or its data"
    )


def check_vocabulary(task: str, vocabulary: vocab.Vocabulary):
    """Compares the vocabulary of a task of ids with the run's, by what they make of some texts.

    Raises:
      ConfigError: they differ.
    """
    seqio = sources.load_seqio()
    for name, feature in seqio.get_mixture_or_task(task).output_features.items():
        other = feature.vocabulary
        if IDS.get(name) not in ("inputs", "targets"):
            continue
        if isinstance(other, seqio.PassThroughVocabulary):
            continue  # it makes no ids: only their range can be checked
        same = [list(other.encode(text)) == vocabulary.encode(text) for text in _PROBES]
        if not all(same) or other.eos_id != vocabulary.eos_id:
            path = getattr(other, "sentencepiece_model_file", "")
            hint = f"set VOCABULARY = '{path}'" if path else "name the task's own vocabulary"
            raise errors.ConfigError(
                f"the ids of {name!r} come from another vocabulary ({type(other).__name__}"
                f"{path and ' ' + path}); task {task!r}; {hint}"
            )


def source_files(task: str, split: str) -> list[str]:
    """Returns the files that a SeqIO task reads for a split, as its source lists them.

    A source that makes its rows, or does not know its files, has none.
    """
    source = getattr(sources.load_seqio().get_mixture_or_task(task), "source", None)
    try:
        shards: Sequence[str] = source.list_shards(split) if source is not None else ()
    except Exception:  # a third-party source may need a network, or be unable to list
        return []
    return [str(shard) for shard in shards if os.path.isabs(shard) or os.path.isfile(shard)]
