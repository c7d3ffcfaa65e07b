"""A checkpoint of ours becomes a Hugging Face directory, tensor by tensor."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from t5sft import errors, paths
from t5sft.convert import describe, families, foreign, huggingface, weights
from t5sft.convert.tensors import Tensor
from t5sft.data import vocab
from t5sft.models import t5
from t5sft.models.model import Model
from t5sft.train import start, streamed

_SETTINGS = "tokenizer_config.json"


def export(
    source: str,
    target: pathlib.Path,
    model: Model | None,
    *,
    dtype: str | None,
    family: str | None,
    tokenizer: str | None,
    max_shard_bytes: int,
) -> dict:
    """Writes a directory that transformers loads.

    Args:
      tokenizer: as `vocab.load` takes it; None: none is written.
      others: as of `exchange.convert`.
    """
    reader = streamed.Reader(source)
    model = _model(reader, model)
    kept = start.kept(source)
    is_there = kept is not None and (kept / huggingface.CONFIG).is_file()
    before = huggingface.read_config(kept) if is_there else {}
    chosen = families.find(family) if family else _family(before, model)
    groups: dict[str, list[Tensor]] = {}
    for tensor in chosen.tensors(model):
        groups.setdefault(tensor.hf_name, []).append(tensor)
    kinds = {name: _dtype(name, parts, reader, dtype) for name, parts in groups.items()}
    sizes = {name: math.prod(parts[0].shape) for name, parts in groups.items()}
    most = max(
        set(kinds.values()), key=lambda kind: sum(sizes[n] for n in kinds if kinds[n] == kind)
    )
    files, settings, notes = _tokenizer(tokenizer, chosen)
    huggingface.write(
        target,
        texts={
            huggingface.CONFIG: _config(chosen, model, before, str(most), tokenizer),
            **settings,
        },
        files=files,
        specs={name: (kinds[name], parts[0].shape) for name, parts in groups.items()},
        make=lambda name: weights.cast(weights.export(groups[name], reader.read), kinds[name]),
        max_shard_bytes=max_shard_bytes,
    )
    return {
        "num_params": sum(sizes.values()),
        "bytes": sum(sizes[n] * kinds[n].itemsize for n in sizes),
        "model_type": chosen.name,
        "target": str(target),
        "notes": notes,
    }


def _model(reader: streamed.Reader, model: Model | None) -> Model:
    """Returns the model of a checkpoint, and checks that the arrays are its parameters."""
    if "model" in reader.run:
        described = describe.from_json(reader.run["model"])
        if model is not None:
            foreign.check_model(model, described, str(reader.path))
        model = described
    if model is None:
        raise errors.ConfigError(
            f"the checkpoint does not say its model; {reader.path}; add the --gin_file it was "
            "trained with"
        )
    wanted = weights.flat(model.abstract()[0])
    have = {path: leaf.shape for path, leaf in reader.leaves.items()}
    for path in sorted(wanted.keys() | have.keys()):
        need = wanted[path].shape if path in wanted else None
        if need != have.get(path):
            name = "/".join(path)
            raise errors.CheckpointError(
                f"the checkpoint is of another model: {name} is {have.get(path)}, in the model "
                f"{need}; {reader.path}; use the configuration of its run"
            )
    return model


def _family(before: Mapping[str, Any], model: Model) -> families.Family:
    """Returns the family that the weights came from if the model is still one of it."""
    try:
        found = families.find(str(before.get("model_type")))
        found.config(model)
        return found
    except errors.ConfigError:
        return families.of(model)


def _dtype(name: str, parts: list[Tensor], reader: streamed.Reader, dtype: str | None) -> np.dtype:
    """Returns the dtype of a tensor: the one asked for, the one it came in, or the one it has."""
    if dtype is not None:
        return weights.WRITTEN[dtype]
    came = reader.run.get("dtypes", {}).get(name)
    if came is not None:
        return np.dtype(getattr(ml_dtypes, came, came))
    return reader.leaves[parts[0].path].dtype


def _config(
    family: families.Family,
    model: Model,
    before: Mapping[str, Any],
    dtype: str,
    tokenizer: str | None,
) -> dict[str, Any]:
    """Returns config.json: the one the weights came with where it still says the same."""
    if before.get("model_type") == family.name:
        same = family.model(before, has_head=not model.logits_via_embedding)
        if set(families.differences(model, same)) <= {"vocab_size"}:
            key = "dtype" if "dtype" in before else "torch_dtype"
            changed = {"vocab_size": model.vocab_size} if same != model else {}
            now = dict(before) | ({key: dtype} if before.get(key) != dtype else {})
            return now | {k: v for k, v in changed.items() if before.get(k) != v}
    return family.config(model, {"torch_dtype": dtype} | _special_ids(model, tokenizer))


def _special_ids(model: Model, tokenizer: str | None) -> dict[str, Any]:
    if tokenizer is None:
        return {}
    vocabulary = vocab.load(tokenizer)
    ids = {"eos_token_id": vocabulary.eos_id, "pad_token_id": vocabulary.pad_id}
    if model.layout == "encoder_decoder":
        return ids | {"decoder_start_token_id": vocabulary.pad_id}
    return ids | {"bos_token_id": vocabulary.bos_id}


def _tokenizer(
    name: str | None, family: families.Family
) -> tuple[dict[str, pathlib.Path], dict[str, dict], list[str]]:
    """Returns the files of the tokenizer to copy by name, settings to write, and notes."""
    if name is None:
        return {}, {}, ["no tokenizer is known for these weights: name its directory, --tokenizer"]
    is_t5 = family.makes is t5.T5
    if name == "bytes":
        if not is_t5:
            return {}, {}, ["transformers has no tokenizer of bytes for this family: none written"]
        settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 32}
        return {}, {_SETTINGS: settings}, []
    try:
        path = paths.find(name)
    except FileNotFoundError as error:
        raise errors.ConfigError(f"{error}; --tokenizer; check the path") from error
    folder = path if path.is_dir() else path.parent
    files = {file.name: file for file in huggingface.companions(folder)}
    files.pop(huggingface.CONFIG, None)
    if path.is_dir() or path.name in files:
        return files, {}, []
    # A SentencePiece model alone, under a name that transformers does not look for.
    settings = (
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
        if is_t5
        else {"tokenizer_class": "LlamaTokenizer"}
    )
    called = "spiece.model" if is_t5 else "tokenizer.model"
    notes = []
    if not vocab.load(name).adds_space:
        notes.append(
            "transformers puts a space before every text and this tokenizer does not: encode for "
            f"it with {called} and the sentencepiece package"
        )
    return {called: path}, {_SETTINGS: settings}, notes
