"""Where parameters come from: a checkpoint of ours, a Hugging Face directory, a T5X checkpoint.

What cannot be seen from shapes is checked too: the fields of the model, and that the tokenizer of
the weights and that of the task give the same ids.
"""

import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from t5sft import errors
from t5sft.convert import describe, foreign, huggingface, t5x, tensors, weights
from t5sft.data import vocab
from t5sft.models.model import Model
from t5sft.parallel import rules as rules_lib
from t5sft.train import checkpoint, stored, streamed

KEPT = "huggingface"  # in a model directory: what the weights came with, such as the tokenizer
# Spaces, case, digits, accents, other scripts, emoji, code: where tokenizers differ.
_PROBES = (
    "Hello, world!",
    "  two  spaces\tand a tab",
    "line one\nline two\n",
    "The quick brown fox jumps over 12 lazy dogs in 1984.",
    "Stra\u00dfe, caf\u00e9, na\u00efve, \u0141\u00f3d\u017a",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u4f60\u597d, \u0645\u0631\u062d\u0628\u0627",
    "\U0001f600 x = [1, 2]; if (x != y) { return; }",
)


class Start(NamedTuple):
    """Parameters that have been found and fit, but are not read yet."""

    notes: list[str]  # for people: what is done, and what could not be checked
    read: Callable[[Any], Any]  # tree of jax.ShapeDtypeStruct with shardings -> parameters


def find(path, model: Model, vocabulary: vocab.Vocabulary | None = None) -> Start:
    """Finds the parameters of `model`, and checks in a second all that needs no reading of arrays.

    Args:
      path: a model directory, one step of it, what `t5sft convert` or `save_params` wrote, a
        Hugging Face directory, or a T5X checkpoint.
      vocabulary: the task's; None: tokenizers are not compared.

    Raises:
      CheckpointError: nothing there, damage, another model, or another tokenizer. `read` raises it
        for damage of arrays.
    """
    if foreign.is_foreign(path):
        opened = foreign.open_any(path)
        foreign.check_model(model, opened.model, opened.where)
        notes = _compared(vocabulary, tokenizer_of(path), model, opened.where)
        notes += _grown(model, opened.model.vocab_size)
        return Start(notes, lambda like: foreign.load(opened, model, like))
    found = checkpoint.find(path)
    run = _run(found)
    if "model" not in run:
        return Start([], lambda like: checkpoint.restore_params(path, like))
    other = describe.from_json(run["model"])
    foreign.check_model(model, other, str(found))
    notes = _grown(model, other.vocab_size)
    if vocabulary and run.get("vocabulary_sha256") not in (None, vocabulary.fingerprint()):
        notes += _compared(vocabulary, tokenizer_of(path), model, str(found))
    if other.vocab_size == model.vocab_size:
        return Start(notes, lambda like: checkpoint.restore_params(path, like))

    def read(like):
        own = _Own(streamed.Reader(path))
        return weights.load(own, own.tensors(), like, model.abstract()[1])

    return Start(notes, read)


def load(path, model: Model, like: Any, vocabulary: vocab.Vocabulary | None = None) -> Any:
    """Finds and reads parameters, see `find`."""
    return find(path, model, vocabulary).read(like)


def kept(path) -> pathlib.Path | None:
    """Returns the directory of what weights came with (config.json, tokenizer), None without."""
    if "://" in str(path) or t5x.is_directory(path):
        return None
    source = pathlib.Path(path).expanduser()
    if not huggingface.is_directory(source):
        found = pathlib.Path(checkpoint.find(path))
        source = (found.parent.parent if found.parent.name == "checkpoints" else found) / KEPT
    return source if source.is_dir() else None


def keep(path, directory) -> None:
    """Copies what weights came with into a model directory, unless it has some."""
    source, target = kept(path), pathlib.Path(directory) / KEPT
    if source is None or target.exists() or jax.process_index() != 0:
        return
    target.mkdir(parents=True)
    for file in huggingface.companions(source):
        shutil.copyfile(file, target / file.name)


