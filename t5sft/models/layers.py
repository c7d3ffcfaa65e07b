"""Parameters, RMS norm, dropout and the feed-forward layer, shared by all families.

Each sublayer holds its own pre-norm and adds its own residual: x + dropout(f(norm(x))), with
sandwich_norms x + dropout(norm(f(norm(x)))).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5sft.parallel import explicit, rules

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),  # by tanh, as Google's models
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def kernel(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: rules.Names,
    *,
    is_whole: bool = True,
) -> jax.Array:
    """Declares a float32 parameter with its logical axes; returns it in the compute dtype.

    Cast before it is gathered: half the bytes on the wire. is_whole=False: the device's part.

    The standard deviation at the start is the family's: `module.config.stddev(name)`.
    """
    config = module.config

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # As a matrix: XLA takes 2 s to compile random bits over five axes, 0.3 s over two.
        matrix = jax.random.normal(key, (shape[0], math.prod(shape[1:])), jnp.float32)
        return matrix.reshape(shape) * config.stddev(name)

    init = nn.with_logical_partitioning(draw, axes)
    weights = module.param(name, init, explicit.local_shape(shape, axes))
    if not is_whole:
        return weights
    return explicit.gather(weights, axes, config.dtype)


def norm_scale(
    module: nn.Module, name: str = "norm", size: int | None = None, axis: str = "norm"
) -> jax.Array:
    """Returns the scale of an RMS norm, [size or D] float32, 1 at the start.

    The parameter lacks the family's `norm_offset`: Gemma keeps w and multiplies by 1 + w.
    """
    offset = module.config.norm_offset
    init = nn.with_logical_partitioning(nn.initializers.constant(1.0 - offset), (axis,))
    shape = (size or module.config.emb_dim,)
    scale = module.param(name, init, explicit.local_shape(shape, (axis,)), jnp.float32)
    scale = explicit.gather(scale, (axis,), scale.dtype)
    return scale + offset if offset else scale


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Divides by the root mean square over D, in float32 (arXiv:1910.07467, equation 4).

    Args:
      x: [..., D] in any float dtype; the result has the same.
      scale: [D] float32.
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
    return (x32 * jax.lax.rsqrt(mean_square + epsilon) * scale).astype(x.dtype)


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """Squeezes x into (-cap, cap) by cap * tanh(x / cap) (Gemma 2, arXiv:2408.00118, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def dropout(module: nn.Module, x: jax.Array) -> jax.Array:
    """Drops features of whole rows, and only where the caller gave a dropout key.

    One mask serves all positions of axis -2, as in T5 (T5X network.py, `broadcast_dims=(-2,)`):
    T times fewer random numbers.

    Args:
      x: [..., T, features].
    """
    rate = module.config.dropout_rate
    if rate == 0.0 or not module.has_rng("dropout"):
        return x
    shape = (*x.shape[:-2], 1, x.shape[-1])
    key = module.make_rng("dropout")
    keep = explicit.rows(lambda shape: jax.random.bernoulli(key, 1.0 - rate, shape), shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class Mlp(nn.Module):
    """x + wo(activation(wi_0 x) * wi_1 x), the GLU variants of arXiv:2002.05202, section 2.

    `wi` holds gate and linear as one kernel [D, 2, F]: one matrix product instead of two. With
    gated=False there is no wi_1, and `wi` is [D, F]. With mlp_bias `wi_bias` and `wo_bias`; with
    sandwich_norms `post_norm` [D].
    """

    config: Any

    def setup(self) -> None:
        c = self.config
        d, f = c.emb_dim, c.mlp_dim
        self.norm = norm_scale(self)
        inner, axes = ((2, f), (None, "mlp")) if c.gated else ((f,), ("mlp",))
        self.wi = kernel(self, "wi", (d, *inner), ("embed", *axes))
        self.wo = kernel(self, "wo", (f, d), ("mlp", "embed"))
        if c.mlp_bias:
            self.wi_bias = kernel(self, "wi_bias", inner, axes)
            self.wo_bias = kernel(self, "wo_bias", (d,), ("embed",))
        if c.sandwich_norms:
            self.post_norm = norm_scale(self, "post_norm")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        c = self.config
        y = rms_norm(x, self.norm, c.norm_epsilon)
        inner = "XF" if c.gated else "F"
        y = jnp.einsum(f"BTD,D{inner}->BT{inner}", y, self.wi)
        if c.mlp_bias:
            y = y + self.wi_bias[None, None]
        y = rules.constrain(y, ("batch", "length", *[None] * c.gated, "mlp"))
        activation = ACTIVATIONS[c.activation]
        y = activation(y[:, :, 0]) * y[:, :, 1] if c.gated else activation(y)
        y = jnp.einsum("BTF,FD->BTD", dropout(self, y), self.wo)
        if c.mlp_bias:
            y = y + self.wo_bias[None, None]
        if c.sandwich_norms:
            y = rms_norm(y, self.post_norm, c.norm_epsilon)
        return x + dropout(self, rules.constrain(y, ("batch", "length", "act_embed")))
