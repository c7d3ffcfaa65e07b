"""The verb score: log-probabilities of answers, at any checkpoint or Hugging Face directory."""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5sft import errors
from t5sft.data import files, prepare, vocab
from t5sft.generate import decode
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import start

_LOGITS_BYTES = 1 << 28  # of one piece of [B, T, V]


class Ids(NamedTuple):
    """One row: what is given, and what is scored."""

    inputs: list[int]
    targets: list[int]


class Judged(NamedTuple):
    """What a model says of the targets of one row."""

    logprobs: np.ndarray  # [T] natural logarithms
    is_greedy: np.ndarray  # [T] bool: no token is likelier


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


def log_probabilities(model: Any, params: Any, rows: Sequence[Ids], **options) -> list[np.ndarray]:
    """Returns the natural logarithm of the probability of every target token, see `judge`."""
    return [one.logprobs for one in judge(model, params, rows, **options)]


def judge(
    model: Any,
    params: Any,
    rows: Sequence[Ids],
    *,
    start_id: int = 0,
    batch_size: int = 8,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> list[Judged]:
    """Tells of every target token how likely it is, and whether it is the likeliest, row by row.

    Rows of equal padded lengths are computed together, so that what a row is padded to depends on
    the row alone.

    Args:
      start_id: the first decoder token of an encoder-decoder.
      batch_size: rounded up to what the mesh divides.
    """
    mesh = mesh_lib.resolve(mesh)
    ways = rules_lib.ways("batch", mesh, rules)
    batch_size = -(-batch_size // ways) * ways
    groups: dict[tuple[int, int], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(_lengths(model, row), []).append(i)
    out: dict[int, Judged] = {}
    for lengths in sorted(groups, reverse=True):
        members = groups[lengths]
        for first in range(0, len(members), batch_size):
            chosen = members[first : first + batch_size]
            batch = _batch(model, [rows[i] for i in chosen], lengths, batch_size, start_id)
            where = rules_lib.sharding(("batch", None), mesh, rules)
            batch = {name: jax.device_put(array, where) for name, array in batch.items()}
            found = _compute(params, batch, model, mesh, decode.frozen(rules))
            for logprobs, greedy, i in zip(*map(np.asarray, found), chosen, strict=False):
                end = len(rows[i].targets)
                first = max(len(rows[i].inputs) - 1, 0) if model.layout == "decoder" else 0
                here = slice(first, first + end)
                out[i] = Judged(logprobs[here], greedy[here])
    return [out[i] for i in range(len(rows))]


def _lengths(model, row: Ids) -> tuple[int, int]:
    """The padded lengths of a row: encoder (0 for a decoder) and decoder."""
    if model.layout == "decoder":
        return 0, decode.padded_length(len(row.inputs) + len(row.targets))
    return decode.padded_length(len(row.inputs)), decode.padded_length(len(row.targets))


def _batch(model, rows, lengths, batch_size: int, start_id: int) -> dict[str, np.ndarray]:
    """One row each, padded; rows that are lacking are padding whole."""
    sides: dict[str, list[tuple[list[int], list[int]]]] = {}  # side -> input and target of each row
    if model.layout == "decoder":
        both = [row.inputs + row.targets for row in rows]
        sides["decoder"] = [(ids[:-1], ids[1:]) for ids in both]
    else:
        sides["encoder"] = [(row.inputs, []) for row in rows]
        sides["decoder"] = [([start_id, *row.targets[:-1]], row.targets) for row in rows]
    batch: dict[str, np.ndarray] = {}
    for (side, pairs), length in zip(sides.items(), lengths[-len(sides) :], strict=True):
        parts = ("input_tokens", "target_tokens", "segment_ids", "positions")
        arrays = {part: np.zeros((batch_size, length), np.int32) for part in parts}
        for b, (given, wanted) in enumerate(pairs):
            n = len(given) if side == "encoder" else len(wanted)
            arrays["input_tokens"][b, :n] = given[:n]
            arrays["target_tokens"][b, : len(wanted)] = wanted
            arrays["segment_ids"][b, :n] = 1
            arrays["positions"][b, :n] = np.arange(n)
        batch |= {f"{side}_{part}": array for part, array in arrays.items()}
    return batch


@functools.partial(jax.jit, static_argnames=("model", "mesh", "rules"))
def _compute(params, batch, model, mesh, rules) -> tuple[jax.Array, jax.Array]:
    """[B, T] log-probabilities of decoder_target_tokens and whether they are the likeliest.

    Logits of a few places at a time.
    """
    precision = "float32" if model.dtype == "float32" else "default"
    with rules_lib.using(mesh, rules), jax.default_matmul_precision(precision):
        hidden = model.hidden(params, batch)  # [B, T, D]
        b, t, d = hidden.shape
        piece = t
        while piece % 2 == 0 and b * piece * model.vocab_size * 4 > _LOGITS_BYTES:
            piece //= 2
        pieces = hidden.reshape(b, t // piece, piece, d).swapaxes(0, 1)
        targets = batch["decoder_target_tokens"].reshape(b, t // piece, piece).swapaxes(0, 1)

        def one(pair):
            logits = model.unembed(params, pair[0]).astype(jnp.float32)
            picked = jnp.take_along_axis(logits, pair[1][..., None], axis=-1)[..., 0]
            return picked - jax.nn.logsumexp(logits, axis=-1), picked >= logits.max(axis=-1)

        found = jax.lax.map(one, (pieces, targets))
        found = [array.swapaxes(0, 1).reshape(b, t) for array in found]
        # Every host needs all rows, and can only read what it holds.
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        logprobs, greedy = jax.lax.with_sharding_constraint(found, everywhere)
        return logprobs, greedy
