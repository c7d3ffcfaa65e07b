"""Generation: prompts in, completions out, one compiled loop per padded length."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5sft import errors
from t5sft.generate import sampling
from t5sft.parallel import rules as rules_


class Generated(NamedTuple):
    """What a model answered to one prompt."""

    tokens: list[int]  # without EOS, and nothing after it
    finished: bool  # False: cut at max_new_tokens


def generate(
    model: Any,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int],
    start_id: int = 0,
    batch_size: int = 8,
    buckets: Sequence[int] | None = None,
    sampler: sampling.Sampler = sampling.Sampler(),  # noqa: B008 (frozen)
    seed: int = 0,
    row_seeds: Sequence[int] | None = None,
    mesh: Mesh | None = None,
    rules: rules_.Rules = rules_.DEFAULT_RULES,
) -> list[Generated]:
    """Completes every prompt and returns the completions in the order of the prompts.

    Prompts are sorted by length and padded to a bucket, so a run compiles once per bucket, and a
    completion does not depend on which prompts share its batch.

    Args:
      model: a model of `t5sft.models`, either layout.
      prompts: token ids. "decoder": the text to continue, not empty. "encoder_decoder": the input.
      max_new_tokens: a completion is cut here, and marked as not finished.
      eos_id: ends a completion; or several that do (end of turn, end of text).
      start_id: the first decoder token of an encoder-decoder; T5 uses its padding id, 0.
      batch_size: rows decoded together; the last batch is filled up with rows that are ignored.
      buckets: padded prompt lengths; by default 16, 24, 32, 48, 64, 96, ...
      sampler: how a token is chosen; greedy by default.
      seed, row_seeds: row i draws with the key of (seed, row_seeds[i]); row_seeds[i] = i if None.
      mesh, rules: where the parameters lie; the batch is split as the rules say.

    Raises:
      ConfigError: the mesh does not divide batch_size.
      DataError: an empty prompt for a decoder, or one longer than the last bucket.
    """
    row_seeds = range(len(prompts)) if row_seeds is None else row_seeds
    _check(model, prompts, batch_size, buckets, mesh, rules)
    ends = (eos_id,) if isinstance(eos_id, int) else tuple(eos_id)
    key = jax.random.key(seed)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    completions: dict[int, Generated] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        rows = [prompts[i] for i in chosen] + [[start_id]] * (batch_size - len(chosen))
        seeds = [row_seeds[i] for i in chosen] + [0] * (batch_size - len(chosen))
        arrays = _arrays(model, rows, padded_length(max(map(len, rows)), buckets), start_id)
        arrays["ignored"] = np.arange(batch_size) >= len(chosen)
        if mesh is not None:
            arrays = _spread(arrays, mesh, rules)
        tokens = _decode(
            params,
            arrays,
            jax.vmap(lambda row: jax.random.fold_in(key, row))(np.asarray(seeds, np.uint32)),
            np.asarray(ends, np.int32),
            model=model,
            sampler=sampler,
            max_new_tokens=max_new_tokens,
            mesh=mesh,
            rules=frozen(rules),
        )
        for i, row in zip(chosen, np.asarray(tokens), strict=False):
            completions[i] = _generated(row, ends)
    return [completions[i] for i in range(len(prompts))]


def padded_length(length: int, buckets: Sequence[int] | None = None) -> int:
    """Returns the smallest bucket that holds `length` tokens: at most a third of it is padding.

    Example:
      padded_length(17)              24
      padded_length(33)              48
      padded_length(17, [20, 100])   20
    """
    if buckets is not None:
        return min(bucket for bucket in buckets if bucket >= length)
    bucket = 16
    while bucket < length:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket // 3 * 4
    return bucket


@functools.partial(jax.jit, static_argnames=("model", "sampler", "max_new_tokens", "mesh", "rules"))
def _decode(params, arrays, keys, ends, *, model, sampler, max_new_tokens, mesh, rules):
    """Reads the prompts, then one token per row and step until all rows end: [B, max_new_tokens].

    The first token given to `decode_step` is the last of the prompt (its slot is written a second
    time, with the same values) or start_id: so both layouts run the same loop.
    """
    with rules_.using(mesh, rules) if mesh is not None else contextlib.nullcontext():
        batch = {name: arrays[name] for name in arrays if name.startswith(("encoder", "decoder"))}
        prompt_length = 0 if model.layout == "encoder_decoder" else _length(batch)
        cache = model.prefill(params, batch, prompt_length + max_new_tokens)[1]

        def unfinished(state):
            step, *_, ended, _ = state
            return (step < max_new_tokens) & ~ended.all()

        def advance(state):
            step, cache, tokens, positions, ended, out = state
            logits, cache = model.decode_step(params, cache, tokens, positions)
            now = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
            tokens = jnp.where(ended, ends[0], sampler(logits, now))
            out = jax.lax.dynamic_update_slice_in_dim(out, tokens[:, None], step, axis=1)
            ended |= jnp.isin(tokens, ends)
            return step + 1, cache, tokens, positions + 1, ended, out

        out = jnp.full((keys.shape[0], max_new_tokens), ends[0], jnp.int32)
        start = (0, cache, arrays["tokens"], arrays["positions"], arrays["ignored"], out)
        out = jax.lax.while_loop(unfinished, advance, start)[-1]
        if mesh is None:
            return out
        # Every host needs all rows, and can only read what it holds.
        return jax.lax.with_sharding_constraint(out, NamedSharding(mesh, PartitionSpec()))


def _length(batch: dict[str, jax.Array]) -> int:
    return batch["decoder_input_tokens"].shape[1]


def _arrays(model, rows: Sequence[Sequence[int]], length: int, start_id: int) -> dict:
    """Right-pads the prompts to a batch; adds the first token and position of each row."""
    side = "encoder" if model.layout == "encoder_decoder" else "decoder"
    lengths = np.array([len(row) for row in rows], np.int32)
    real = np.arange(length) < lengths[:, None]  # [B, length]
    tokens = np.zeros(real.shape, np.int32)
    tokens[real] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    batch = {
        f"{side}_input_tokens": tokens,
        f"{side}_segment_ids": real.astype(np.int32),
        f"{side}_positions": np.where(real, np.arange(length, dtype=np.int32), 0),
    }
    if side == "encoder":
        first, positions = np.full(len(rows), start_id, np.int32), np.zeros_like(lengths)
    else:
        first, positions = tokens[np.arange(len(rows)), lengths - 1], lengths - 1
    return batch | {"tokens": first, "positions": positions}


def _spread(arrays: dict, mesh: Mesh, rules: rules_.Rules) -> dict:
    names = {1: ("batch",), 2: ("batch", None)}
    return {
        name: jax.device_put(array, rules_.sharding(names[array.ndim], mesh, rules))
        for name, array in arrays.items()
    }


def _generated(row: np.ndarray, ends: Sequence[int]) -> Generated:
    tokens = row.tolist()
    stop = next((i for i, token in enumerate(tokens) if token in ends), None)
    return Generated(tokens[:stop], stop is not None)


def frozen(rules: rules_.Rules) -> tuple:
    """gin gives lists; a static argument of jit has to be hashable."""
    return tuple((name, tuple(axes) if isinstance(axes, list) else axes) for name, axes in rules)


def _check(model, prompts, batch_size, buckets, mesh, rules) -> None:
    for index, prompt in enumerate(prompts):
        if model.layout == "decoder" and not prompt:
            raise errors.DataError(f"prompt {index} is empty; generate; begin it with a BOS token")
        if buckets is not None and len(prompt) > max(buckets):
            raise errors.DataError(
                f"prompt {index} has {len(prompt)} tokens; generate; shorten it, or add a bucket "
                f"beyond {max(buckets)}"
            )
    if mesh is not None:
        ways = rules_.ways("batch", mesh, rules)
        if batch_size % ways:
            nearest = max(ways, round(batch_size / ways) * ways)
            raise errors.ConfigError(
                f"batch_size = {batch_size} does not divide over {ways} devices; generate; "
                f"use {nearest}"
            )
