"""Parts: a chunk of a task's examples becomes tokens, and one file that a kill cannot halve.

This is what a worker process runs, and a Beam pipeline as well: no TensorFlow here. A part is
named by its place and by the bytes of its chunk, so that one found on the disk needs no second
making, and one of other examples is never taken for it.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5sft import errors
from t5sft.data import cache, preprocess, reading, records, templates, truncation, vocab
from t5sft.data.settings import Data


class Part(NamedTuple):
    """The examples of one chunk.

    arrays: the columns of `cache.COLUMNS` for both sides, flat, with `inputs.lengths`,
      `targets.lengths` [n], `numbers` [n], `hashes` [n] of the whole example, `answers` [n] of its
      learnt tokens, `groups` [n] index into `groups`; `units` [u] examples of each unit, `labels`
      [n] float32, where a chunk has any.
    """

    arrays: Mapping[str, np.ndarray]
    counts: dict[str, int]
    groups: list[str]  # templates of the task


def name(chunk: reading.Chunk) -> tuple[str, bytes]:
    """Returns the file name of a chunk's part, and the chunk as bytes."""
    payload = reading.to_bytes(chunk)
    return f"{chunk.number:06d}-{hashlib.blake2b(payload, digest_size=8).hexdigest()}", payload


def make(payload: bytes, path: str, task: str, data: Data, layout: str) -> dict[str, int]:
    """Tokenises a chunk and writes its part; returns what it counts."""
    part = tokenise(reading.from_bytes(payload), task, data, layout)
    write(pathlib.Path(path), part)
    return part.counts


def tokenise(chunk: reading.Chunk, task: str, data: Data, layout: str) -> Part:
    """Turns the records of a chunk into tokens.

    Raises:
      DataError: a record that cannot be read, by the policies of `data`.
    """
    counts = Counter({"read": 0, "kept": 0, "dropped": 0, "truncated": 0})
    groups = {"": 0}
    examples: list[preprocess.Example] = []
    numbers: list[int] = []
    of_group: list[int] = []
    units: list[int] = []
    labels: list[float] = []
    make = _of_ids if chunk.is_ids else _of_texts
    for position, group, made in make(chunk, task, data, layout):
        counts["read"] += 1
        counts.update(made.counts)
        flat = [one for unit in made.units for one in unit]
        examples += flat
        numbers += [position] * len(flat)
        of_group += [groups.setdefault(group, len(groups))] * len(flat)
        units += [len(unit) for unit in made.units]
        labels += [np.nan] * len(flat) if made.labels is None else made.labels
    arrays = flatten(examples)
    arrays["numbers"] = np.asarray(numbers, np.int64)
    arrays["groups"] = np.asarray(of_group, np.int32)
    arrays["units"] = np.asarray(units, np.int64)
    arrays["labels"] = np.asarray(labels, np.float32)
    counts["examples"] = len(examples)
    return Part(arrays, dict(counts), list(groups))


def options(data: Data, layout: str) -> preprocess.Options:
    """Returns how a run's records become examples."""
    names = {field.name for field in dataclasses.fields(preprocess.Options)} - {"layout"}
    return preprocess.Options(layout=layout, **{name: getattr(data, name) for name in names})


def _of_texts(chunk, task: str, data: Data, layout: str) -> Iterator[tuple]:
    """Yields (position, template, Made) of every row of a chunk of text."""
    found: list[records.Record | records.Dropped] = []
    first = chunk.number * reading.CHUNK
    for i, values in enumerate(zip(*chunk.columns.values(), strict=True)):
        row = dict(zip(chunk.columns, values, strict=True))
        try:
            found.append(records.from_features(row, source=task, number=first + i))
        except records.Dropped as reason:
            found.append(reason)
    whole = [one for one in found if isinstance(one, records.Record)]
    vocabulary, template = vocab.load(data.vocabulary), templates.get(data.template)
    made = iter(preprocess.batch(whole, vocabulary, template, options(data, layout)))
    for i, one in enumerate(found):
        if isinstance(one, records.Record):
            whole_made = next(made)
            for what in filter(None, one.metadata.get("mended", "").split(", ")):
                whole_made.counts[f"mended: {what}"] = 1
            yield first + i, one.metadata.get("template", ""), whole_made
        else:
            yield first + i, "", preprocess.dropped(one)


