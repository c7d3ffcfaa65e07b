"""What all model families share: fields, checks, and the methods the rest of t5sft calls.

A model is a frozen dataclass, both configuration and definition; its parameters are a plain nested
dict of float32 arrays that the caller keeps. Flax stays behind these methods.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5sft import errors
from t5sft.models import attention, layers, stack
from t5sft.models.attention import cache as cached
from t5sft.parallel import explicit, rules

DTYPES = ("float32", "bfloat16")
TABLE = ("vocab", "embed")  # logical axes of the embedding
Params = dict[str, Any]
Batch = dict[str, jax.Array]
Cache = dict[str, Any]  # arrays, all with their rows on axis 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Fields and methods common to all families; made as `t5.T5` or `decoder.Decoder`.

    Args:
      vocab_size, emb_dim, mlp_dim, num_heads, head_dim: V, D, F, N, H.
      dropout_rate: in [0, 1); acts only where a dropout key is given.
      dtype: of the computation; parameters, norms and softmax are float32 always.
      norm_epsilon: added to the mean square in RMS norms.
      logits_via_embedding: the head is the transposed embedding.
      max_position_embeddings: longest row the weights were made for, which other frameworks want to
        be told; nothing is cut by it.
      remat: what the backward pass computes again, to save memory: "none", "dots" (all but matrix
        products with a parameter), "dots_attention" (nor what a kernel of attention made), "full"
        (each block whole); "dots_offload" and "full_offload" move what "dots" and "full" keep to
        the host's memory and back.
      scan_unroll: layers per step of the loop over layers; more take longer to compile, and may run
        faster.
      attention: the implementation, a name in `attention.NAMES`; "auto" picks by the devices'
        platform, the length of the rows and what the model needs. Decoding has its own.
    """

    vocab_size: int
    emb_dim: int
    mlp_dim: int
    num_heads: int
    head_dim: int
    dropout_rate: float = 0.0
    dtype: str = "float32"
    norm_epsilon: float = 1e-6
    logits_via_embedding: bool = False
    max_position_embeddings: int | None = None
    remat: str = "none"
    scan_unroll: int = 1
    attention: str = "auto"

    layout: ClassVar[str]  # "encoder_decoder" or "decoder": which batches it reads
    net: ClassVar[type[nn.Module]]  # the Flax module behind the methods

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            needed = field.type in (int, "int")
            optional = field.type in (int | None, "int | None") and value is not None
            if (needed or optional) and not (isinstance(value, int) and value >= 1):
                self.reject(f"{field.name} = {value!r} is no positive integer", "correct it")
        names = {
            "dtype": DTYPES,
            "remat": tuple(stack.POLICIES),
            "activation": layers.ACTIVATIONS,
            "attention": attention.NAMES,
        }
        for name, known in names.items():
            value = getattr(self, name)
            if value not in known:
                hint = errors.suggest(str(value), known)
                self.reject(f"{name} = {value!r} is unknown", f"use {' or '.join(known)}{hint}")
        if not 0.0 <= self.dropout_rate < 1.0:
            self.reject(f"dropout_rate = {self.dropout_rate} is outside [0, 1)", "correct it")

    def reject(self, what: str, todo: str) -> None:
        """Raises ConfigError in the common form."""
        raise errors.ConfigError(f"{what}; {type(self).__name__}; {todo}")

    def stddev(self, name: str) -> float:
        """Standard deviation of a kernel at the start, by parameter name."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> Params:
        """Draws the parameters; jit it with `out_shardings` to draw them in place."""
        return nn.meta.unbox(self._boxed(key))

    def _boxed(self, key: jax.Array) -> Params:
        """Parameters with their names; in a loop over layers, or XLA compiles each one's draws."""
        return self.net(dataclasses.replace(self, scan_unroll=1)).init(key)["params"]

    def abstract(self) -> tuple[Params, Params]:
        """Returns the shapes and the logical axis names of the parameters, using no memory.

        Two nested dicts like the parameters', of `jax.ShapeDtypeStruct` and of tuples of names.
        """
        boxed = jax.eval_shape(self._boxed, jax.random.key(0))
        is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
        return nn.meta.unbox(boxed), jax.tree.map(lambda x: x.names, boxed, is_leaf=is_box)

    def hidden(
        self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Runs the model up to its head: [B, T, D] in the compute dtype, after the final norm.

        Args:
          batch: tokens, segment ids and positions by SeqIO's names; segment 0 is padding.
          dropout_key: turns dropout on.
        """
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        return self.net(self).apply({"params": params}, batch, method="hidden", rngs=rngs)

    def unembed(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Applies the head: [..., D] -> logits [..., V] in the compute dtype."""
        return self.net(self).apply({"params": params}, hidden, method="unembed")

    def head_kernel(self, params: Params) -> jax.Array:
        """Returns the kernel of the head for `logits`, once for any number of calls."""
        return self.net(self).apply({"params": params}, method="head_kernel")

    def logits(self, kernel: jax.Array, hidden: jax.Array) -> jax.Array:
        """Applies the head by its kernel: [..., D] -> logits [..., V] in the compute dtype."""
        return _project(self, kernel, hidden)

    def prefill(
        self, params: Params, batch: Batch, max_length: int, cache_dtype: str | None = None
    ) -> tuple[jax.Array | None, Cache]:
        """Reads the prompts, one per row, and returns a cache for `decode_step`.

        Args:
          batch: "decoder": right-padded `decoder_*` [B, T], T <= max_length; the cache holds the
            keys and values of the first T slots. "encoder_decoder": `encoder_*` [B, S]; the cache
            holds what the encoder made, and no decoder token.
          max_length: decoder slots of the cache, prompt and answer together.
          cache_dtype: of what is kept, a name in `cached.DTYPES`; None: that of the computation.

        Returns hidden [B, T, D] (None for "encoder_decoder") and the cache.
        """
        cached.check_dtype(cache_dtype)
        arguments = (batch, max_length, cache_dtype or self.dtype)
        return self.net(self).apply({"params": params}, *arguments, method="prefill")

    def decode_step(
        self, params: Params, cache: Cache, tokens: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Writes one token per row into the cache and returns the logits of the next.

        Args:
          tokens, positions: [B] int; the token of row b becomes slot positions[b] and sees the
            slots up to it. What later slots hold does not matter.

        Returns logits [B, V] and the cache.
        """
        arguments = (cache, tokens[:, None], positions[:, None])
        logits, cache = self.net(self).apply({"params": params}, *arguments, method="decode_step")
        return logits[:, 0], cache

    def apart(self, params: Params, cache: Cache) -> tuple[Params, Cache]:
        """Takes the layers apart before a loop of `decode_step`, where that is faster.

        XLA for CPU copies the slices that a loop over layers takes of parameters and cache, in
        every step: half of its time. Others read slices in place. `cached.together` of the cache
        undoes it.
        """
        if rules.platform() != "cpu":
            return params, cache
        return params | {"decoder": stack.apart(params["decoder"])}, cached.apart(cache)


class Net(nn.Module):
    """Embedding and head; a family adds its stacks."""

    config: Any

    def setup(self) -> None:
        v, d = self.config.vocab_size, self.config.emb_dim
        parts = {"is_whole": False}
        self.embedding = layers.kernel(self, "embedding", (v, d), TABLE, **parts)
        if not self.config.logits_via_embedding:
            self.head = layers.kernel(self, "head", (d, v), ("embed", "vocab"), **parts)

    def __call__(self) -> None:
        """Declares all parameters, by running one padding token through all layers."""
        one = jnp.zeros((1, 1), jnp.int32)
        parts = ("input_tokens", "segment_ids", "positions")
        batch = {f"{side}_{part}": one for side in ("encoder", "decoder") for part in parts}
        self.unembed(self.hidden(batch))

    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, T] token ids -> [B, T, D]; an id outside [0, V) becomes NaN, not a neighbour."""
        x = explicit.lookup(self.embedding, tokens, TABLE, self.config.dtype)
        if self.config.scale_embedding:
            # Rounded first: Gemma in bfloat16 was trained with 55.5 for sqrt(3072).
            x = x * jnp.asarray(self.config.emb_dim**0.5, x.dtype)
        return rules.constrain(x, ("batch", "length", "act_embed"))

    def head_kernel(self) -> jax.Array:
        """What logits are made with, whole and in the compute dtype: [D, V], or [V, D] if tied."""
        is_tied = self.config.logits_via_embedding
        axes = TABLE if is_tied else TABLE[::-1]
        weights = self.embedding if is_tied else self.head
        return explicit.gather(weights, axes, self.config.dtype)

    def unembed(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> logits [..., V]."""
        return _project(self.config, self.head_kernel(), hidden)


def _project(config: Any, kernel: jax.Array, hidden: jax.Array) -> jax.Array:
    hidden = hidden * config.head_scale
    form = "...D,VD->...V" if config.logits_via_embedding else "...D,DV->...V"
    logits = layers.soft_cap(jnp.einsum(form, hidden, kernel), config.final_soft_cap)
    if logits.ndim == 3:
        logits = rules.constrain(logits, ("batch", "length", "vocab"))
    return logits
