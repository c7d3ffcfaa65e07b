"""Rows that are decoded together, each at its own place; a finished one makes room for the next.

Three compiled programs per padded length: `begin` reads the first prompts, `advance` decodes in one
loop until enough rows have ended, `refill` reads waiting prompts into the places of ended rows.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5sft.generate import prompts
from t5sft.models.attention import cache as cached
from t5sft.parallel import rules as rules_lib


class Program(NamedTuple):
    """What is compiled in: hashable."""

    model: Any
    sampler: Any  # `sampling.Sampler`, or `beam.Beams` for beam.search
    max_new_tokens: int
    cache_dtype: str | None
    mesh: Mesh | None
    rules: tuple
    min_new_tokens: int = 0


class Slots(NamedTuple):
    """B rows in flight."""

    cache: Any
    tokens: jax.Array  # [B] the next to be given to `decode_step`
    positions: jax.Array  # [B] its place
    steps: jax.Array  # [B] tokens made
    ended: jax.Array  # [B] bool
    out: jax.Array  # [B, max_new_tokens] the tokens made
    keys: jax.Array  # [B] of the row; a step folds its number in
    seen: jax.Array | None  # [B, V] bool, where a repetition penalty needs it


@functools.partial(jax.jit, static_argnames="program")
def begin(params, given: dict[str, jax.Array], keys: jax.Array, *, program: Program) -> Slots:
    """Reads B prompts, `prompts.arrays` with "ignored" [B]: rows that are ended from the start."""
    return _visible(_read(params, given, keys, program), program)


@functools.partial(jax.jit, static_argnames="program", donate_argnames="slots")
def refill(
    params, slots: Slots, given: dict[str, jax.Array], keys: jax.Array, where: jax.Array, *,
    program: Program,
) -> Slots:  # fmt: skip
    """Reads R prompts into the rows `where` [R]; a row number of B is nowhere."""
    new = _read(params, given, keys, program)
    cache = jax.tree.map(lambda x, y: x.at[:, where].set(y, mode="drop"), slots.cache, new.cache)
    rest = jax.tree.map(
        lambda x, y: x.at[where].set(y, mode="drop"),
        slots._replace(cache=None),
        new._replace(cache=None),
    )
    return _visible(rest._replace(cache=cache), program)


@functools.partial(jax.jit, static_argnames="program", donate_argnames="slots")
def advance(
    params, slots: Slots, ends: jax.Array, num_ended: jax.Array, num_steps: jax.Array, *,
    program: Program,
) -> Slots:  # fmt: skip
    """Decodes until `num_ended` rows have ended, at most `num_steps` tokens for each row.

    Args:
      ends: [n] token ids that end a row.
    """
    model, limit = program.model, program.max_new_tokens
    rows = jnp.arange(slots.tokens.shape[0])

    def unfinished(state):
        step, slots = state
        return (step < num_steps) & (slots.ended.sum() < num_ended)

    def one(state):
        step, (cache, tokens, positions, steps, ended, out, keys, seen) = state
        logits, cache = model.decode_step(params, cache, tokens, positions)
        logits = without_ends(logits, ends, steps[:, None], program)
        made = program.sampler(logits, jax.vmap(jax.random.fold_in)(keys, steps), seen)
        out = out.at[rows, jnp.where(ended, limit, steps)].set(made, mode="drop")
        tokens = jnp.where(ended, tokens, made)
        if seen is not None:
            seen = seen.at[rows, tokens].set(True)
        live = (~ended).astype(steps.dtype)
        steps, positions = steps + live, positions + live
        ended = ended | jnp.isin(tokens, ends) & (live > 0) | (steps >= limit)
        return step + 1, Slots(cache, tokens, positions, steps, ended, out, keys, seen)

    with using(program):
        params, cache = model.apart(params, slots.cache)
        begun = (jnp.zeros((), jnp.int32), slots._replace(cache=cache))
        _, slots = jax.lax.while_loop(unfinished, one, begun)
    slots = slots._replace(cache=cached.together(slots.cache))
    return _visible(slots, program)


def without_ends(
    logits: jax.Array, ends: jax.Array, num_made: jax.Array, program: Program
) -> jax.Array:
    """Rules the end tokens out of [B, V] while an answer has fewer than min_new_tokens."""
    if program.min_new_tokens == 0:
        return logits
    is_end = jnp.isin(jnp.arange(logits.shape[-1]), ends)[None]
    return jnp.where(is_end & (num_made < program.min_new_tokens), -jnp.inf, logits)


def row_keys(seed: int, rows, samples) -> jax.Array:
    """Returns the keys of (seed, row, sample), [B]: what a row draws depends on nothing else."""
    key = jax.random.key(seed)
    fold = jax.vmap(lambda row, n: jax.random.fold_in(jax.random.fold_in(key, row), n))
    return fold(jnp.asarray(rows, jnp.uint32), jnp.asarray(samples, jnp.uint32))


def using(program) -> contextlib.AbstractContextManager:
    """Makes the constraints of a model act on the program's mesh, while it is traced."""
    if program.mesh is None:
        return contextlib.nullcontext()
    return rules_lib.using(program.mesh, program.rules)


def _read(params, given, keys, program: Program) -> Slots:
    model, batch = program.model, prompts.batch_of(given)
    num_rows = given["tokens"].shape[0]
    before = 0 if model.layout == "encoder_decoder" else batch["decoder_input_tokens"].shape[1]
    with using(program):
        length = before + program.max_new_tokens
        cache = model.prefill(params, batch, length, program.cache_dtype)[1]
    seen = None
    if program.sampler.repetition_penalty != 1.0:
        # As transformers: what the decoder was given, so of an encoder-decoder the start alone.
        seen = jnp.zeros((num_rows, model.vocab_size), bool)
        seen = seen.at[jnp.arange(num_rows), given["tokens"]].set(True)
        if before:
            real = batch["decoder_segment_ids"] > 0
            rows = jnp.arange(num_rows)[:, None]
            seen = seen.at[rows, batch["decoder_input_tokens"]].max(real)
    return Slots(
        cache=cache,
        tokens=given["tokens"],
        positions=given["positions"],
        steps=jnp.zeros(num_rows, jnp.int32),
        ended=given["ignored"],
        out=jnp.zeros((num_rows, program.max_new_tokens), jnp.int32),
        keys=keys,
        seen=seen,
    )


def _visible(slots: Slots, program: Program) -> Slots:
    """Every host reads all rows, and can only read what it holds."""
    if program.mesh is None:
        return slots
    everywhere = NamedSharding(program.mesh, PartitionSpec())
    seen = {
        name: jax.lax.with_sharding_constraint(getattr(slots, name), everywhere)
        for name in ("tokens", "positions", "steps", "ended", "out")
    }
    return slots._replace(**seen)
