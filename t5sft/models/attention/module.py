"""The attention layer: projections, rotation, cache, and the implementation that the view names."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5sft.models import layers, rotary
from t5sft.models.attention import cache as cached
from t5sft.models.attention import packed, reference, views
from t5sft.parallel import rules


class Attention(nn.Module):
    """Multi-head attention with K <= N key/value heads (GQA, arXiv:2305.13245, section 2.2).

    Kernels: `q` [D, N, H], `kv` [D, 2, K, H] (keys, values), `out` [N, H, D]. With attention_bias
    `q_bias` [N, H] and `kv_bias` [2, K, H], with output_bias `out_bias` [D]; with qk_norm `q_norm`
    and `k_norm` [H]; with sandwich_norms `post_norm` [D]. Query head n reads key/value head
    n // (N / K).
    """

    config: Any

    def setup(self) -> None:
        c = self.config
        d, n, k, h = c.emb_dim, c.num_heads, c.num_kv_heads, c.head_dim
        self.norm = layers.norm_scale(self)
        self.q = layers.kernel(self, "q", (d, n, h), ("embed", "heads", "head_dim"))
        self.kv = layers.kernel(self, "kv", (d, 2, k, h), ("embed", None, "kv_heads", "head_dim"))
        self.out = layers.kernel(self, "out", (n, h, d), ("heads", "head_dim", "embed"))
        if c.attention_bias:
            self.q_bias = layers.kernel(self, "q_bias", (n, h), ("heads", "head_dim"))
            self.kv_bias = layers.kernel(self, "kv_bias", (2, k, h), (None, "kv_heads", "head_dim"))
        if c.output_bias:
            self.out_bias = layers.kernel(self, "out_bias", (d,), ("embed",))
        if c.qk_norm:
            self.q_norm = layers.norm_scale(self, "q_norm", h, "head_dim")
            self.k_norm = layers.norm_scale(self, "k_norm", h, "head_dim")
        if c.sandwich_norms:
            self.post_norm = layers.norm_scale(self, "post_norm")

    def __call__(
        self, x: jax.Array, view: views.AnyView, cache: Any = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Self-attention of [B, T, D], or of [B, 1, D] over the `Kept` of the tokens before.

        Returns x plus its update, and with a cache ({}: nothing is kept yet) the new keys and
        values [B, T, 2, K, H]; the caller keeps them.
        """
        y = layers.rms_norm(x, self.norm, self.config.norm_epsilon)
        query, kv = self._queries(y), self.keys_values(y)
        key, value = kv[:, :, 0], kv[:, :, 1]
        if self.config.qk_norm:
            key = layers.rms_norm(key, self.k_norm, self.config.norm_epsilon)
        if view.rotation is not None:
            query, key = rotary.rotate(query, *view.rotation), rotary.rotate(key, *view.rotation)
        if cache is None:
            return self._attend(x, query, key, value, view), None
        new = jnp.stack([key, value], axis=2)
        if not cache:
            return self._attend(x, query, key, value, view), new
        if isinstance(cache, cached.Aimed):
            kept = cached.write(cache.kept, new[None], cache.slots)
            return self._attend_kept(x, query, cached.only(kept), view, new), kept
        return self._attend_kept(x, query, cache, view, new), new

    def cross(self, x: jax.Array, kv: jax.Array, view: views.AnyView) -> jax.Array:
        """Attention of [B, T, D] over the encoder's keys and values [B, S, 2, K, H]."""
        query = self._queries(layers.rms_norm(x, self.norm, self.config.norm_epsilon))
        return self._attend(x, query, kv[:, :, 0], kv[:, :, 1], view)

    def cross_kept(self, x: jax.Array, memory: cached.Kept, view: views.AnyView) -> jax.Array:
        """Attention of [B, 1, D] over what is kept of the encoder."""
        query = self._queries(layers.rms_norm(x, self.norm, self.config.norm_epsilon))
        return self._attend_kept(x, query, memory, view, None)

    def keys_values(self, x: jax.Array) -> jax.Array:
        """Projects [B, S, D] to keys and values [B, S, 2, K, H]."""
        kv = jnp.einsum("BSD,DXKH->BSXKH", x, self.kv)
        if self.config.attention_bias:
            kv = kv + self.kv_bias[None, None]
        # Queries of one part of the row need the keys of all parts, so S is not split.
        return rules.constrain(kv, ("batch", None, None, "kv_heads", "head_dim"))

    def _queries(self, x: jax.Array) -> jax.Array:
        query = jnp.einsum("BTD,DNH->BTNH", x, self.q)
        if self.config.attention_bias:
            query = query + self.q_bias[None, None]
        if self.config.qk_norm:
            query = layers.rms_norm(query, self.q_norm, self.config.norm_epsilon)
        query = query * self.config.query_scale
        return rules.constrain(query, ("batch", "length", "heads", "head_dim"))

    def _attend(self, x, query, key, value, view: views.AnyView) -> jax.Array:
        return self._add(x, self._mixed(query, key, value, view))

    def _attend_kept(self, x, query, kept: cached.Kept, view: views.AnyView, new) -> jax.Array:
        assert isinstance(view, views.View), "a cache is seen by a mask"
        cap = self.config.attention_soft_cap
        return self._add(x, cached.attend(query, kept, view.mask, view.bias, new, cap))

    def _add(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """x plus the projection of what attention made, [B, T, N, H]."""
        c = self.config
        y = jnp.einsum("BTNH,NHD->BTD", y, self.out)
        if c.output_bias:
            y = y + self.out_bias[None, None]
        if c.sandwich_norms:
            y = layers.rms_norm(y, self.post_norm, c.norm_epsilon)
        return x + layers.dropout(self, rules.constrain(y, ("batch", "length", "act_embed")))

    def _mixed(self, query, key, value, view: views.AnyView) -> jax.Array:
        """The values mixed by attention, [B, T, N, H]; zero for a query that sees no key."""
        cap = self.config.attention_soft_cap
        if isinstance(view, views.View):
            drop = lambda weights: layers.dropout(self, weights)  # noqa: E731
            return reference.attend(query, key, value, view, soft_cap=cap, drop=drop)
        if self.config.dropout_rate and self.has_rng("dropout"):
            key, value = self._dropped(query.shape[2], key, value)
        return packed.attend(query, key, value, view, soft_cap=cap)

    def _dropped(self, num_heads: int, key, value) -> tuple[jax.Array, jax.Array]:
        """Drops attention weights by dropping values, each query head's own: [B, S, N, H].

        It is the same, to the random bits, because one mask serves all queries of a head
        (`layers.dropout`): sum_s (w_ts keep_s) v_s = sum_s w_ts (keep_s v_s). So every
        implementation has dropout.
        """
        b, s, k, _ = value.shape
        keep = layers.dropout(self, jnp.ones((b, num_heads, 1, s), jnp.float32))
        key, value = (jnp.repeat(x, num_heads // k, axis=2) for x in (key, value))
        kept = value.astype(jnp.float32) * keep.transpose(0, 3, 1, 2)
        return key, kept.astype(value.dtype)
