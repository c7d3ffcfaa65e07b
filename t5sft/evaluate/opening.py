"""A model to be asked: of a run of ours, or whatever directory holds weights and a tokenizer."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import xxhash

from t5sft import errors
from t5sft.convert import foreign
from t5sft.data import prepare, preprocess, records, templates, vocab
from t5sft.data.readers import conversations
from t5sft.evaluate import answering
from t5sft.generate import layouts
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import brought, checkpoint, manifest, start

FIELDS = ("instruction", "inputs", "prompt")  # of a row, that hold a prompt


def find(
    *,
    model_dir: str | None,
    model: Any = None,
    data: prepare.Data | None = None,
    vocabulary: str | None = None,
    template: str | None = None,
    system: str | None = None,
    dtype: str | None = None,
    batch_size: int = 32,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> answering.Ready:
    """Finds the model, its tokenizer and its template; `load` then reads the parameters.

    Args:
      model_dir: a model directory, a checkpoint, a Hugging Face directory or a T5X checkpoint.
      model, data: of a run's configuration; None: as the weights tell.
      vocabulary, template, system: in place of those of `data`, or of what lies beside the weights;
        with neither a chat template nor this the prompt is asked as it is ("plain").
      dtype: of the computation; None: as the weights.
    """
    if model_dir is None:
        raise errors.ConfigError("no weights are named; generation; add --model_dir DIR")
    if model is None:
        identity(model_dir)  # raises where nothing lies
        model = brought.model(model_dir=model_dir)
    if dtype is not None:
        model = dataclasses.replace(model, dtype=dtype)
    name = vocabulary or (data.vocabulary if data else start.tokenizer_of(model_dir))
    if name is None:
        raise errors.ConfigError(
            f"no tokenizer beside the weights; {model_dir}; add it there, or --vocabulary PATH"
        )
    written = template or (data.template if data else brought.template(model_dir=model_dir))
    found = vocab.load(name)
    return answering.Ready(
        model=model,
        params=None,
        vocabulary=found,
        template=templates.get(written),
        system=system or (data.system if data else None),
        start_id=found.pad_id if data else start.start_id(model_dir, name),
        batch_size=batch_size,
        mesh=mesh_lib.resolve(mesh),
        rules=rules,
        template_name=written,
        vocabulary_name=name,
    )


def load(model_dir: Any, ready: answering.Ready) -> answering.Ready:
    """Reads the parameters."""
    like = start.like(ready.model, ready.mesh, ready.rules)
    params = start.load(model_dir, ready.model, like, ready.vocabulary)
    return ready._replace(params=layouts.laid_out(ready.model, params))


def identity(model_dir: str) -> dict[str, str]:
    """Returns where the weights lie (of a model directory its newest checkpoint) and a digest.

    The digest of a checkpoint of ours is of its manifest, so of every byte. Of another's it is of
    what config.json says and of all names, dtypes, shapes, vectors and of three rows of each
    matrix: other training shows in all of these, and a large model is not read twice.
    """
    digest = xxhash.xxh3_128()
    if foreign.is_foreign(model_dir):
        source = foreign.open_any(model_dir).source
        digest.update(json.dumps(source.config, sort_keys=True, default=str).encode())
        for name, spec in sorted(source.tensors.items()):
            digest.update(f"{name} {spec.dtype} {list(spec.shape)}\n".encode())
            for rows in _rows(spec.shape):
                digest.update(source.read(name, rows).tobytes())
        where = str(pathlib.Path(model_dir).expanduser().absolute())
    else:
        found = checkpoint.find(model_dir)
        with contextlib.suppress(FileNotFoundError):  # `load` will say so
            digest.update((found / manifest.NAME).read_bytes())
        where = str(found)
    return {"weights": where, "weights_xxh3": digest.hexdigest()}


def _rows(shape: Sequence[int]) -> list[tuple[int, int] | None]:
    """The first, the middle and the last row; of a vector all."""
    if len(shape) < 2:
        return [None]
    return [(i, i + 1) for i in sorted({0, shape[0] // 2, shape[0] - 1})]


def question(row: dict, where: str, prompt_field: str | None = None) -> records.Record:
    """Reads a prompt; the answer still to come is empty.

    Args:
      prompt_field: its name; None: the first of `messages` and those of `FIELDS` that is there.
    """
    answer = records.Message("assistant", "")
    named = prompt_field or next((name for name in ("messages", *FIELDS) if name in row), None)
    if named is None or named not in row:
        raise errors.DataError(
            f"no {prompt_field or 'prompt'} among the fields {sorted(row)}; {where}; name it "
            "instruction, prompt or messages, or add --prompt_field"
        )
    if isinstance(row[named], list) and named == "messages":
        asked = conversations.turns(row[named], named, where)
        return records.Record((*asked, answer), where)
    if not isinstance(row[named], str):
        raise errors.DataError(
            f"{named} is {json.dumps(row[named], default=str)[:40]}, not text; {where}; correct it"
        )
    user = records.Message("user", row[named], str(row.get("input") or ""))
    return records.Record((user, answer), where)


def ids(ready: answering.Ready, record: records.Record, where: str) -> list[int]:
    """Returns the tokens that a question is asked by."""
    found = preprocess.prompt(
        record,
        ready.vocabulary,
        ready.template,
        layout=ready.model.layout,
        system=ready.system,
    )
    if max(found, default=0) >= ready.model.vocab_size:
        raise errors.DataError(
            f"the tokenizer {ready.vocabulary.name} has ids beyond the {ready.model.vocab_size} "
            f"embeddings; {where}; use the tokenizer of the weights"
        )
    return found
