"""Checkpoints that others wrote: which model they hold, and its parameters on our mesh."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from t5sft import errors
from t5sft.convert import families, huggingface, t5x, tensors, weights
from t5sft.models.model import Model

_COMPARED_BYTES = 64 << 20  # of two tensors at once


class Opened(NamedTuple):
    """A foreign checkpoint whose tensors have been found to be those of its model."""

    source: Any  # huggingface.Directory or t5x.Checkpoint
    family: families.Family
    model: Model
    names: Mapping[str, str]  # tensor of the model -> in the source, where it is called otherwise
    tensors: list[tensors.Tensor]

    @property
    def where(self) -> str:
        return self.source.where

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return self.source.config

    def spec(self, name: str) -> weights.Spec:
        """Returns dtype and shape of a tensor of the model."""
        return self.source.tensors[self.names.get(name, name)]

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Returns a tensor of the model."""
        return self.source.read(self.names.get(name, name), rows)


def is_foreign(path) -> bool:
    """Tells whether a path is a Hugging Face directory or a T5X checkpoint."""
    return huggingface.is_directory(path) or t5x.is_directory(path)


def open_any(path) -> Opened:
    """Opens a Hugging Face directory or a T5X checkpoint, and checks all of its names and shapes.

    Raises:
      CheckpointError: damage, or tensors that are missing, extra, of another shape or twice there.
      ConfigError: an unknown family, or a feature that our models lack.
    """
    is_t5x = not huggingface.is_directory(path) and t5x.is_directory(path)
    source = t5x.Checkpoint(path) if is_t5x else huggingface.Directory(path)
    family = families.find(source.model_type)
    model, names, repeated = _tied(source, family, family.model(source.config))
    found = family.tensors(model)
    called = {theirs: name for name, theirs in names.items()}
    have = {called.get(n, n): spec for n, spec in source.tensors.items() if n not in repeated}
    weights.check(have, found, ignored=family.ignored, where=source.where)
    return Opened(source, family, model, names, found)


def _tied(source, family: families.Family, model: Model) -> tuple[Model, dict[str, str], set[str]]:
    """Finds the copies of the embedding among the tensors.

    Returns the model, which has a head of its own if the copy that would be its head is none; what
    the embedding is called where only a copy of it was kept; and the copies that need no reading.
    """
    names: dict[str, str] = {}
    repeated: set[str] = set()
    for copy, original in family.aliases(model).items():
        kept = names.get(original, original)
        if copy not in source.tensors:
            continue
        if kept not in source.tensors:
            names[original] = copy
        elif _same(source, copy, kept):
            repeated.add(copy)
        elif copy not in family.copies and family.model(source.config, has_head=True) != model:
            return _tied(source, family, family.model(source.config, has_head=True))
        else:
            raise errors.CheckpointError(
                f"{copy} differs from {kept}, but config.json says that they are one; "
                f"{source.where}; set tie_word_embeddings to false if that is wrong"
            )
    return model, names, repeated


def _same(source, one: str, other: str) -> bool:
    """Tells whether two tensors hold the same bytes."""
    spec, second = source.tensors[one], source.tensors[other]
    if (spec.dtype, spec.shape) != (second.dtype, second.shape):
        return False
    row_bytes = max(int(np.prod(spec.shape[1:])) * spec.dtype.itemsize, 1)
    step = max(_COMPARED_BYTES // row_bytes, 1)
    blocks = ((i, min(i + step, spec.shape[0])) for i in range(0, spec.shape[0], step))
    return all(source.read(one, b).tobytes() == source.read(other, b).tobytes() for b in blocks)


def load(opened: Opened, model: Model, like: Any) -> Any:
    """Reads the parameters of `model` onto the shardings of `like`.

    Embeddings that the checkpoint lacks are added as `weights.Grown` says.

    Raises:
      CheckpointError: the checkpoint is of another model than this, or larger.
    """
    check_model(model, opened.model, opened.where)
    return weights.load(opened, opened.tensors, like, model.abstract()[1])


def check_model(model: Model, other: Model, where: str) -> None:
    """Raises CheckpointError where the fields of two models say that weights do not fit.

    Shapes alone do not tell: a rotation with another base has none.

    Args:
      model: what is wanted; it may have more embeddings than `other`, what is there.
    """
    fields = set(families.differences(model, other))
    if type(model) is type(other) and model.vocab_size > other.vocab_size:
        fields.discard("vocab_size")
    if not fields:
        return
    if "layout" in fields:
        said = f"it is a {type(other).__name__}, the model a {type(model).__name__}"
    else:
        pairs = [
            f"{n} is {getattr(other, n)}, in the model {getattr(model, n)}" for n in sorted(fields)
        ]
        said = "; ".join(pairs)
    raise errors.CheckpointError(
        f"the checkpoint is of another model: {said}; {where}; use the configuration that t5sft "
        "convert writes for it"
    )
