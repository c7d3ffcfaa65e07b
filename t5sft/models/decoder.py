"""Decoder-only models of the Llama form: RoPE, grouped-query attention, SwiGLU, RMS norm.

Touvron et al. 2023, arXiv:2307.09288, section 2.2.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from t5sft.models import attention, model, stack


class DecoderNet(model.Net):
    """Embedding, one stack, head."""

    def setup(self) -> None:
        super().setup()
        self.decoder = stack.Stack(self.config, self.config.num_layers)

    def hidden(self, batch: model.Batch) -> jax.Array:
        """[B, T, D] of packed rows."""
        segments = batch["decoder_segment_ids"]
        view = attention.View(
            mask=attention.packed_mask(segments, segments, causal=True),
            rotation=self._rotation(batch["decoder_positions"]),
        )
        return self.decoder(self.embed(batch["decoder_input_tokens"]), stack.Sight(view))[0]

    def prefill(
        self, batch: model.Batch, max_length: int
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """[B, T, D] of one prompt per row, and the cache."""
        tokens = batch["decoder_input_tokens"]
        b, t = tokens.shape
        empty = attention.empty_cache(self.config, self.config.num_layers, b, max_length)
        slots = jnp.broadcast_to(jnp.arange(t)[None, :], (b, t))
        return self._cached({"kv": empty}, tokens, batch["decoder_positions"], slots)

    def decode_step(
        self, cache: dict[str, jax.Array], tokens: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits [B, 1, V] of one token per row [B, 1]."""
        hidden, cache = self._cached(cache, tokens, positions, positions)
        return self.unembed(hidden), cache

    def _cached(self, cache, tokens, positions, slots):
        view = attention.View(
            mask=attention.cache_mask(slots, cache["kv"].shape[2]),
            rotation=self._rotation(positions),
            slots=slots,
        )
        hidden, new = self.decoder(self.embed(tokens), stack.Sight(view), cache)
        return hidden, {"kv": attention.write(cache["kv"], new, slots)}

    def _rotation(self, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        return attention.rotation(positions, self.config.head_dim, self.config.rope_theta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(model.Model):
    """A Llama-style decoder.

    Args:
      num_layers: L.
      num_kv_heads: K, a divisor of num_heads; N / K query heads share one key/value head.
      rope_theta: base of the rotation frequencies; 1e4 in Llama 2, 5e5 in Llama 3.
      init_stddev: of the random start; 0.02 is Hugging Face's for Llama (LlamaConfig
        `initializer_range`), about D^-1/2 at their widths. A narrow model starts better at D^-1/2.
      attention_bias: biases on queries, keys and values, as Qwen2 has. They let a head look at a
        distance, whatever the tokens are.

    Raises:
      ConfigError: N is no multiple of K, H is odd, or a name is unknown.
    """

    num_layers: int
    num_kv_heads: int
    rope_theta: float = 10_000.0
    init_stddev: float = 0.02
    attention_bias: bool = False

    layout: ClassVar[str] = "decoder"
    activation: ClassVar[str] = "silu"
    tied_head_scale: ClassVar[float] = 1.0
    net: ClassVar[type[model.Net]] = DecoderNet

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads % self.num_kv_heads:
            divisors = [k for k in range(1, self.num_heads + 1) if self.num_heads % k == 0]
            nearest = min(divisors, key=lambda k: abs(k - self.num_kv_heads))
            self.reject(
                f"num_heads = {self.num_heads} is no multiple of num_kv_heads = "
                f"{self.num_kv_heads}",
                f"use num_kv_heads = {nearest}",
            )
        if self.head_dim % 2:
            todo = f"use {self.head_dim - 1} or {self.head_dim + 1}"
            self.reject(f"head_dim = {self.head_dim} is odd, and RoPE turns pairs", todo)

    @property
    def query_scale(self) -> float:
        """1 / sqrt(H)."""
        return self.head_dim**-0.5

    def stddev(self, name: str) -> float:
        """init_stddev, less for what adds to the residual stream (GPT-2, section 2.3)."""
        if name.endswith("_bias"):
            return 0.5  # of the size of queries and keys: heads differ in distance from the start
        return self.init_stddev * ((2 * self.num_layers) ** -0.5 if name in ("out", "wo") else 1.0)
