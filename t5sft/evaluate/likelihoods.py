"""Log-likelihoods of given tokens: many rows at once, packed, each token computed once.

Several rows share one of the computation's, parted by segments, as in training. Rows that differ in
their last target alone (the letters A to D behind one question) are one unit: what the model reads
is the same, so that it is read once.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5sft.data import converters, packing, tokens
from t5sft.generate import decode
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib

_LOGITS_BYTES = 1 << 28  # of one piece of [B, T, V]
_LEAST = 256  # tokens of a packed row
_SLACK = 1.25  # room on the side that does not decide how many units a row takes


class Ids(NamedTuple):
    """One row: what is given, and what is scored."""

    inputs: list[int]
    targets: list[int]


class Judged(NamedTuple):
    """What a model says of the targets of one row."""

    logprobs: np.ndarray  # [T] natural logarithms
    is_greedy: np.ndarray  # [T] bool: no token is likelier

    def total(self) -> float:
        """Returns the log-likelihood of the whole, nats."""
        return float(np.sum(self.logprobs, dtype=np.float64))


class _Plan(NamedTuple):
    """Rows of one shape."""

    lengths: tuple[int, int]  # S (0 for a decoder) and T
    rows: list[list[int]]  # the units of each


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
    pack: bool = True,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> list[Judged]:
    """Tells of every target token how likely it is, and whether it is the likeliest, row by row.

    What is told of a row depends on the row alone, up to the rounding of float32 sums.

    Args:
      start_id: the first decoder token of an encoder-decoder.
      batch_size: rows of a computation, each as long as the longest of `rows` or shorter; rounded
        up to what the mesh divides.
      pack: False gives every unit a row of its own.
    """
    mesh = mesh_lib.resolve(mesh)
    ways = rules_lib.ways("batch", mesh, rules)
    nothing = Judged(np.zeros(0, np.float32), np.zeros(0, bool))
    out = dict.fromkeys(range(len(rows)), nothing)
    units = _units(rows)
    num_ends = max(map(len, units), default=1)
    firsts = [rows[unit[0]] for unit in units]
    for plan in (_packed if pack else _alone)(model.layout, firsts):
        size = min(-(-batch_size // ways), -(-len(plan.rows) // ways)) * ways
        for at in range(0, len(plan.rows), size):
            chosen = plan.rows[at : at + size]
            batch, places = _batch(model.layout, plan, chosen, firsts, size, start_id)
            ends = _ends(batch["decoder_target_tokens"], places, units, rows, num_ends)
            given = {
                name: jax.device_put(array, _where(array, mesh, rules))
                for name, array in {**batch, "ends": ends}.items()
            }
            found = _compute(params, given, model, mesh, decode.frozen(rules))
            logprobs, greedy = map(np.asarray, found)  # [B, T, E]
            for unit, (b, span) in places.items():
                for e, row in enumerate(units[unit]):
                    # A copy: a view would keep the whole batch.
                    out[row] = Judged(logprobs[b, span, e].copy(), greedy[b, span, e].copy())
    return [out[i] for i in range(len(rows))]


def _where(array: np.ndarray, mesh, rules) -> jax.sharding.Sharding:
    return rules_lib.sharding(("batch", *[None] * (array.ndim - 1)), mesh, rules)


def _units(rows: Sequence[Ids]) -> list[list[int]]:
    """Returns the rows that the model reads alike; those without a target are left out."""
    units: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        if row.targets:
            key = (tuple(row.inputs), tuple(row.targets[:-1]))
            units.setdefault(key, []).append(i)
    return list(units.values())


def _sizes(layout: str, rows: Sequence[Ids]) -> np.ndarray:
    """[n, 2] encoder and decoder places of each row."""
    if layout == "decoder":
        sizes = [(0, len(row.inputs) + len(row.targets) - 1) for row in rows]
    else:
        sizes = [(max(len(row.inputs), 1), len(row.targets)) for row in rows]
    return np.array(sizes, np.int64).reshape(-1, 2)


def _alone(layout: str, rows: Sequence[Ids]) -> Iterator[_Plan]:
    """One row each, those of equal padded lengths together, the longest first."""
    groups: dict[tuple[int, int], list[list[int]]] = {}
    for i, pair in enumerate(_sizes(layout, rows).tolist()):
        lengths = decode.padded_length(pair[0]) if pair[0] else 0, decode.padded_length(pair[1])
        groups.setdefault(lengths, []).append([i])
    for lengths in sorted(groups, reverse=True):
        yield _Plan(lengths, groups[lengths])


def _packed(layout: str, rows: Sequence[Ids]) -> Iterator[_Plan]:
    """Packed rows of few lengths, powers of 2: one is at most twice as long as its longest unit.

    In one length for all, attention over a long row would be paid for by many short units. The room
    that the longer units leave is filled with shorter ones.
    """
    sizes = _sizes(layout, rows)
    longest = sizes.max(axis=1, initial=0)
    left = np.argsort(-longest, kind="stable")
    while len(left):
        width = _LEAST
        while width < longest[left[0]]:
            width *= 2
        is_own = longest[left] > width // 2
        if width == _LEAST:
            is_own[:] = True
        capacity = _capacity(sizes[left[is_own]], width)
        num_rows = len(packing.pack(sizes[left[is_own]], capacity))
        side = int(capacity[1] == width)
        room = num_rows * width - sizes[left[is_own], side].sum()
        fits = (sizes[left] <= capacity).all(axis=1) & ~is_own
        filled = fits & (np.cumsum(np.where(fits, longest[left], 0)) <= room)
        taken = left[is_own | filled]
        yield _Plan(capacity, [taken[row].tolist() for row in packing.pack(sizes[taken], capacity)])
        left = left[~(is_own | filled)]


def _capacity(sizes: np.ndarray, width: int) -> tuple[int, int]:
    """Returns S and T of rows: `width` on the side that holds more, enough for it on the other."""
    totals, most = sizes.sum(axis=0), sizes.max(axis=0)
    side = int(totals[1] >= totals[0])
    share = _SLACK * width * totals[1 - side] / totals[side]
    other = max(int(share), int(most[1 - side]))
    other = min(decode.padded_length(other), width) if other else 0
    return (other, width) if side else (width, other)


def _batch(layout: str, plan: _Plan, chosen, firsts: Sequence[Ids], size: int, start_id: int):
    """The arrays of some rows, and unit -> (row, where its targets stand)."""
    examples: list[list[tokens.Example]] = [[] for _ in range(size)]
    places: dict[int, tuple[int, slice]] = {}
    is_decoder = layout == "decoder"
    for b, units in enumerate(chosen):
        at = 0
        for unit in units:
            given, wanted = firsts[unit]
            one = _example([], given + wanted) if is_decoder else _example(given, wanted)
            examples[b].append(one)
            first = at + (len(given) - 1 if is_decoder else 0)
            places[unit] = b, slice(first, first + len(wanted))
            at = first + len(wanted)
    if is_decoder:
        return converters.decoder(examples, decoder_length=plan.lengths[1]), places
    lengths = {"encoder_length": plan.lengths[0], "decoder_length": plan.lengths[1]}
    return converters.encoder_decoder(examples, **lengths, start_id=start_id), places


def _example(given: Sequence[int], wanted: Sequence[int]) -> tokens.Example:
    sides = (tokens.Tokens(np.array(ids, np.int32), np.ones(len(ids), np.float32), ())
             for ids in (given, wanted))  # fmt: skip
    return tokens.Example(*sides)


def _ends(targets: np.ndarray, places, units, rows: Sequence[Ids], num_ends: int) -> np.ndarray:
    """[B, T, E] target tokens; at the last target of a unit those of its rows."""
    ends = np.repeat(targets[..., None], num_ends, axis=-1)
    for unit, (b, span) in places.items():
        for e, row in enumerate(units[unit]):
            ends[b, span.stop - 1, e] = rows[row].targets[-1]
    return ends


@functools.partial(jax.jit, static_argnames=("model", "mesh", "rules"))
def _compute(params, batch, model, mesh, rules) -> tuple[jax.Array, jax.Array]:
    """[B, T, E] log-probabilities of `ends` and whether they are the likeliest.

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
        wanted = batch["ends"].reshape(b, t // piece, piece, -1).swapaxes(0, 1)

        def one(pair):
            logits = model.unembed(params, pair[0]).astype(jnp.float32)
            picked = jnp.take_along_axis(logits, pair[1], axis=-1)
            log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
            return picked - log_z, picked >= logits.max(axis=-1, keepdims=True)

        found = jax.lax.map(one, (pieces, wanted))
        found = [array.swapaxes(0, 1).reshape(b, t, -1) for array in found]
        # Every host needs all rows, and can only read what it holds.
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        logprobs, greedy = jax.lax.with_sharding_constraint(found, everywhere)
        return logprobs, greedy