def _of_ids(chunk, task: str, data: Data, layout: str) -> Iterator[tuple]:
    """Yields (position, "", Made) of every row of a chunk of ids."""
    vocabulary, how = vocab.load(data.vocabulary), options(data, layout)
    lengths = {"encoder_length": how.encoder_length, "decoder_length": how.decoder_length}
    for i in range(len(chunk.columns["targets"])):
        position = chunk.number * reading.CHUNK + i
        where = f"{task}[{position}]"
        row = {side: values[i] for side, values in chunk.columns.items()}
        example = from_ids(row, vocabulary, where, data, layout)
        try:
            fitted, was_cut = truncation.fit(
                example, layout=layout, too_long=how.too_long, **lengths
            )
        except records.Dropped as reason:
            if how.unlearnt == "error" and str(reason) == "nothing to learn":
                raise errors.DataError(
                    f"no token of it learns; {where}; mend the example, or unlearnt='drop'"
                ) from None
            yield position, "", preprocess.dropped(reason)
            continue
        counts = {
            "kept": 1,
            "tokens": len(fitted.inputs.ids) + len(fitted.targets.ids),
            "learnt_tokens": truncation.num_learnt(fitted),
        }
        cut = {"truncated": 1, f"truncated: {how.too_long}": 1} if was_cut else {}
        yield position, "", preprocess.Made([[fitted]], None, counts | cut)


def from_ids(
    row: Mapping[str, np.ndarray],
    vocabulary: vocab.Vocabulary,
    where: str,
    data: Data,
    layout: str,
) -> preprocess.Example:
    """Turns ids that a SeqIO task made itself into an example; they stay as they are, 0 as well.

    `targets` learn (with their own weights, where the task gives them), `inputs` weigh
    `prompt_weight`. For a decoder, inputs and targets are one sequence, after the vocabulary's
    first token if they do not begin with it.

    Raises:
      DataError: an id beyond the vocabulary, or no inputs for an encoder.
    """
    empty = np.zeros(0, np.int32)
    inputs, targets = (np.asarray(row.get(side, empty), np.int32) for side in ("inputs", "targets"))
    top = max(inputs.max(initial=0), targets.max(initial=0))
    if top >= vocabulary.size or min(inputs.min(initial=0), targets.min(initial=0)) < 0:
        raise errors.DataError(
            f"id {top} is beyond the vocabulary of {vocabulary.size}; {where}; "
            "name the vocabulary that the task's ids are of"
        )
    weights = np.asarray(row.get("weights", np.ones(len(targets))), np.float32)
    user, assistant = (templates.ROLES.index(role) for role in ("user", "assistant"))
    source = preprocess.Tokens(
        inputs, np.zeros(len(inputs), np.float32), np.full(len(inputs), user)
    )
    target = preprocess.Tokens(targets, weights, np.full(len(targets), assistant))
    if layout == "encoder_decoder":
        if "inputs" not in row:
            raise errors.DataError(
                f"the task has targets only; {where}; a decoder learns from it, "
                "an encoder-decoder needs inputs"
            )
        return preprocess.Example(source, target)
    prompt = 1.0 if data.learn == "everything" else data.prompt_weight
    source = source._replace(weights=np.full(len(inputs), prompt, np.float32))
    first = inputs[:1] if len(inputs) else targets[:1]
    bos = vocabulary.bos_id
    start = [] if bos is None or (len(first) and first[0] == bos) else [bos]
    whole = [
        np.concatenate([begin, left, right])
        for begin, left, right in zip((start, [0.0] * len(start), [0] * len(start)), source, target,
                                      strict=True)
    ]  # fmt: skip
    return preprocess.Example(preprocess.EMPTY, preprocess.Tokens(*whole))


def flatten(examples: Sequence[preprocess.Example]) -> dict[str, np.ndarray]:
    """Returns the arrays of `Part` that the examples alone decide."""
    arrays: dict[str, np.ndarray] = {}
    ends = []
    for side in ("inputs", "targets"):
        offsets, columns = cache.flatten([getattr(example, side) for example in examples])
        arrays[f"{side}.lengths"] = np.diff(offsets)
        arrays |= {f"{side}.{column}": flat for column, flat in columns.items()}
        ends.append(offsets.tolist())
    is_learnt = arrays["targets.weights"] > 0
    inputs, targets = (arrays[f"{side}.ids"] for side in ("inputs", "targets"))
    learnt = np.where(is_learnt, targets, -1)
    hashes, answers = [], []
    for i in range(len(examples)):
        begin, end = ends[1][i], ends[1][i + 1]
        mine = targets[begin:end].tobytes()
        hashes.append(_hash(inputs[ends[0][i] : ends[0][i + 1]].tobytes() + b"|" + mine))
        answer = learnt[begin:end]
        answers.append(_hash(answer[answer >= 0].tobytes()))
    arrays["hashes"] = np.asarray(hashes, np.uint64)
    arrays["answers"] = np.asarray(answers, np.uint64)
    return arrays


