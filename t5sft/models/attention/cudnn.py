"""cuDNN's flash attention on NVIDIA GPUs, by `jax.nn.dot_product_attention`.

It takes segments as a mask only, which JAX hands over as a bias [B, 1, T, S] in the compute dtype:
N times less than the scores, and the one thing of that size in memory. T5's bias would be N times
it with its gradient, so it is refused, as are soft caps, which cuDNN does not have.
"""

import jax
import jax.numpy as jnp

from t5sft.models.attention import views


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    line: None = None,
    *,
    limits: views.Limits,
    offset: int | jax.Array = 0,
    implementation: str = "cudnn",
) -> jax.Array:
    """Returns [B, T, N, H] in the dtype of the values; a query that sees no key gets zero.

    Args: as `blockwise.attend`, without a line.
      implementation: "xla" is the same computation on any device (for tests).
    """
    assert line is None and limits.soft_cap is None, "choice.py refuses it"
    t, s = query.shape[1], key.shape[1]
    same = query_segments[:, :, None] == key_segments[:, None, :]
    if limits.causal:
        behind = offset + jnp.arange(t)[:, None] - jnp.arange(s)[None, :]
        same &= limits.sees(behind)[None]
    # Padding may see padding, so that no row of a packed batch is without a key: no NaN.
    is_whole = limits.causal and isinstance(offset, int) and t == s
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=same[:, None],
        scale=1.0,  # queries come scaled
        is_causal=is_whole,  # blocks above the diagonal are skipped
        implementation=implementation,
    )
    sees = (same & (key_segments > 0)[:, None, :]).any(axis=-1)
    return jnp.where(sees[:, :, None, None], out, 0).astype(value.dtype)
