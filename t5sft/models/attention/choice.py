"""Which implementation of attention runs where: the platform of the mesh, lengths, features."""

from typing import Any, NamedTuple

import jax

from t5sft import errors
from t5sft.models.attention import bias, views
from t5sft.parallel import rules

NAMES = ("auto", "reference", "blockwise")
SHORT = 1024  # on CPU, rows up to here are fastest with all scores at once


class Case(NamedTuple):
    """What decides."""

    platform: str  # "cpu", "tpu", "gpu"
    num_queries: int  # T
    num_keys: int  # S


def platform() -> str:
    """Platform of the devices that the program is compiled for.

    That of the mesh: `t5sft plan` compiles for TPUs in a process that has CPUs only.
    """
    active = rules.active()
    name = active[0].devices.flat[0].platform if active else jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def resolve(name: str, case: Case) -> str:
    """Returns the implementation that runs.

    Raises:
      ConfigError: the one asked for cannot compute this case.
    """
    if name == "auto":
        longest = max(case.num_queries, case.num_keys)
        return "reference" if longest <= SHORT else "blockwise"
    if name not in NAMES:
        hint = errors.suggest(name, NAMES)
        raise errors.ConfigError(
            f"attention = {name!r} is unknown; model; use {' or '.join(NAMES)}{hint}"
        )
    return name


def view(
    module: Any,
    query_segments: jax.Array,
    key_segments: jax.Array,
    *,
    causal: bool,
    window: int | None = None,
    table: jax.Array | None = None,
    bucket_of=None,
    rotation=None,
) -> views.View | views.Packed:
    """What the queries of packed rows see, in the form that the model's implementation reads.

    Args:
      module: a Flax module with the model as its `config`.
      query_segments, key_segments: [B, T] and [B, S] int, 0 is padding.
      table: [buckets, N], T5's relative bias; bucket_of tells the bucket of a distance.
    """
    case = Case(platform(), query_segments.shape[1], key_segments.shape[1])
    # Parameters do not depend on it, and they are declared on one token, maybe without a mesh.
    asked = "reference" if module.is_initializing() else module.config.attention
    name = resolve(asked, case)
    if name == "reference":
        mask = views.packed_mask(query_segments, key_segments, causal=causal, window=window)
        rows = None
        if table is not None:
            rows = bias.row_bias(table, bucket_of, query_segments.shape[1])
        return views.View(mask, rows, rotation)
    line = None if table is None else bias.line(table, bucket_of, query_segments.shape[1])
    return views.Packed(
        query_segments=query_segments,
        key_segments=key_segments,
        line=line,
        rotation=rotation,
        implementation=name,
        causal=causal,
        window=window,
    )
