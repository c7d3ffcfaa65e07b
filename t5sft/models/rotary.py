"""Rotary position embedding (RoPE, arXiv:2104.09864) and the ways to stretch it to longer rows.

Frequencies are constants of the model, computed once in float64: float32 powers differ between
chips, and at position 100,000 the angle is off by 100,000 times that difference.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

Angles = tuple[jax.Array, jax.Array]  # cos, sin [B, T, 1, R/2] float32; R <= H features turn


class Scaling(Protocol):
    """Changes the frequencies [R/2] of a model; hashable, since a model is."""

    def scale(self, frequencies: np.ndarray) -> np.ndarray: ...

    @property
    def magnitude(self) -> float: ...  # factor of cos and sin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """All positions divided by `factor` (arXiv:2306.15595)."""

    factor: float
    magnitude = 1.0

    def scale(self, frequencies: np.ndarray) -> np.ndarray:
        """[R/2] -> [R/2]."""
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3:
    """Llama 3.1's: long wavelengths are stretched by `factor`, short ones kept, smoothly between.

    Meta's `apply_scaling` in llama-models `models/llama3/model.py`.

    Args:
      factor: how much longer the rows become.
      low_freq_factor: wavelengths over original_length / low_freq_factor are stretched wholly.
      high_freq_factor: wavelengths under original_length / high_freq_factor stay.
      original_length: longest row before the stretching.
    """

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192
    magnitude = 1.0

    def scale(self, frequencies: np.ndarray) -> np.ndarray:
        """[R/2] -> [R/2]."""
        turns = self.original_length * frequencies / (2 * math.pi)  # over the original length
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0.0, 1.0)
        return frequencies * (kept + (1 - kept) / self.factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRope:
    """LongRoPE's: a searched factor per frequency (arXiv:2402.13753; Phi-3, Phi-4-mini).

    transformers goes over to the long factors when a batch happens to hold a row longer than
    `original_length`. Here it is a setting of the model: what a token means must not depend on its
    neighbours in a batch.

    Args:
      short_factors, long_factors: [R/2] divisors of the frequencies.
      original_length: longest row that the short factors are for.
      magnitude: factor of cos and sin, sqrt(1 + ln(max / original) / ln(original)) in Phi-3.
      is_long: use the long factors.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_length: int
    magnitude: float
    is_long: bool = False

    def scale(self, frequencies: np.ndarray) -> np.ndarray:
        """[R/2] -> [R/2]."""
        return frequencies / np.asarray(self.long_factors if self.is_long else self.short_factors)


def angles(
    positions: jax.Array, num_features: int, theta: float, scaling: Scaling | None = None
) -> Angles:
    """Returns cos and sin of RoPE's angles p * theta^(-2i/R) (arXiv:2104.09864, section 3.2.2).

    Args:
      positions: [B, T] int, counted from 0 in every segment.
      num_features: R, an even number: the features of a head that turn.
    """
    frequencies = theta ** (-np.arange(0, num_features, 2, dtype=np.float64) / num_features)
    magnitude = 1.0
    if scaling is not None:
        frequencies, magnitude = scaling.scale(frequencies), scaling.magnitude
    turned = positions[:, :, None, None] * frequencies.astype(np.float32)[None, None, None, :]
    if magnitude == 1.0:
        return jnp.cos(turned), jnp.sin(turned)
    return jnp.cos(turned) * magnitude, jnp.sin(turned) * magnitude


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the first R features of [B, T, N, H], pairing feature i with i + R/2.

    That is the "half-split" order, as in the weights that transformers writes.
    """
    num_features = 2 * cos.shape[-1]
    turning, still = x[..., :num_features], x[..., num_features:]
    first, second = jnp.split(turning.astype(jnp.float32), 2, axis=-1)
    out = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    out = out.astype(x.dtype)
    return jnp.concatenate([out, still], axis=-1) if still.shape[-1] else out
