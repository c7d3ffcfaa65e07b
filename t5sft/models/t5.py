"""T5 1.0, 1.1 and kin: an encoder-decoder with relative position bias.

Raffel et al. 2020, arXiv:1910.10683, section 2.1; what 1.1 changed is told in
google-research/text-to-text-transfer-transformer, released_checkpoints.md: gated GELU and a head
of its own. RMS norms, no biases, no scaling of attention scores.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from t5sft.models import attention, layers, model, stack
from t5sft.models.attention import cache as cached


class T5Stack(stack.Stack):
    """A stack whose layers share one table of relative position bias."""

    bidirectional: bool = False

    def setup(self) -> None:
        super().setup()
        c = self.config
        shape = (c.relative_attention_num_buckets, c.num_heads)
        self.relative_bias = layers.kernel(
            self, "relative_bias", shape, ("relpos_buckets", "heads")
        )

    def packed_view(self, segments: jax.Array) -> attention.View | attention.Packed:
        """What the tokens of packed rows see in self-attention, by segment ids [B, T]."""
        return attention.view(
            self,
            segments,
            segments,
            causal=not self.bidirectional,
            table=self.relative_bias,
            bucket_of=self._buckets(),
        )

    def cached_view(self, slots: jax.Array, max_length: int) -> attention.View:
        """What the token written to slot [B] sees of a cache, and of itself behind it."""
        table, bucket_of = self.relative_bias, self._buckets()
        bias = attention.slot_bias(table, bucket_of, slots[:, None], max_length)
        own = table[bucket_of[len(bucket_of) // 2]].astype(jnp.float32)  # distance 0
        own = jnp.broadcast_to(own[None, :, None, None], (*bias.shape[:3], 1))
        return attention.View(
            mask=cached.mask(slots, max_length), bias=jnp.concatenate([bias, own], axis=-1)
        )

    def _buckets(self):
        c = self.config
        return attention.buckets(
            c.relative_attention_num_buckets, c.relative_attention_max_distance, self.bidirectional
        )


class T5Net(model.Net):
    """One embedding for both sides, encoder, decoder, head."""

    def setup(self) -> None:
        super().setup()
        c = self.config
        self.encoder = T5Stack(c, c.num_encoder_layers, bidirectional=True)
        self.decoder = T5Stack(c, c.num_decoder_layers, crossing=True)

    def hidden(self, batch: model.Batch) -> jax.Array:
        """[B, T, D] of packed rows."""
        source, target = batch["encoder_segment_ids"], batch["decoder_segment_ids"]
        sight = stack.Sight(
            own=self.decoder.packed_view(target),
            other=attention.view(self, target, source, causal=False),
            encoded=self._encode(batch),
        )
        return self.decoder(self.embed(batch["decoder_input_tokens"]), sight)[0]

    def prefill(
        self, batch: model.Batch, max_length: int, cache_dtype: str
    ) -> tuple[None, model.Cache]:
        """The cache: the encoder's keys and values, and empty slots for the decoder."""
        encoded, c = self._encode(batch), self.config
        kernels = self.variables["params"]["decoder"]["layers"]["cross_attention"]["kv"]
        memory = jnp.einsum("BSD,LDXKH->LBSXKH", encoded, kernels.astype(encoded.dtype))
        num_rows = encoded.shape[0]
        return None, {
            "kv": cached.empty(c, c.num_decoder_layers, num_rows, max_length, cache_dtype),
            "memory": cached.keep(memory, cache_dtype),
            "memory_segment_ids": batch["encoder_segment_ids"][None],
        }

    def decode_step(
        self, cache: model.Cache, tokens: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, model.Cache]:
        """Logits [B, 1, V] of one token per row [B, 1]."""
        slots = positions[:, 0]
        own = self.decoder.cached_view(slots, cached.num_slots(cache["kv"]))
        other = attention.View(cache["memory_segment_ids"][0, :, None, None, :] > 0)
        kept = {"kv": cached.aim(cache["kv"], slots), "memory": cache["memory"]}
        hidden, new = self.decoder(self.embed(tokens), stack.Sight(own, other=other), kept)
        cache = cache | {"kv": cached.write(cache["kv"], new, slots)}
        return self.unembed(hidden), cache

    def _encode(self, batch: model.Batch) -> jax.Array:
        view = self.encoder.packed_view(batch["encoder_segment_ids"])
        return self.encoder(self.embed(batch["encoder_input_tokens"]), stack.Sight(view))[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5(model.Model):
    """T5 1.1, and by three fields the others: T5 1.0 is activation="relu", gated=False,
    logits_via_embedding=True.

    Args:
      num_encoder_layers, num_decoder_layers: L of the two stacks.
      relative_attention_num_buckets: rows of the bias table; an even number.
      relative_attention_max_distance: all distances from here on share a bucket.
      activation: of the feed-forward layer, a name in `layers.ACTIVATIONS`.
      gated: two kernels into the feed-forward layer, one of them activated.
      scale_decoder_outputs: times D^-0.5 before the head, because a tied embedding is N(0, 1) and a
        head has to be N(0, 1/D); None: where the head is tied.

    Raises:
      ConfigError: a size is no positive integer, or a name is unknown.
    """

    num_encoder_layers: int
    num_decoder_layers: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    activation: str = "gelu"
    gated: bool = True
    scale_decoder_outputs: bool | None = None

    layout: ClassVar[str] = "encoder_decoder"
    query_scale: ClassVar[float] = 1.0  # T5 folds 1 / sqrt(H) into the start of `q`
    attention_bias: ClassVar[bool] = False
    output_bias: ClassVar[bool] = False
    mlp_bias: ClassVar[bool] = False
    qk_norm: ClassVar[bool] = False
    sandwich_norms: ClassVar[bool] = False
    norm_offset: ClassVar[float] = 0.0
    scale_embedding: ClassVar[bool] = False
    attention_soft_cap: ClassVar[float | None] = None
    final_soft_cap: ClassVar[float | None] = None
    net: ClassVar[type[model.Net]] = T5Net

    def __post_init__(self) -> None:
        super().__post_init__()
        buckets, reach = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets % 2 or buckets < 4:
            todo = f"use {max(4, buckets - buckets % 2)} or {max(4, buckets + buckets % 2)}"
            self.reject(f"relative_attention_num_buckets = {buckets} is not even or under 4", todo)
        if reach <= buckets // 2:
            todo = f"use more than {buckets // 2}, half the buckets, which hold one distance each"
            self.reject(f"relative_attention_max_distance = {reach} is too short", todo)

    @property
    def num_kv_heads(self) -> int:
        """T5 has a key/value head per query head."""
        return self.num_heads

    @property
    def head_scale(self) -> float:
        """What the decoder's output is multiplied with before the head."""
        scales = self.scale_decoder_outputs
        scales = self.logits_via_embedding if scales is None else scales
        return self.emb_dim**-0.5 if scales else 1.0

    def stddev(self, name: str) -> float:
        """T5's start: unit activations (Mesh TensorFlow `transformer_layers.py`, T5X `network.py`).

        The bias table is Hugging Face's `T5PreTrainedModel._init_weights`: N(0, 1/D).
        """
        d, f, n, h = self.emb_dim, self.mlp_dim, self.num_heads, self.head_dim
        variance = {
            "embedding": 1.0,
            "q": 1 / (d * h),
            "kv": 1 / d,
            "out": 1 / (n * h),
            "wi": 1 / d,
            "wo": 1 / f,
            "relative_bias": 1 / d,
            "head": 1 / d,
        }
        return variance[name] ** 0.5
