"""Who sees whom: as a mask, or as segments and distances from which blocks of a mask are made."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5sft.models import rotary

MASKED = -1e30  # a finite score: exp gives exactly 0, and no row becomes NaN


class View(NamedTuple):
    """What the queries of one stack see: built once per batch, shared by all its layers."""

    mask: jax.Array  # [B, 1, T, S] bool, True where query t sees key s
    bias: jax.Array | None = None  # [1 or B, N, T, S] float32, added to the scores
    rotation: rotary.Angles | None = None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("query_segments", "key_segments", "line", "rotation"),
    meta_fields=("implementation", "causal", "window"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """The same without anything of size T x S, for the implementations that work by blocks."""

    query_segments: jax.Array  # [B, T] int32, 0 is padding
    key_segments: jax.Array  # [B, S] int32
    line: jax.Array | None = None  # [N, T + S] float32, bias by distance (`bias.line`)
    rotation: rotary.Angles | None = None
    implementation: str  # a name in `choice.NAMES`
    causal: bool
    window: int | None = None


class Either(NamedTuple):
    """One of two packed views, told by a scalar while the program runs."""

    is_first: jax.Array  # [] bool
    first: Packed
    second: Packed
    rotation: rotary.Angles | None


class Limits(NamedTuple):
    """What is known of attention while tracing; hashable."""

    causal: bool
    window: int | None = None
    soft_cap: float | None = None  # bound of the scores, before the bias

    def sees(self, behind):
        """Whether a key so many places behind its query is seen, its segment aside."""
        return within(behind, self.window) if self.causal else np.bool_(True)

    def may_see(self, first_query: int, num_queries: int, first_key: int, num_keys: int) -> bool:
        """Whether any query of a block sees any key of another."""
        if not self.causal:
            return True
        farthest = first_query + num_queries - 1 - first_key
        nearest = first_query - (first_key + num_keys - 1)
        return farthest >= 0 and (self.window is None or nearest < self.window)


AnyView = View | Packed | Either


def choose(is_first: jax.Array, first: AnyView, second: AnyView) -> AnyView:
    """One of two views, by a scalar that may differ from layer to layer of a scan."""

    def pick(a, b):
        return jax.tree.map(lambda x, y: jnp.where(is_first, x, y), a, b)

    if not (isinstance(first, Packed) and isinstance(second, Packed)):
        return pick(first, second)
    return Either(is_first, first, second, pick(first.rotation, second.rotation))


def packed_mask(
    query_segments: jax.Array,
    key_segments: jax.Array,
    *,
    causal: bool,
    window: int | None = None,
) -> jax.Array:
    """Lets every token see its own segment only; padding (segment 0) sees nothing.

    Args:
      query_segments: [B, T] int, 0 is padding.
      key_segments: [B, S] int; for cross-attention the encoder's, numbered alike.
      causal: also hide the keys that come later in the row.
      window: of a causal row, see the last `window` keys only, the query's own among them.

    Example (causal):
      segments  1 1 2 0     rows  1 0 0 0 | 1 1 0 0 | 0 0 1 0 | 0 0 0 0
    """
    query, key = query_segments[:, None, :, None], key_segments[:, None, None, :]
    mask = (query == key) & (key > 0)  # [B, 1, T, S]
    if not causal:
        return mask
    behind = np.arange(query.shape[2])[:, None] - np.arange(key.shape[3])[None, :]  # [T, S]
    return mask & jnp.asarray(within(behind, window))[None, None]


def within(behind, window: int | None):
    """Whether a key so many places behind its query is seen."""
    return (behind >= 0) if window is None else (behind >= 0) & (behind < window)
