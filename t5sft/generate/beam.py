"""Beam search, as T5X's or as transformers'."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5sft import errors
from t5sft.generate import prompts as prompts_lib
from t5sft.generate import slots
from t5sft.parallel import rules as rules_lib

NONE = -1e30  # the score of a beam that is not there
STYLES = {"t5x": 0.6, "transformers": 1.0}  # name -> its usual length penalty


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beams:
    """Keeps the likeliest beginnings of an answer; the best finished one wins.

    An answer of n tokens, its end token counted, scores

      "t5x"           log p / ((5 + n) / 6)^length_penalty (arXiv:1609.08144, equation 14; T5X
                      `decoding.py`). Every end among the K (1 + ends) best continuations counts,
                      no better answer is passed over, and where fewer than K have finished, the
                      likeliest unfinished ones follow.
      "transformers"  log p / n^length_penalty. Only an end among the K best continuations counts;
                      a prompt is left as soon as no beam is better than the K finished ones by its
                      present length (`early_stopping=False`); an answer cut at the last token
                      competes with those that finished.

    Args:
      num_beams: K, beginnings kept at every step.
      length_penalty: alpha; 0 compares sums of log-probabilities, more favours long answers.
        None: what the style's programs use, 0.6 and 1.0.
      style: one of `STYLES`.

    Example (alpha 0.6):
      2 tokens, log p -3.0   score -3.0 / 1.097 = -2.735 ("t5x")   -3.0 / 1.516 = -1.979
      7 tokens, log p -4.0   score -4.0 / 1.516 = -2.639           -4.0 / 3.214 = -1.245
    """

    num_beams: int = 4
    length_penalty: float | None = None
    style: str = "t5x"

    def __post_init__(self) -> None:
        if not self.num_beams >= 1:
            raise errors.ConfigError(f"num_beams = {self.num_beams}; Beams; use 1 or more")
        if self.style not in STYLES:
            hint = errors.suggest(self.style, STYLES)
            raise errors.ConfigError(
                f"beam_style = {self.style!r} is unknown{hint}; Beams; use {', '.join(STYLES)}"
            )
        if not abs(self.alpha) < float("inf"):
            raise errors.ConfigError(
                f"length_penalty = {self.length_penalty}; Beams; use a number, 0.6 as T5"
            )

    @property
    def alpha(self) -> float:
        """The length penalty in use."""
        return STYLES[self.style] if self.length_penalty is None else self.length_penalty

    def divisor(self, num_tokens: Any) -> Any:
        """What log p is divided by."""
        length = num_tokens if self.style == "transformers" else (5.0 + num_tokens) / 6.0
        return length**self.alpha

    def reach(self, best: jax.Array, num_tokens: Any, most: int) -> jax.Array:
        """What the best unfinished beam, log p and tokens, may score when it finishes."""
        if self.style == "transformers":  # its guess: as if it finished here
            return best / self.divisor(num_tokens)
        # log p only falls; the divisor is largest at one of both ends.
        return jnp.maximum(best / self.divisor(num_tokens + 1), best / self.divisor(most))


class _State(NamedTuple):
    """B prompts with K beams each; cache rows are B * K."""

    step: jax.Array  # []
    cache: Any
    tokens: jax.Array  # [B * K]
    positions: jax.Array  # [B * K]
    live: jax.Array  # [B, K] log p of the unfinished
    live_out: jax.Array  # [B, K, T]
    scores: jax.Array  # [B, K] of the finished, falling; NONE: not there
    out: jax.Array  # [B, K, T]
    open: jax.Array  # [B] a better answer may come


def search(
    program: slots.Program,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    ends: tuple[int, ...],
    start_id: int,
    batch_size: int,
    buckets: Sequence[int] | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index of a prompt, its K answers [K, max_new_tokens], best first).

    An answer holds its end token, and what follows has no meaning.

    Args:
      program: its sampler is a `Beams`.
      batch_size: prompts times beams decoded together.
    """
    ways = 1 if program.mesh is None else rules_lib.ways("batch", program.mesh, program.rules)
    most = -(-max(1, batch_size // program.sampler.num_beams) // ways) * ways
    for group in prompts_lib.groups(prompts, most, buckets):
        rows = prompts_lib.num_rows(len(group.members), most, program.mesh, program.rules)
        for first in range(0, len(group.members), rows):
            chosen = group.members[first : first + rows]
            asked = [prompts[i] for i in chosen] + [[start_id]] * (rows - len(chosen))
            given = prompts_lib.arrays(program.model.layout, asked, group.length, start_id)
            given["ignored"] = np.arange(rows) >= len(chosen)
            given = prompts_lib.spread(given, program.mesh, program.rules)
            out = _search(params, given, np.asarray(ends, np.int32), program=program)
            yield from zip(chosen, np.asarray(out), strict=False)


@functools.partial(jax.jit, static_argnames="program")
def _search(params, given, ends, *, program: slots.Program) -> jax.Array:
    """[B, K, T] answers of one batch, see `search`."""
    model, limit = program.model, program.max_new_tokens
    with slots.using(program):
        state = _begin(params, given, program)
        params, cache = model.apart(params, state.cache)
        state = state._replace(cache=cache)

        def unfinished(state):
            return (state.step < limit) & state.open.any()

        def one(state):
            logits, cache = model.decode_step(params, state.cache, state.tokens, state.positions)
            return _choose(state._replace(cache=cache), logits, ends, program)

        state = jax.lax.while_loop(unfinished, one, state)
        out = _best(state)
        if program.mesh is None:
            return out
        everywhere = jax.sharding.NamedSharding(program.mesh, jax.sharding.PartitionSpec())
        return jax.lax.with_sharding_constraint(out, everywhere)


def _best(state: _State) -> jax.Array:
    """[B, K, T] the finished, and after them the likeliest unfinished."""
    place = jnp.arange(state.scores.shape[1])[None]  # [1, K]
    num = (state.scores > NONE).sum(axis=1, keepdims=True)  # [B, 1] finished
    chosen = jnp.where(place < num, place, place.shape[1] + place - num)  # [B, K]
    both = jnp.concatenate([state.out, state.live_out], axis=1)
    return jnp.take_along_axis(both, chosen[:, :, None], axis=1)


def _begin(params, given, program: slots.Program) -> _State:
    model, limit, k = program.model, program.max_new_tokens, program.sampler.num_beams
    batch = prompts_lib.batch_of(given)
    before = 0 if model.layout == "encoder_decoder" else batch["decoder_input_tokens"].shape[1]
    cache = model.prefill(params, batch, before + limit, program.cache_dtype)[1]
    b = given["tokens"].shape[0]
    # K equal beams would make K equal choices: at first only one of them counts.
    live = jnp.full((b, k), NONE, jnp.float32).at[:, 0].set(0.0)
    empty = jnp.zeros((b, k, limit), jnp.int32)
    return _State(
        step=jnp.zeros((), jnp.int32),
        cache=jax.tree.map(lambda x: jnp.repeat(x, k, axis=1), cache),
        tokens=jnp.repeat(given["tokens"], k),
        positions=jnp.repeat(given["positions"], k),
        live=live,
        live_out=empty,
        scores=jnp.full((b, k), NONE, jnp.float32),
        out=empty,
        open=~given["ignored"],
    )


def _choose(state: _State, logits: jax.Array, ends: jax.Array, program: slots.Program) -> _State:
    """Takes one token more into every beam: [B * K, V] logits."""
    beams, limit = program.sampler, program.max_new_tokens
    b, k = state.live.shape
    v = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    log_p = slots.without_ends(log_p, ends, state.step, program).reshape(b, k, v)
    total = (state.live[:, :, None] + log_p).reshape(b, k * v)
    # Every beam may end in as many ways as there are ends: so many more leave K unfinished ones.
    num = min(k * (1 + ends.shape[0]), k * v)
    found, index = jax.lax.top_k(total, num)  # [B, E]
    parent, token = index // v, (index % v).astype(jnp.int32)
    out = jnp.take_along_axis(state.live_out, parent[:, :, None], axis=1)  # [B, E, T]
    out = jax.lax.dynamic_update_slice_in_dim(out, token[:, :, None], state.step, axis=2)
    is_end = jnp.isin(token, ends) & (found > NONE / 2)

    counts = is_end
    if beams.style == "transformers":
        is_cut = (state.step + 1 == limit) & (found > NONE / 2)
        counts = (is_end | is_cut) & (jnp.arange(num) < k)[None] & state.open[:, None]
    ended = jnp.where(counts, found / beams.divisor(state.step + 1), NONE)
    scores, best = jax.lax.top_k(jnp.concatenate([state.scores, ended], axis=1), k)
    finished = jnp.concatenate([state.out, out], axis=1)
    finished = jnp.take_along_axis(finished, best[:, :, None], axis=1)

    live, best = jax.lax.top_k(jnp.where(is_end, NONE, found), k)  # [B, K]
    parent = jnp.take_along_axis(parent, best, axis=1)
    rows = (jnp.arange(b)[:, None] * k + parent).reshape(b * k)
    kept = {"kv": jax.tree.map(lambda x: x[:, rows], state.cache["kv"])}
    reach = beams.reach(live[:, 0], state.step + 1, limit)
    return _State(
        step=state.step + 1,
        cache=state.cache | kept,  # all beams of a prompt have the same memory of the encoder
        tokens=jnp.take_along_axis(token, best, axis=1).reshape(b * k),
        positions=state.positions + 1,
        live=live,
        live_out=jnp.take_along_axis(out, best[:, :, None], axis=1),
        scores=scores,
        out=finished,
        open=state.open & (reach > scores.min(axis=1)),
    )
