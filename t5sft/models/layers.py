"""Parameters, RMS norm, dropout and the gated feed-forward layer, shared by all families.

Each sublayer holds its own pre-norm and adds its own residual: x + dropout(f(norm(x))).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5sft.parallel import rules

ACTIVATIONS = {"gelu": lambda x: jax.nn.gelu(x, approximate=True), "silu": jax.nn.silu}


def kernel(module: nn.Module, name: str, shape: tuple[int, ...], axes: rules.Names) -> jax.Array:
    """Declares a float32 parameter with its logical axes; returns it in the compute dtype.

    The standard deviation at the start is the family's: `module.config.stddev(name)`.
    """
    config = module.config

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # As a matrix: XLA takes 2 s to compile random bits over five axes, 0.3 s over two.
        matrix = jax.random.normal(key, (shape[0], math.prod(shape[1:])), jnp.float32)
        return matrix.reshape(shape) * config.stddev(name)

    return module.param(name, nn.with_logical_partitioning(draw, axes), shape).astype(config.dtype)


def norm_scale(module: nn.Module, name: str = "norm") -> jax.Array:
    """Declares the [D] scale of an RMS norm; it stays float32."""
    init = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
    return module.param(name, init, (module.config.emb_dim,), jnp.float32)


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
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class GatedMlp(nn.Module):
    """x + wo(activation(wi_0 x) * wi_1 x), the GLU variants of arXiv:2002.05202, section 2.

    `wi` holds gate and linear as one kernel [D, 2, F]: one matrix product instead of two.
    """

    config: Any

    def setup(self) -> None:
        d, f = self.config.emb_dim, self.config.mlp_dim
        self.norm = norm_scale(self)
        self.wi = kernel(self, "wi", (d, 2, f), ("embed", None, "mlp"))
        self.wo = kernel(self, "wo", (f, d), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        y = rms_norm(x, self.norm, self.config.norm_epsilon)
        y = rules.constrain(
            jnp.einsum("BTD,DXF->BTXF", y, self.wi), ("batch", "length", None, "mlp")
        )
        y = ACTIVATIONS[self.config.activation](y[:, :, 0]) * y[:, :, 1]
        y = jnp.einsum("BTF,FD->BTD", dropout(self, y), self.wo)
        return x + dropout(self, rules.constrain(y, ("batch", "length", "act_embed")))