def model_of(path) -> Model | None:
    """Returns the model whose parameters lie there, None where a checkpoint does not say."""
    if foreign.is_foreign(path):
        return foreign.open_any(path).model
    run = _run(checkpoint.find(path))
    return describe.from_json(run["model"]) if "model" in run else None


def tokenizer_of(path) -> str | None:
    """Returns the tokenizer that belongs to parameters, as `vocab.load` takes it, or None."""
    if foreign.is_foreign(path):
        return _in_directory(pathlib.Path(path).expanduser())
    beside = kept(path)
    if beside is not None and (name := _in_directory(beside)):
        return name
    run = _run(checkpoint.find(path))
    name = run.get("vocabulary")
    try:
        return name if name and vocab.load(name).fingerprint() == run["vocabulary_sha256"] else None
    except (errors.T5sftError, KeyError):
        return None


def _in_directory(path: pathlib.Path) -> str | None:
    names = ("tokenizer.json", "*.model")
    return str(path) if any(any(path.glob(name)) for name in names) else None


def _run(found: epath.Path) -> Mapping[str, Any]:
    try:
        return stored.read_json(found, "run")
    except (OSError, ValueError) as error:
        raise errors.CheckpointError(
            f"run/run.json cannot be read ({str(error)[:120]}); {found}; use another checkpoint"
        ) from error


def _compared(
    vocabulary: vocab.Vocabulary | None, theirs: str | None, model: Model, where: str
) -> list[str]:
    """Raises where the two give other ids; returns a note where that could not be told."""
    if vocabulary is None:
        return []
    if theirs is None:
        return [f"no tokenizer in {where}: it was not compared with the task's"]
    other = vocab.load(theirs)
    difference = None
    if other.fingerprint() != vocabulary.fingerprint():
        difference = differs(vocabulary, other, model.layout)
    if difference:
        raise errors.CheckpointError(
            f"the task's tokenizer is not that of the weights: {difference}; {where}; "
            f"set VOCABULARY to {theirs!r}"
        )
    return []


def differs(ours: vocab.Vocabulary, theirs: vocab.Vocabulary, layout: str) -> str | None:
    """Says in what two tokenizers differ that counts: special ids, or the ids of a text.

    The same tokenizer comes in several files, so it is the ids that are compared.
    """
    names = ["eos_id", "bos_id"] + (["pad_id"] if layout == "encoder_decoder" else [])
    for name in names:
        here, there = getattr(ours, name), getattr(theirs, name)
        if here != there:
            return f"{name} is {here}, the weights' {there}"
    for text in _PROBES:
        here, there = ours.encode(text), theirs.encode(text)
        if here != there:
            return f"{text!r} is {_shown(here)}, the weights' {_shown(there)}"
    return None


def _shown(ids: list[int]) -> str:
    return str(ids[:8]).replace("]", ", ...]" if len(ids) > 8 else "]")


def _grown(model: Model, before: int) -> list[str]:
    added = model.vocab_size - before
    text = f"{added} embeddings added to {before}, each the mean of these"
    return [text] if added else []


class _Own:
    """A checkpoint of ours as a source of tensors, each a layer of a leaf."""

    def __init__(self, reader: streamed.Reader):
        self._reader = reader
        self.where = str(reader.path)

    def tensors(self) -> list[tensors.Tensor]:
        return [
            tensors.Tensor("/".join(path), leaf.shape, path, leaf.shape)
            for path, leaf in self._reader.leaves.items()
        ]

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        return self._reader.read(tuple(name.split("/")), () if rows is None else (slice(*rows),))


def like(model: Model, mesh, rules) -> Any:
    """Returns the shapes of the parameters of a model and where they lie on a mesh."""
    shapes, axes = model.abstract()
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        rules_lib.shardings(shapes, axes, mesh, rules),
    )


def start_id(path, tokenizer: str | None) -> int:
    """Returns the first decoder token of an encoder-decoder; T5 uses its padding token, 0."""
    beside = kept(path)
    is_there = beside is not None and (beside / huggingface.CONFIG).is_file()
    config = huggingface.read_config(beside) if is_there else {}
    for name in ("decoder_start_token_id", "pad_token_id"):
        if isinstance(config.get(name), int):
            return config[name]
    return vocab.load(tokenizer).pad_id if tokenizer else 0
