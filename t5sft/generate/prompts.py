"""Prompts as padded arrays: buckets of lengths, groups that are decoded with one program."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from t5sft import errors
from t5sft.parallel import rules as rules_lib


class Group(NamedTuple):
    """Prompts that are padded to one length."""

    length: int
    members: list[int]  # indices of prompts


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


def groups(
    prompts: Sequence[Sequence[int]], batch_size: int, buckets: Sequence[int] | None
) -> Iterator[Group]:
    """Yields groups of prompts, the longest first.

    The sorted prompts are cut into batches, each padded to the bucket of its longest; batches of
    one bucket are a group. So few prompts make few groups, even of unequal lengths.

    Example (lengths 30 29 17 3, batch_size 2):
      32 [30 29]   24 [17 3]
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    found: Group | None = None
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        length = padded_length(len(prompts[batch[0]]), buckets)
        if found is None or found.length != length:
            if found is not None:
                yield found
            found = Group(length, [])
        found.members.extend(batch)
    if found is not None:
        yield found


def num_rows(count: int, batch_size: int, mesh: Mesh | None, rules: rules_lib.Rules) -> int:
    """Returns how many rows to decode together: batch_size, or few enough for few prompts.

    By powers of two, so that sets of many sizes share few programs, and as the mesh divides them.

    Example (batch_size 32, one device; then 4):
      count 1   1   4
      count 5   8   8
      count 33  32  32
    """
    ways = 1 if mesh is None else rules_lib.ways("batch", mesh, rules)
    power = 1 << max(count - 1, 0).bit_length()
    return min(batch_size, -(-power // ways) * ways)


def arrays(
    layout: str, rows: Sequence[Sequence[int]], length: int, start_id: int
) -> dict[str, np.ndarray]:
    """Right-pads prompts to a batch; adds the first token given to `decode_step`, and its place.

    That is the last token of a decoder's prompt (its slot is written a second time, with the same
    values), or start_id: so both layouts run the same loop.
    """
    side = "encoder" if layout == "encoder_decoder" else "decoder"
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


def batch_of(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of `arrays` that `model.prefill` reads."""
    return {name: x for name, x in given.items() if name.startswith(("encoder", "decoder"))}


def spread(given: dict[str, Any], mesh: Mesh | None, rules: rules_lib.Rules) -> dict[str, Any]:
    """Places arrays whose first axis is rows on the mesh."""
    if mesh is None:
        return given
    names = {1: ("batch",), 2: ("batch", None)}
    return {
        name: jax.device_put(array, rules_lib.sharding(names[np.ndim(array)], mesh, rules))
        for name, array in given.items()
    }


def frozen(rules: rules_lib.Rules) -> tuple:
    """gin gives lists; a static argument of jit has to be hashable."""
    return tuple((name, tuple(axes) if isinstance(axes, list) else axes) for name, axes in rules)


def check(layout: str, prompts: Sequence[Sequence[int]], buckets: Sequence[int] | None) -> None:
    """Raises DataError for a prompt that cannot be answered."""
    for index, prompt in enumerate(prompts):
        if layout == "decoder" and not prompt:
            raise errors.DataError(f"prompt {index} is empty; generate; begin it with a BOS token")
        if buckets is not None and len(prompt) > max(buckets):
            raise errors.DataError(
                f"prompt {index} has {len(prompt)} tokens; generate; shorten it, or add a bucket "
                f"beyond {max(buckets)}"
            )


def check_batch(batch_size: int, mesh: Mesh | None, rules: rules_lib.Rules) -> None:
    """Raises ConfigError where the mesh does not divide the rows."""
    if batch_size < 1:
        raise errors.ConfigError(f"batch_size = {batch_size}; generate; use 1 or more")
    ways = 1 if mesh is None else rules_lib.ways("batch", mesh, rules)
    if batch_size % ways:
        nearest = max(ways, round(batch_size / ways) * ways)
        raise errors.ConfigError(
            f"batch_size = {batch_size} does not divide over {ways} devices; generate; "
            f"use {nearest}"
        )
