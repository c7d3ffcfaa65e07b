"""T5 1.1 and a Llama-style decoder by their definitions: loops over heads and tokens, float64.

Nothing is shared with t5sft but the names in the parameter dict. One unpadded, unpacked example.
"""

import math

import numpy as np


def t5_logits(params, model, source, target):
    """Logits [T, V] of one example: encoder tokens [S], decoder input tokens [T]."""
    params = float64(params)
    x = params["embedding"][source]
    bias = bias_of(params["encoder"], model, len(source), bidirectional=True)
    for layer in range(model.num_encoder_layers):
        p = at(params["encoder"]["layers"], layer)
        x = x + self_attention(x, p["self_attention"], model, bias=bias, causal=False)
        x = x + mlp(x, p["mlp"], model, ACTIVATIONS[model.activation])
    encoded = norm(x, params["encoder"]["norm"], model)

    x = params["embedding"][target]
    bias = bias_of(params["decoder"], model, len(target), bidirectional=False)
    for layer in range(model.num_decoder_layers):
        p = at(params["decoder"]["layers"], layer)
        x = x + self_attention(x, p["self_attention"], model, bias=bias, causal=True)
        x = x + cross_attention(x, encoded, p["cross_attention"], model)
        x = x + mlp(x, p["mlp"], model, ACTIVATIONS[model.activation])
    x = norm(x, params["decoder"]["norm"], model)
    if model.logits_via_embedding:
        return x / math.sqrt(model.emb_dim) @ params["embedding"].T
    return x @ params["head"]


def decoder_logits(params, model, tokens):
    """Logits [T, V] of one example, decoder input tokens [T]."""
    params = float64(params)
    x = params["embedding"][tokens]
    for layer in range(model.num_layers):
        p = at(params["decoder"]["layers"], layer)
        x = x + self_attention(
            x,
            p["self_attention"],
            model,
            causal=True,
            theta=model.rope_theta,
            scale=1 / math.sqrt(model.head_dim),
        )
        x = x + mlp(x, p["mlp"], model, silu)
    x = norm(x, params["decoder"]["norm"], model)
    return x @ (params["embedding"].T if model.logits_via_embedding else params["head"])


def float64(params):
    return {
        k: float64(v) if isinstance(v, dict) else np.asarray(v, np.float64)
        for k, v in params.items()
    }


def at(layers, layer):
    return {k: at(v, layer) if isinstance(v, dict) else v[layer] for k, v in layers.items()}


def norm(x, scale, model):
    return np.stack([row / math.sqrt(np.mean(row**2) + model.norm_epsilon) * scale for row in x])


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


ACTIVATIONS = {"gelu": gelu, "silu": silu}


def mlp(x, p, model, activation):
    y = norm(x, p["norm"], model)
    gate, linear = p["wi"][:, 0], p["wi"][:, 1]
    return (activation(y @ gate) * (y @ linear)) @ p["wo"]


def self_attention(x, p, model, *, causal, bias=None, theta=None, scale=1.0):
    y = norm(x, p["norm"], model)
    out = np.zeros_like(x)
    group = model.num_heads // model.num_kv_heads
    for n in range(model.num_heads):
        query = y @ p["q"][:, n]
        key, value = y @ p["kv"][:, 0, n // group], y @ p["kv"][:, 1, n // group]
        if theta is not None:
            query, key = rope(query, theta), rope(key, theta)
        for t in range(len(x)):
            visible = range(t + 1) if causal else range(len(x))
            score = np.array(
                [
                    scale * query[t] @ key[s] + (bias[n, t, s] if bias is not None else 0)
                    for s in visible
                ]
            )
            weight = np.exp(score - score.max())
            mixed = sum(w * value[s] for w, s in zip(weight / weight.sum(), visible, strict=True))
            out[t] += mixed @ p["out"][n]
    return out


def cross_attention(x, encoded, p, model):
    y = norm(x, p["norm"], model)
    out = np.zeros_like(x)
    for n in range(model.num_heads):
        query, key, value = y @ p["q"][:, n], encoded @ p["kv"][:, 0, n], encoded @ p["kv"][:, 1, n]
        for t in range(len(x)):
            score = np.array([query[t] @ key[s] for s in range(len(encoded))])
            weight = np.exp(score - score.max())
            mixed = sum(w * v for w, v in zip(weight / weight.sum(), value, strict=True))
            out[t] += mixed @ p["out"][n]
    return out


def rope(x, theta):
    """Turns the pair (i, i + H/2) of the token at position t by t * theta^(-2i/H)."""
    half = x.shape[1] // 2
    out = np.zeros_like(x)
    for t in range(len(x)):
        for i in range(half):
            angle = t * theta ** (-2 * i / x.shape[1])
            a, b = x[t, i], x[t, i + half]
            out[t, i] = a * math.cos(angle) - b * math.sin(angle)
            out[t, i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def bias_of(stack, model, length, *, bidirectional):
    table = stack["relative_bias"]  # [buckets, N]
    out = np.zeros((table.shape[1], length, length))
    for t in range(length):
        for s in range(length):
            out[:, t, s] = table[
                bucket(
                    s - t,
                    model.relative_attention_num_buckets,
                    model.relative_attention_max_distance,
                    bidirectional,
                )
            ]
    return out


def bucket(distance, num_buckets, max_distance, bidirectional):
    """T5's bucket of key - query, in whole numbers: no logarithm is rounded."""
    first, behind = 0, -distance
    if bidirectional:
        num_buckets //= 2
        if behind < 0:
            first, behind = num_buckets, -behind
    behind = max(behind, 0)
    exact = num_buckets // 2
    if behind < exact:
        return first + behind
    steps = num_buckets - exact
    step = 0  # the largest with exact * (max_distance / exact)^(step / steps) <= behind
    while step < steps - 1 and max_distance ** (step + 1) * exact ** (steps - step - 1) <= (
        behind**steps
    ):
        step += 1
    return first + exact + step
