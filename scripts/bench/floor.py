"""The floor: the same two models as a plain JAX program, with nothing around them.

Unrolled layers, fused query-key-value and gate-linear kernels, one segment per row, mean
cross-entropy, optax.adamw. No mesh, no packing, no metrics. step.py compares with it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5sft.models import attention

EPSILON = 1e-6


def norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON) * scale


def heads(x, num_heads: int):
    """[B, T, N * H] -> [B, T, N, H]."""
    return x.reshape(*x.shape[:2], num_heads, -1)


def attend(query, key, value, bias):
    scores = jnp.einsum("BTNH,BSNH->BNTS", query, key) + bias
    out = jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores, axis=-1), value)
    return out.reshape(*out.shape[:2], -1)


def causal_bias(length: int):
    return jnp.where(np.tril(np.ones((length, length), bool)), 0.0, -1e9)


def relative_bias(table, length: int, bidirectional: bool):
    """[buckets, N] -> [1, N, T, T]."""
    distances = np.arange(length)[None, :] - np.arange(length)[:, None]  # key - query
    index = attention.buckets(32, 128, bidirectional)[np.clip(distances, -128, 128) + 128]
    return table[index].transpose(2, 0, 1)[None]


def rotate(x, theta: float):
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = (jnp.asarray(f(angles), jnp.float32)[None, :, None] for f in (np.cos, np.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def self_attention(x, layer, bias, model):
    query, key, value = jnp.split(norm(x, layer["norm"]) @ layer["qkv"], 3, axis=-1)
    query, key, value = (heads(y, model.num_heads) for y in (query, key, value))
    if model.layout == "decoder":
        query, key = rotate(query, model.rope_theta), rotate(key, model.rope_theta)
    return x + attend(query * model.query_scale, key, value, bias) @ layer["out"]


def cross_attention(x, layer, encoded, model):
    query = heads(norm(x, layer["cross_norm"]) @ layer["cross_q"], model.num_heads)
    key, value = jnp.split(encoded @ layer["cross_kv"], 2, axis=-1)
    key, value = heads(key, model.num_heads), heads(value, model.num_heads)
    return x + attend(query, key, value, 0.0) @ layer["cross_out"]


def mlp(x, layer, activation):
    gate, linear = jnp.split(norm(x, layer["mlp_norm"]) @ layer["wi"], 2, axis=-1)
    return x + (activation(gate) * linear) @ layer["wo"]


def loss(params, batch, model):
    """Mean cross-entropy of all places of a batch, in nats."""
    activation = jax.nn.silu if model.layout == "decoder" else jax.nn.gelu
    x = params["embedding"][batch["decoder_input_tokens"]]
    bias = causal_bias(x.shape[1])
    if model.layout == "encoder_decoder":
        encoded = params["embedding"][batch["encoder_input_tokens"]]
        own = relative_bias(params["encoder_bias"], encoded.shape[1], bidirectional=True)
        for layer in params["encoder"]:
            encoded = mlp(self_attention(encoded, layer, own, model), layer, activation)
        encoded = norm(encoded, params["encoder_norm"])
        bias = bias + relative_bias(params["decoder_bias"], x.shape[1], bidirectional=False)
    for layer in params["decoder"]:
        x = self_attention(x, layer, bias, model)
        if model.layout == "encoder_decoder":
            x = cross_attention(x, layer, encoded, model)
        x = mlp(x, layer, activation)
    logits = norm(x, params["decoder_norm"]) @ params["head"]
    targets = batch["decoder_target_tokens"][..., None]
    picked = jnp.take_along_axis(logits, targets, axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)


def parameters(params, model):
    """Rearranges t5sft's parameters, so that both programs start at the same loss."""

    def matrix(kernel, inner: int):
        """[D, ..., X] -> [D, all of it], [..., D] -> [all of it, D]."""
        return kernel.reshape(inner, -1)

    def layers(stack):
        out = []
        for n in range(stack["mlp"]["norm"].shape[0]):
            block = jax.tree.map(lambda leaf, n=n: leaf[n], stack)
            own, feed = block["self_attention"], block["mlp"]
            d, f = model.emb_dim, model.mlp_dim
            layer = {
                "norm": own["norm"],
                "qkv": jnp.concatenate([matrix(own["q"], d), matrix(own["kv"], d)], axis=1),
                "out": matrix(own["out"], model.num_heads * model.head_dim),
                "mlp_norm": feed["norm"],
                "wi": matrix(feed["wi"], d),
                "wo": matrix(feed["wo"], f),
            }
            if "cross_attention" in block:
                cross = block["cross_attention"]
                layer["cross_norm"] = cross["norm"]
                layer["cross_q"] = matrix(cross["q"], d)
                layer["cross_kv"] = matrix(cross["kv"], d)
                layer["cross_out"] = matrix(cross["out"], model.num_heads * model.head_dim)
            out.append(layer)
        return out

    out = {"embedding": params["embedding"], "head": params["head"]}
    for side in ("encoder", "decoder"):
        if side in params:
            out[side] = layers(params[side]["layers"])
            out[f"{side}_norm"] = params[side]["norm"]
            if "relative_bias" in params[side]:
                out[f"{side}_bias"] = params[side]["relative_bias"]
    return jax.tree.map(jnp.copy, out)


def make_update(model, learning_rate: float, weight_decay: float):
    """Returns (init, update): update((params, opt_state), batch) -> (state, loss), donating."""
    transform = optax.adamw(learning_rate, weight_decay=weight_decay)

    def update(state, batch):
        params, opt_state = state
        value, gradient = jax.value_and_grad(loss)(params, batch, model)
        updates, opt_state = transform.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return transform.init, jax.jit(update, donate_argnums=0)