def _hash(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")


def write(path: pathlib.Path, part: Part):
    """Writes a part; the file is there whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    about = {"counts": part.counts, "groups": part.groups, "content": _content(part.arrays)}
    told = json.dumps(about).encode()
    with open(temporary, "wb") as file:
        arrays: dict[str, Any] = {**part.arrays, "about": np.frombuffer(told, np.uint8)}
        np.savez(file, **arrays)
    os.replace(temporary, path)


def _content(arrays: Mapping[str, np.ndarray]) -> str:
    """Stands for what training sees of a part's examples."""
    found = hashlib.blake2b(digest_size=16)
    for key in sorted(arrays.keys() - {"hashes", "answers", "groups"}):
        found.update(f"{key} {arrays[key].dtype.str} {len(arrays[key])} ".encode())
        found.update(np.ascontiguousarray(arrays[key]).data)
    return found.hexdigest()


def read(path: pathlib.Path) -> Part:
    """Reads a part."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    about = json.loads(arrays.pop("about").tobytes())
    return Part(arrays, about["counts"], about["groups"])


def read_counts(path: pathlib.Path) -> dict[str, int] | None:
    """Returns the counts of a part on the disk; None when there is none, or it is damaged."""
    try:
        with np.load(path) as file:
            return json.loads(file["about"].tobytes())["counts"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


class Summary(NamedTuple):
    """The columns of a merged task that its card is made of."""

    lengths: np.ndarray  # [n, 2]
    hashes: np.ndarray  # [n]
    answers: np.ndarray  # [n]
    groups: np.ndarray  # [n] index into names
    names: list[str]  # templates of the task, "" for none
    content: str  # stands for the examples, whatever the code that made them


def merge(directory: pathlib.Path, paths: Sequence[pathlib.Path]) -> Summary:
    """Writes the arrays of a task from its parts, in their order, one part in memory at a time."""
    directory.mkdir(parents=True)
    small: dict[str, list] = {}
    names: dict[str, int] = {}
    content = hashlib.blake2b(digest_size=16)
    for path in paths:
        with np.load(path) as file:
            for key in _SMALL:
                small.setdefault(key, []).append(file[key])
            about = json.loads(file["about"].tobytes())
            content.update(about["content"].encode())
            told = about["groups"]
            numbers = np.asarray([names.setdefault(name, len(names)) for name in told], np.int32)
            small.setdefault("groups", []).append(numbers[file["groups"]])
    column = {key: np.concatenate(values) for key, values in small.items()}
    np.save(directory / "numbers.npy", column["numbers"])
    if (column["units"] > 1).any():
        np.save(directory / "units.npy", np.concatenate([[0], np.cumsum(column["units"])]))
    if not np.isnan(column["labels"]).all():
        np.save(directory / "labels.npy", column["labels"])
    flat = {}
    for side in ("inputs", "targets"):
        offsets = np.concatenate([[0], np.cumsum(column[f"{side}.lengths"])])
        np.save(directory / f"{side}.offsets.npy", offsets)
        for key, dtype in cache.COLUMNS:
            flat[f"{side}.{key}"] = _create(directory / f"{side}.{key}.npy", offsets[-1], dtype)
    start = dict.fromkeys(flat, 0)
    for path in paths:
        with np.load(path) as file:
            for key, out in flat.items():
                values = file[key]
                out[start[key] : start[key] + len(values)] = values
                start[key] += len(values)
    lengths = np.stack([column["inputs.lengths"], column["targets.lengths"]], axis=1)
    told = (column["hashes"], column["answers"], column["groups"], list(names))
    return Summary(lengths, *told, content.hexdigest())


_SMALL = (
    "inputs.lengths", "targets.lengths", "numbers", "hashes", "answers", "units", "labels"
)  # fmt: skip


def _create(path: pathlib.Path, size: int, dtype) -> np.ndarray:
    if size:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(int(size),))
    np.save(path, np.zeros(0, dtype))  # an empty file cannot be mapped
    return np.zeros(0, dtype)
