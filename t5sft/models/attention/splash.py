"""JAX's splash attention for TPUs: blocks that the mask hides are neither computed nor fetched.

`jax.experimental.pallas.ops.tpu.splash_attention`. It has no relative bias and takes whole rows of
queries. Its kernels take no cost estimate, so the pairs of tokens that they compute are written in
the name of their scope, where `t5sft.plan.kernels` reads them.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as library

from t5sft.models.attention import views

LANES = 128
BLOCKS = (512, 256, 128)  # the first that divides a padded row
SCOPE = "splash_pairs_"  # and their number, per head and row


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    line: None = None,
    *,
    limits: views.Limits,
    offset: int = 0,
    interpret: bool = False,
) -> jax.Array:
    """Returns [B, T, N, H] in the dtype of the values; a query that sees no key gets zero.

    Args: as `blockwise.attend`, without a line.
      offset: 0; the mask is known while tracing.
      interpret: run the kernels as plain XLA, on any device (for tests).
    """
    assert line is None and isinstance(offset, int), "choice.py refuses it"
    t, s = query.shape[1], key.shape[1]
    more_t, more_s = -t % LANES, -s % LANES
    kernel = _kernel(limits, query.shape[2], t + more_t, s + more_s, offset, interpret)

    def heads_first(x, more):  # [B, T, N, H] -> [B, N, padded T, H]
        return jnp.pad(x.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, more), (0, 0)))

    segments = library.SegmentIds(
        q=jnp.pad(query_segments, ((0, 0), (0, more_t))),
        kv=jnp.pad(key_segments, ((0, 0), (0, more_s))),
    )
    arrays = (heads_first(query, more_t), heads_first(key, more_s), heads_first(value, more_s))
    with jax.named_scope(f"{SCOPE}{computed_pairs(limits, t + more_t, s + more_s)}"):
        out = jax.vmap(kernel)(*arrays, segments)[:, :, :t].transpose(0, 2, 1, 3)
    # Splash lets padding see padding, and a query without keys see the mean of some: finite.
    sees = query_segments > 0
    if not limits.causal:  # a causal query sees itself; XLA fuses this into one reduction
        sees &= (query_segments[:, :, None] == key_segments[:, None, :]).any(axis=-1)
    return jnp.where(sees[:, :, None, None], out, 0).astype(value.dtype)


def _kernel(limits: views.Limits, num_heads: int, t: int, s: int, offset: int, interpret: bool):
    if not limits.causal:
        mask = library.FullMask((t, s))
    elif limits.window is None:
        mask = library.CausalMask((t, s), offset)
    else:
        mask = library.LocalMask((t, s), (limits.window - 1, 0), offset)
    q, kv = _blocks(t, s)
    sizes = library.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )
    return library.make_splash_mha(
        library.MultiHeadMask([mask] * num_heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=limits.soft_cap,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )


def _blocks(t: int, s: int) -> list[int]:
    return [next(size for size in BLOCKS if length % size == 0) for length in (t, s)]


def computed_pairs(limits: views.Limits, t: int, s: int) -> int:
    """Returns how many pairs of a query and a key a head computes: those of whole visible blocks.

    Args:
      t, s: lengths of the padded rows.

    Example (rows of 1024, blocks of 512, causal):
      queries 0-511     one block
      queries 512-1023  two                 3 * 512 * 512
    """
    q, kv = _blocks(t, s)
    visible = sum(limits.may_see(i, q, j, kv) for i in range(0, t, q) for j in range(0, s, kv))
    return visible * q * kv
