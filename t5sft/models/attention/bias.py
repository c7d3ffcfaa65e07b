"""T5's relative position bias: buckets of distances; the bias of rows, of slots, as a line."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def buckets(num_buckets: int, max_distance: int, bidirectional: bool) -> np.ndarray:
    """Buckets of the distances -max_distance .. max_distance (arXiv:1910.10683, section 2.1).

    Half the buckets hold one distance each, half grow with the logarithm up to max_distance; a
    bidirectional stack uses half of all for keys after the query. As T5X `relative_attention.py`.
    It is a table, so that training and decoding cannot round a logarithm differently.

    Returns int32 [2 * max_distance + 1], indexed by (key - query) + max_distance.
    """
    behind = np.arange(max_distance, -max_distance - 1, -1)  # query - key
    out = np.zeros_like(behind)
    if bidirectional:
        num_buckets //= 2
        out, behind = (behind < 0) * num_buckets, np.abs(behind)
    behind = np.maximum(behind, 0)
    exact = num_buckets // 2
    ratio = np.maximum(behind, 1).astype(np.float32) / exact + np.finfo(np.float32).eps
    growing = exact + (np.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact))
    growing = np.minimum(growing.astype(np.int32), num_buckets - 1)
    return (out + np.where(behind < exact, behind, growing)).astype(np.int32)


def row_bias(table: jax.Array, bucket_of: np.ndarray, length: int) -> jax.Array:
    """Relative bias of whole rows: [buckets, N] -> [1, N, T, T] float32.

    Distances are taken along the row: a segment is contiguous and its positions count up by one,
    so inside it they are the distances of the positions, and all else is masked. That makes the
    bias one matrix for the batch, constant along its diagonals: 2T values are looked up, and the
    rows are the same vector, each shifted by one. No gather of T * T.
    """
    distances = np.concatenate([np.arange(length), np.arange(-length, 0)])  # index d mod 2T
    reach = len(bucket_of) // 2
    values = table[bucket_of[np.clip(distances, -reach, reach) + reach]].T  # [N, 2T]
    period = 2 * length
    rows = jnp.tile(values.astype(jnp.float32), (1, length))  # read with stride 2T - 1: skewed
    rows = rows[:, : length * (period - 1)].reshape(-1, length, period - 1)
    return rows[None, :, :, :length]


def slot_bias(
    table: jax.Array, bucket_of: np.ndarray, slots: jax.Array, max_length: int
) -> jax.Array:
    """Relative bias of cached decoding: query slots [B, T] -> [B, N, T, max_length] float32."""
    reach = len(bucket_of) // 2
    distances = jnp.arange(max_length)[None, None, :] - slots[:, :, None]  # [B, T, S]
    index = jnp.asarray(bucket_of)[jnp.clip(distances, -reach, reach) + reach]
    return table.astype(jnp.float32)[index].transpose(0, 3, 1, 2)


def line(table: jax.Array, bucket_of: np.ndarray, length: int) -> jax.Array:
    """The bias of whole rows as a line over distances: [buckets, N] -> [N, 2T] float32.

    What `row_bias` spreads over T x T, for implementations that spread it block by block. Entry u
    is the bias where the query is u - T places behind its key, so entry 0 is never used.
    """
    reach = len(bucket_of) // 2
    distances = np.arange(length, -length, -1)  # key - query
    return table[bucket_of[np.clip(distances, -reach, reach) + reach]].T.astype(jnp.float32)


def line_block(window: jax.Array, num_queries: int, num_keys: int) -> jax.Array:
    """Spreads a window of a line over one block: [N, T + S] -> [N, T, S].

    Entry (t, s) is window[t - s + S]: the rows are one vector, each shifted by one more.

    Example (T = 2, S = 3):
      window  a b c d e      rows  d c b | e d c
    """
    period = num_queries + num_keys
    shifted = jnp.roll(window[:, ::-1], num_keys + 1 - period, axis=1)  # v -> window[S - v]
    rows = jnp.tile(shifted, (1, num_queries))[:, : num_queries * (period - 1)]
    return rows.reshape(-1, num_queries, period - 1)[:, :, :num_keys]
