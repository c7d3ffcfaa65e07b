"""The verb score: log-probabilities of answers, at any checkpoint or Hugging Face directory."""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5sft import errors
from t5sft.data import files, prepare, vocab
from t5sft.evaluate.likelihoods import Ids, log_probabilities
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import start


def score(
    *,
    file: str | None = None,
    model_dir: str | None = None,
    model: Any = None,
    data: prepare.Data | None = None,
    vocabulary: str | None = None,
    output: str | None = None,
    batch_size: int = 8,
    dtype: str = "float32",
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> dict:
    """Scores the targets of every row given its inputs.

    A row of text is encoded as the family's own tokenizers do. Encoder-decoder: inputs and targets
    each end with an end token. Decoder: [bos] inputs, and the targets follow directly, without an
    end token; white space at the end of the inputs counts to the targets, because no vocabulary
    has a token that ends in it. Rows of ids are taken as they are. No template is used.

    Args:
      file: JSON Lines (or another kind that `data.files` reads); a row has `inputs` and `targets`,
        or `input_ids` and `target_ids`.
      model_dir: a checkpoint of ours, a Hugging Face directory or a T5X checkpoint.
      model: of a checkpoint that does not say it itself.
      data: names the vocabulary, if `vocabulary` does not; neither: the one beside the weights.
      output: a JSONL file for the rows with their scores; default standard output.
      batch_size: rows computed together; it changes the rounding of the scores, no more.
      dtype: of the computation.

    Returns:
      {"scores": rows with `logprob`, `token_logprobs`, `num_tokens` (natural logarithms), in the
      order of the file; "logprob", "num_tokens": sums over them}.
    """
    if file is None or model_dir is None:
        raise errors.ConfigError("score needs rows and weights; give FILE and --model_dir DIR")
    if batch_size < 1:
        raise errors.ConfigError(f"batch_size is {batch_size}; score; give at least 1")
    found = start.model_of(model_dir) or model
    if found is None:
        raise errors.ConfigError(
            f"the checkpoint does not say its model; {model_dir}; add the --gin_file it was "
            "trained with"
        )
    found = dataclasses.replace(found, dtype=dtype)
    name = vocabulary or (data.vocabulary if data else None) or start.tokenizer_of(model_dir)
    rows = list(files.read_rows(_existing(file)))
    asked = _encode(rows, found, name, model_dir)
    mesh = mesh_lib.resolve(mesh)
    params = start.load(model_dir, found, start.like(found, mesh, rules))
    options = {"batch_size": batch_size, "mesh": mesh, "rules": rules}
    start_id = start.start_id(model_dir, name)
    logprobs = log_probabilities(found, params, asked, start_id=start_id, **options)
    scores = [
        {
            **row,
            "logprob": float(np.sum(one, dtype=np.float64)),
            "token_logprobs": [float(x) for x in one],
            "num_tokens": len(one),
        }
        for (_, row), one in zip(rows, logprobs, strict=True)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scores)
    if output:
        pathlib.Path(output).expanduser().write_text(text, encoding="utf-8")
        print(f"{len(scores)} rows in {output}", file=sys.stderr)
    else:
        sys.stdout.write(text)
    total = {key: sum(row[key] for row in scores) for key in ("logprob", "num_tokens")}
    return {"scores": scores, **total}


def _existing(file: str) -> pathlib.Path:
    path = pathlib.Path(file).expanduser()
    if not path.is_file():
        raise errors.ConfigError(f"no file {file}; score; check the path")
    return path


def _encode(rows, model, name: str | None, model_dir: str) -> list[Ids]:
    """Returns the ids of all rows; raises DataError naming the row that cannot be scored."""

    @functools.cache
    def vocabulary() -> vocab.Vocabulary:
        if name is None:
            raise errors.ConfigError(
                f"no tokenizer beside the weights; {model_dir}; add --vocabulary, or give rows of "
                "input_ids and target_ids"
            )
        return vocab.load(name)

    out = []
    for where, row in rows:
        if "input_ids" in row and "target_ids" in row:
            ids = Ids(*(_ids(row, key, model, where) for key in ("input_ids", "target_ids")))
        elif isinstance(row.get("inputs"), str) and isinstance(row.get("targets"), str):
            ids = encode(row["inputs"], row["targets"], vocabulary(), model.layout)
            if max([*ids.inputs, *ids.targets], default=0) >= model.vocab_size:
                raise errors.DataError(
                    f"the tokenizer {name} has ids beyond the {model.vocab_size} embeddings; "
                    f"{where}; use the tokenizer of the weights"
                )
        else:
            raise errors.DataError(
                f"no inputs and targets among the fields {sorted(row)}; {where}; give inputs and "
                "targets as text, or input_ids and target_ids"
            )
        if model.layout == "decoder" and ids.targets and not ids.inputs:
            raise errors.DataError(
                f"nothing stands before the first target; {where}; put a beginning token into "
                "input_ids"
            )
        out.append(ids)
    return out


def _ids(row: dict, key: str, model, where: str) -> list[int]:
    ids = row[key]
    is_right = isinstance(ids, list) and all(type(i) is int for i in ids)
    if not is_right or any(not 0 <= i < model.vocab_size for i in ids):
        raise errors.DataError(
            f"{key} is no list of token ids below {model.vocab_size}; {where}; mend the row"
        )
    return ids


def encode(inputs: str, targets: str, vocabulary: vocab.Vocabulary, layout: str) -> Ids:
    """Returns the ids of a row of text, see `score`.

    Example (a decoder whose texts begin with a space of their own):
      "2 + 2 = ", "4"   ->   <s> _2 _+ _2 _= | _4
    """
    if layout == "encoder_decoder":
        end = [vocabulary.eos_id]
        return Ids(vocabulary.encode(inputs) + end, vocabulary.encode(targets) + end)
    before = inputs.rstrip()
    targets = inputs[len(before) :] + targets
    if vocabulary.adds_space:
        targets = targets.removeprefix(" ")
    bos = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    return Ids(bos + vocabulary.encode(before), vocabulary.encode(targets))
