"""The verb convert: weights of others become a checkpoint of ours, and the way back.

    TARGET/                       from a Hugging Face directory or a T5X checkpoint
      checkpoints/0/              parameters, in the dtype they came in
      model.gin                   MODEL, for a recipe to include
      huggingface/                config.json and the tokenizer, as they came

One tensor is in memory at a time, in both directions.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t5sft import errors
from t5sft.convert import describe, foreign, huggingface, special, weights
from t5sft.convert.tensors import Tensor
from t5sft.data import prepare, vocab
from t5sft.models.model import Model
from t5sft.train import export, start, streamed

_ROUND_TO = 128  # a vocabulary that grows: divides over any mesh, and fills matrix units


def convert(
    *,
    source: str | None = None,
    target: str | None = None,
    model: Any = None,
    data: prepare.Data | None = None,
    dtype: str | None = None,
    family: str | None = None,
    tokenizer: str | None = None,
    special_tokens: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> dict:
    """Converts weights of others to a checkpoint of ours, and one of ours to a Hugging Face one.

    Args:
      source: a Hugging Face directory, a T5X checkpoint, or a checkpoint of ours.
      target: a directory to be made.
      model, data: of a checkpoint of ours that does not say its model and vocabulary itself.
      dtype: of the numbers written; None: as they came.
      family: model_type of the Hugging Face directory; None: the one it came from, or the first
        that fits.
      tokenizer: directory or file of the tokenizer, for a checkpoint of ours with none beside it.
      special_tokens: names separated by commas, added to a tokenizer.json; embeddings that they
        need are the mean of the others.
      max_shard_bytes: of a safetensors file.

    Returns:
      What was converted: parameters, bytes, paths.
    """
    if source is None or target is None:
        raise errors.ConfigError("give SOURCE and TARGET; convert; see t5sft convert --help")
    if dtype not in (None, *weights.WRITTEN):
        hint = errors.suggest(str(dtype), weights.WRITTEN)
        known = ", ".join(weights.WRITTEN)
        raise errors.ConfigError(f"dtype is {dtype!r}{hint}; convert; use {known}")
    goal = pathlib.Path(target).expanduser().absolute()
    if goal.exists():
        raise errors.StorageError(f"already there; {goal}; delete it or name another directory")
    if not foreign.is_foreign(source):
        if special_tokens:
            raise errors.ConfigError(
                "special_tokens are added to weights of others; convert; do it before training"
            )
        tokenizer = tokenizer or start.tokenizer_of(source) or (data.vocabulary if data else None)
        options = {"dtype": dtype, "family": family, "tokenizer": tokenizer}
        result = export.export(source, goal, model, max_shard_bytes=max_shard_bytes, **options)
    else:
        for name, value in {"family": family, "tokenizer": tokenizer}.items():
            if value is not None:
                raise errors.ConfigError(f"{name} comes with {source}; convert; drop --{name}")
        tokens = special_tokens.split(",") if special_tokens else []
        result = _bring(source, goal, dtype, tokens)
    print(_told(result), file=sys.stderr)
    return result


def _told(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['num_params']:,} parameters, {result['bytes'] / 1e9:.3f} GB, as "
        f"{result['model_type']}: {result['target']}",
        *result["notes"],
    ]
    return "\n".join(lines)


def _bring(source: str, target: pathlib.Path, dtype: str | None, tokens: Sequence[str]) -> dict:
    """Writes a checkpoint of ours, all or nothing."""
    opened = foreign.open_any(source)
    with _unfinished(target) as folder:
        kept = folder / start.KEPT
        kept.mkdir()
        for file in huggingface.companions(opened.where):
            shutil.copyfile(file, kept / file.name)
        (kept / huggingface.CONFIG).write_text(json.dumps(opened.config, indent=2) + "\n")
        ids = special.add(kept, tokens) if tokens else {}
        model, notes = _model(opened, ids)
        leaves = _leaves(opened, model, dtype)
        if all(leaf.dtype.itemsize < 4 for leaf in leaves.values()):
            model = dataclasses.replace(model, dtype="bfloat16")
        run = _facts(opened, model, leaves, kept)
        streamed.save_params(folder / "checkpoints" / "0", leaves, run)
        count = sum(leaf.size for leaf in leaves.values())
        comment = f"Converted from {opened.where}: {count:,} parameters."
        (folder / "model.gin").write_text(describe.to_gin(model, comment))
    return {
        "num_params": count,
        "bytes": sum(leaf.nbytes for leaf in leaves.values()),
        "model_type": opened.family.name,
        "target": str(target),
        "special_tokens": ids,
        "notes": notes,
    }


@contextlib.contextmanager
def _unfinished(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a directory beside the target, which gets its name when the block has succeeded."""
    folder = target.parent / f"{target.name}.unfinished-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _model(opened: foreign.Opened, ids: Mapping[str, int]) -> tuple[Model, list[str]]:
    """Returns the model with an embedding for each of the added tokens."""
    model, needed = opened.model, max(ids.values(), default=-1) + 1
    notes = [f"{token} is token {number}" for token, number in ids.items()]
    if needed <= model.vocab_size:
        return model, notes
    size = -(-needed // _ROUND_TO) * _ROUND_TO
    notes.append(
        f"vocab_size {model.vocab_size} -> {size}: the added embeddings are the mean of the others"
    )
    return dataclasses.replace(model, vocab_size=size), notes


def _leaves(
    opened: foreign.Opened, model: Model, dtype: str | None
) -> dict[weights.Path, streamed.Leaf]:
    """Parameters of ours that are read from the source while they are written."""
    shapes, axes = (weights.flat(tree) for tree in model.abstract())

    def leaf(path: weights.Path, group: list[Tensor]) -> streamed.Leaf:
        shape = shapes[path].shape
        kind = weights.stored_dtype(opened.spec(tensor.hf_name).dtype for tensor in group)
        kind = weights.WRITTEN[dtype] if dtype else kind
        picked = [isinstance(one, int) for one in group[0].index]
        picked += [False] * (len(shape) - len(picked))
        unit = tuple(1 if one else size for one, size in zip(picked, shape, strict=True))
        grown = weights.Grown(shape, axes[path], group)

        def pieces() -> Iterator[tuple[weights.Index, np.ndarray]]:
            for index, piece in grown.pieces(opened):
                yield index, weights.cast(piece, kind)
                del piece  # Before the next is read: two would be in memory.

        return streamed.Leaf(shape, kind, unit, pieces)

    return {path: leaf(path, group) for path, group in weights.by_leaf(opened.tensors).items()}


def _facts(opened: foreign.Opened, model: Model, leaves: Mapping, kept: pathlib.Path) -> dict:
    """Returns what the checkpoint must say of itself; "dtypes" make the way back bit for bit."""
    dtypes = {tensor.hf_name: opened.spec(tensor.hf_name).dtype for tensor in opened.tensors}
    others = {
        tensor.hf_name: str(dtypes[tensor.hf_name])
        for tensor in opened.tensors
        if dtypes[tensor.hf_name].itemsize < leaves[tensor.path].dtype.itemsize
    }
    facts = {
        "source": opened.where,
        "model": describe.to_json(model),
        "model_type": opened.family.name,
        "dtypes": others,
    }
    with contextlib.suppress(errors.T5sftError):  # its settings may be incomplete
        facts["vocabulary_sha256"] = vocab.load(str(kept)).fingerprint()
    return facts
