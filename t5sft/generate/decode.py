"""Generation: prompts in, completions out, as they finish or in the order of the prompts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from t5sft import errors
from t5sft.generate import beam, sampling, slots
from t5sft.generate import prompts as prompts_lib
from t5sft.generate.prompts import frozen, padded_length
from t5sft.generate.stopping import Stop
from t5sft.models.attention import cache as cached
from t5sft.parallel import rules as rules_lib

__all__ = ["Generated", "frozen", "generate", "padded_length", "stream"]


class Generated(NamedTuple):
    """What a model answered to one prompt."""

    tokens: list[int]  # without EOS and nothing after it; with those that complete a stop string
    finished: bool  # False: cut at max_new_tokens


def generate(model: Any, params: Any, prompts: Sequence[Sequence[int]], **options) -> list:
    """Completes every prompt and returns the completions in the order of the prompts.

    Args:
      options: of `stream`.

    Returns:
      num_samples `Generated` for each prompt, one after another.
    """
    completions = dict(stream(model, params, prompts, **options))
    return [completions[i] for i in range(len(completions))]


def stream(
    model: Any,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    eos_id: int | Sequence[int],
    start_id: int = 0,
    batch_size: int = 8,
    buckets: Sequence[int] | None = None,
    sampler: sampling.Sampler | beam.Beams = sampling.Sampler(),  # noqa: B008 (frozen)
    seed: int = 0,
    row_seeds: Sequence[int] | None = None,
    num_samples: int = 1,
    stop: Stop | None = None,
    watch: Callable[[int, list[int]], None] | None = None,
    chunk: int = 16,
    cache_dtype: str | None = None,
    refill: int | None = None,
    mesh: Mesh | None = None,
    rules: rules_lib.Rules = rules_lib.DEFAULT_RULES,
) -> Iterator[tuple[int, Generated]]:
    """Yields (number, completion) as they finish; sample n of prompt i has i * num_samples + n.

    Prompts are sorted and padded to buckets, each compiled once; a row that ends makes room for a
    waiting prompt. A completion does not depend on the batch size, nor on its neighbours.

    Args:
      prompts: token ids. "decoder": the text to continue, not empty. "encoder_decoder": the input.
      max_new_tokens: a completion is cut here, and marked as not finished.
      min_new_tokens: before so many no end token is chosen; a stop string still ends.
      eos_id: ends a completion; or several that do (end of turn, end of text).
      start_id: the first decoder token of an encoder-decoder; T5 uses its padding id, 0.
      batch_size: rows decoded together, fewer for few prompts; with beams prompts times beams.
      buckets: padded prompt lengths; None: 16, 24, 32, 48, 64, 96, ...
      sampler: how a token is chosen; greedy by default.
      seed, row_seeds: sample n of prompt i draws by (seed, row_seeds[i], n); None: i itself.
      num_samples: completions per prompt; with beams the best ones, best first.
      stop: ends a completion at a stop string.
      watch: called with (number, tokens so far) of each row every `chunk` tokens, which is also how
        often stop strings are looked for; not with beams.
      cache_dtype: of keys and values, a name in `cached.DTYPES`; None: that of the computation.
      refill: so many rows are replaced at a time; batch_size: a batch is waited for whole. None: a
        quarter of the batch, where there are enough prompts to earn the compilation.
      mesh, rules: where the parameters lie; the batch is split as the rules say.

    Raises:
      ConfigError, DataError: a batch size, setting or prompt that cannot be.
    """
    _check(
        model, prompts, batch_size, buckets, num_samples, sampler, stop, cache_dtype, mesh, rules
    )
    ends = (eos_id,) if isinstance(eos_id, int) else tuple(eos_id)
    program = slots.Program(
        model, sampler, max_new_tokens, cache_dtype, mesh, frozen(rules), min_new_tokens
    )
    if isinstance(sampler, beam.Beams):
        for i, best in beam.search(
            program, params, prompts,
            ends=ends, start_id=start_id, batch_size=batch_size, buckets=buckets,
        ):  # fmt: skip
            each = enumerate(best[:num_samples])
            yield from ((i * num_samples + n, _generated(tokens, ends)) for n, tokens in each)
        return
    requests = _requests(prompts, row_seeds, num_samples)
    run = _Run(program, params, requests, seed, start_id, ends, stop, watch, chunk)
    for group in _groups(requests, batch_size, buckets):
        rows = prompts_lib.num_rows(len(group.members), batch_size, mesh, rules)
        yield from run.group(group, rows, _refill(refill, group, rows, mesh, rules))


class Request(NamedTuple):
    """One completion to be made."""

    prompt: Sequence[int]
    seed: int
    sample: int


def _requests(prompts, row_seeds: Sequence[int] | None, num_samples: int) -> list[Request]:
    seeds = range(len(prompts)) if row_seeds is None else row_seeds
    each = zip(prompts, seeds, strict=True)
    return [Request(*one, n) for one in each for n in range(num_samples)]


class _Run(NamedTuple):
    """What all groups of one call share."""

    program: slots.Program
    params: Any
    requests: Sequence[Request]
    seed: int
    start_id: int
    ends: tuple[int, ...]
    stop: Stop | None
    watch: Callable[[int, list[int]], None] | None
    chunk: int

    def group(
        self, group: prompts_lib.Group, batch_size: int, refill: int
    ) -> Iterator[tuple[int, Generated]]:
        """Answers the members of a group, `refill` of them entering at a time."""
        waiting = list(reversed(group.members))
        rows: list[int | None] = [None] * batch_size  # the request in each row
        state: Any = None
        ends = np.asarray(self.ends, np.int32)
        num_steps = self.chunk if self.stop or self.watch else self.program.max_new_tokens
        while waiting or any(row is not None for row in rows):
            free = [b for b, row in enumerate(rows) if row is None]
            while waiting and (len(free) >= refill):
                state = self._enter(state, rows, free, waiting, group.length, refill)
                free = [b for b, row in enumerate(rows) if row is None]
            live = batch_size - len(free)
            enough = min(refill - len(free), live) if waiting else live
            state = slots.advance(
                self.params, state, ends, np.int32(len(free) + enough), np.int32(num_steps),
                program=self.program,
            )  # fmt: skip
            state, done = self._leave(state, rows)
            yield from done

    def _enter(self, state, rows, free, waiting, length: int, refill: int):
        """Reads waiting prompts into free rows; the first time, or without refilling, into all."""
        count = len(rows) if state is None or refill == len(rows) else refill
        chosen = [waiting.pop() for _ in range(min(count, len(waiting)))]
        asked = [self.requests[i] for i in chosen]
        missing = count - len(chosen)
        given = prompts_lib.arrays(
            self.program.model.layout,
            [one.prompt for one in asked] + [[self.start_id]] * missing,
            length,
            self.start_id,
        )
        given["ignored"] = np.arange(count) >= len(chosen)
        given = prompts_lib.spread(given, self.program.mesh, self.program.rules)
        seeds = [one.seed for one in asked] + [0] * missing
        samples = [one.sample for one in asked] + [0] * missing
        keys = slots.row_keys(self.seed, seeds, samples)
        for b, i in zip(free, chosen, strict=False):
            rows[b] = i
        if count == len(rows):
            return slots.begin(self.params, given, keys, program=self.program)
        where = np.array(free[: len(chosen)] + [len(rows)] * missing, np.int32)
        return slots.refill(self.params, state, given, keys, where, program=self.program)

    def _leave(self, state, rows) -> tuple[slots.Slots, list[tuple[int, Generated]]]:
        """Takes finished completions out of their rows."""
        ended, steps, out = (np.asarray(x) for x in (state.ended, state.steps, state.out))
        done, stopped = [], ended.copy()
        for b, i in enumerate(rows):
            if i is None:
                continue
            tokens = out[b, : steps[b]].tolist()
            answer = _generated(tokens, self.ends)
            count = self.stop.find(answer.tokens) if self.stop else None
            if count is not None:
                answer, stopped[b] = Generated(answer.tokens[:count], True), True
            if self.watch:
                self.watch(i, answer.tokens)
            if stopped[b]:
                done.append((i, answer))
                rows[b] = None
        if (stopped != ended).any():
            state = state._replace(ended=jax.device_put(stopped, state.ended.sharding))
        return state, done


def _groups(requests: Sequence[Request], batch_size: int, buckets) -> Iterator[prompts_lib.Group]:
    return prompts_lib.groups([one.prompt for one in requests], batch_size, buckets)


def _refill(refill: int | None, group: prompts_lib.Group, batch_size: int, mesh, rules) -> int:
    if refill is None:
        is_worth = len(group.members) > 2 * batch_size
        refill = max(1, batch_size // 4) if is_worth else batch_size
    ways = 1 if mesh is None else rules_lib.ways("batch", mesh, rules)
    return min(batch_size, -(-max(1, refill) // ways) * ways)


def _generated(tokens: Sequence[int], ends: Sequence[int]) -> Generated:
    stop = next((i for i, token in enumerate(tokens) if token in ends), None)
    return Generated(list(tokens[:stop]), stop is not None)


def _check(
    model, asked, batch_size, buckets, num_samples, sampler, stop, cache_dtype, mesh, rules
) -> None:
    prompts_lib.check(model.layout, asked, buckets)
    prompts_lib.check_batch(batch_size, mesh, rules)
    cached.check_dtype(cache_dtype)
    if num_samples < 1:
        raise errors.ConfigError(f"num_samples = {num_samples}; generate; use 1 or more")
    if isinstance(sampler, beam.Beams):
        if num_samples > sampler.num_beams:
            raise errors.ConfigError(
                f"num_samples = {num_samples} is more than num_beams = {sampler.num_beams}; "
                f"generate; use at most {sampler.num_beams}"
            )
        if stop is not None:
            raise errors.ConfigError(
                "stop strings do not go with beams; generate; leave one of them out"
            )
