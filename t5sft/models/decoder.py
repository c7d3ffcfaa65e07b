"""Decoder-only models: RoPE, grouped-query attention, gated feed-forward layers, RMS norms.

Llama (Touvron et al. 2023, arXiv:2307.09288, section 2.2) is what the defaults make; Mistral, Qwen,
Gemma and Phi-3 differ from it by fields.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5sft import errors
from t5sft.models import attention, model, rotary, stack
from t5sft.models.attention import cache as cached

LAYERS = ("full", "sliding")


class DecoderNet(model.Net):
    """Embedding, one stack, head."""

    def setup(self) -> None:
        super().setup()
        self.decoder = stack.Stack(self.config, self.config.num_layers)

    def hidden(self, batch: model.Batch) -> jax.Array:
        """[B, T, D] of packed rows."""
        return self._read(batch)[0]

    def _read(self, batch: model.Batch, cache=None):
        segments = batch["decoder_segment_ids"]

        def view(window: int | None, rotation: rotary.Angles):
            return attention.view(
                self, segments, segments, causal=True, window=window, rotation=rotation
            )

        sight = self._sight(view, batch["decoder_positions"], cache)
        return self.decoder(self.embed(batch["decoder_input_tokens"]), *sight)

    def prefill(
        self, batch: model.Batch, max_length: int, cache_dtype: str
    ) -> tuple[jax.Array, model.Cache]:
        """[B, T, D] of one prompt per row, and the cache."""
        hidden, kv = self._read(batch, {})
        return hidden, {"kv": cached.lengthen(cached.keep(kv, cache_dtype), max_length)}

    def decode_step(
        self, cache: model.Cache, tokens: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, model.Cache]:
        """Logits [B, 1, V] of one token per row [B, 1]."""

        def view(window: int | None, rotation: rotary.Angles) -> attention.View:
            mask = cached.mask(positions[:, 0], cached.num_slots(cache["kv"]), window)
            return attention.View(mask, rotation=rotation)

        aimed = {"kv": cached.aim(cache["kv"], positions[:, 0])}
        sight, kept, is_local = self._sight(view, positions, aimed)
        hidden, new = self.decoder(self.embed(tokens), sight, kept, is_local)
        return self.unembed(hidden), {"kv": cached.write(cache["kv"], new, positions[:, 0])}

    def _sight(self, view, positions: jax.Array, cache=None):
        """The arguments of the stack after x: what each kind of layer sees, and which is which.

        Args:
          view: (window, rotation) -> View.
        """
        c = self.config
        turning, scaling = int(c.head_dim * c.rope_fraction), c.rope_scaling
        rotation = rotary.angles(positions, turning, c.rope_theta, scaling)
        near = rotation
        if c.rope_theta_local is not None:
            near = rotary.angles(positions, turning, c.rope_theta_local)
        kinds = {*c.layer_pattern}
        if kinds == {"full"}:
            return stack.Sight(view(None, rotation)), cache, None
        local = view(c.sliding_window, near)
        if kinds == {"sliding"}:
            return stack.Sight(local), cache, None
        sight = stack.Sight(view(None, rotation), local=local)
        return sight, cache, jnp.asarray(np.array(c.layer_types) == "sliding")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(model.Model):
    """A decoder; the defaults make a Llama.

    Args:
      num_layers: L.
      num_kv_heads: K, a divisor of num_heads; N / K query heads share one key/value head.
      activation: of the gated feed-forward layer, a name in `layers.ACTIVATIONS`.
      init_stddev: of the random start; 0.02 is Hugging Face's for Llama (LlamaConfig
        `initializer_range`), about D^-1/2 at their widths. A narrow model starts better at D^-1/2.
      rope_theta: base of the rotation frequencies; 1e4 in Llama 2, 5e5 in Llama 3.
      rope_theta_local: that of the sliding layers, unscaled (Gemma 3); None: the same rotation.
      rope_fraction: part of a head's features that turn (Phi-4-mini).
      rope_scaling: stretches the rotation; made by `rotary.Llama3` or another of `rotary`.
      layer_pattern: "full" or "sliding" attention, repeated until there are L layers.
      sliding_window: keys that a token of a sliding layer sees, its own among them.
      query_pre_attn_scalar: scores are divided by its square root; None: H.
      attention_bias: biases on queries, keys and values, as Qwen2 has. They let a head look at a
        distance, whatever the tokens are.
      output_bias: a bias after attention.
      mlp_bias: biases in the feed-forward layer.
      qk_norm: RMS norms of each query and key head (Qwen3, Gemma 3).
      sandwich_norms: RMS norms also after attention and the feed-forward layer (Gemma 2 and 3).
      norm_offset: added to all norm scales; 1.0 in Gemma.
      scale_embedding: embeddings times sqrt(D) (Gemma).
      attention_soft_cap, final_soft_cap: bounds of scores and logits (Gemma 2: 50, 30).

    Raises:
      ConfigError: N is no multiple of K, the turning part of H is odd, a window is missing or
        useless, or a name is unknown.
    """

    num_layers: int
    num_kv_heads: int
    activation: str = "silu"
    init_stddev: float = 0.02
    rope_theta: float = 10_000.0
    rope_theta_local: float | None = None
    rope_fraction: float = 1.0
    rope_scaling: rotary.Scaling | None = None
    layer_pattern: tuple[str, ...] = ("full",)
    sliding_window: int | None = None
    query_pre_attn_scalar: float | None = None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    norm_offset: float = 0.0
    scale_embedding: bool = False
    attention_soft_cap: float | None = None
    final_soft_cap: float | None = None

    layout: ClassVar[str] = "decoder"
    gated: ClassVar[bool] = True
    head_scale: ClassVar[float] = 1.0
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
        self._check_rotation()
        self._check_layers()
        for name in ("query_pre_attn_scalar", "attention_soft_cap", "final_soft_cap"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                self.reject(f"{name} = {value} is not positive", "correct it, or leave it out")

    def _check_rotation(self) -> None:
        if not 0 < self.rope_fraction <= 1:
            self.reject(f"rope_fraction = {self.rope_fraction} is outside (0, 1]", "correct it")
        if int(self.head_dim * self.rope_fraction) % 2 == 0:
            return
        if self.rope_fraction == 1:
            todo = f"use {self.head_dim - 1} or {self.head_dim + 1}"
            self.reject(f"head_dim = {self.head_dim} is odd, and RoPE turns pairs", todo)
        what = f"rope_fraction = {self.rope_fraction} of head_dim = {self.head_dim}"
        self.reject(f"{what} is odd, and RoPE turns pairs", "use another rope_fraction")

    def _check_layers(self) -> None:
        known = " or ".join(LAYERS)
        if not self.layer_pattern:
            self.reject("layer_pattern is empty", f"use {known}")
        for kind in self.layer_pattern:
            if kind not in LAYERS:
                hint = errors.suggest(kind, LAYERS)
                self.reject(f"layer_pattern holds {kind!r}", f"use {known}{hint}")
        if ("sliding" in self.layer_pattern) != (self.sliding_window is not None):
            what = f"sliding_window = {self.sliding_window} does not go with layer_pattern = "
            self.reject(f"{what}{self.layer_pattern}", "set both or neither")
        if self.rope_theta_local is not None and self.sliding_window is None:
            what = f"rope_theta_local = {self.rope_theta_local} is of sliding layers"
            self.reject(what, "leave it out, or set layer_pattern")

    @property
    def layer_types(self) -> tuple[str, ...]:
        """The kind of each layer, layer_pattern repeated."""
        pattern = self.layer_pattern
        return tuple(pattern[i % len(pattern)] for i in range(self.num_layers))

    @property
    def query_scale(self) -> float:
        """1 / sqrt(H), or what query_pre_attn_scalar makes it."""
        scalar = self.query_pre_attn_scalar
        return (self.head_dim if scalar is None else scalar) ** -0.5

    def stddev(self, name: str) -> float:
        """init_stddev, less for what adds to the residual stream (GPT-2, section 2.3)."""
        if name in ("q_bias", "kv_bias"):
            return 0.5  # of the size of queries and keys: heads differ in distance from the start
        if name.endswith("_bias"):
            return 0.0
        return self.init_stddev * ((2 * self.num_layers) ** -0.5 if name in ("out", "wo") else 1.0)
