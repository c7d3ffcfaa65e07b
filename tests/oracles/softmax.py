"""Attention and its gradients by the definition in NumPy float64, and cases to try it on."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes and features; `rows` are the lengths of the segments of each row, 0 for padding."""

    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 8
    length: int
    source: int | None = None  # cross-attention: S, else T
    causal: bool = True
    window: int | None = None
    soft_cap: float | None = None
    biased: bool = False


def segments(rng, rows, length):
    """[B, length] of segment ids: full, packed with padding, one segment, padding only."""
    out = np.zeros((rows, length), np.int32)
    for b in range(rows - 1):
        cuts = np.sort(rng.integers(1, length + 1, 3))
        for segment, (begin, end) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True), start=1):
            out[b, begin:end] = segment
    out[0] = 1  # the last row stays padding
    return out


def arrays(case, seed=0, rows=3):
    """Returns query, key, value, segments of both, line [N, 2T] or None, and a cotangent."""
    rng = np.random.default_rng(seed)
    n, k, h = case.num_heads, case.num_kv_heads, case.head_dim
    t, s = case.length, case.source or case.length
    query, cotangent = rng.standard_normal((2, rows, t, n, h)).astype(np.float32)
    key, value = rng.standard_normal((2, rows, s, k, h)).astype(np.float32)
    query_segments = segments(rng, rows, t)
    key_segments = segments(rng, rows, s) if case.source else query_segments
    line = 2 * rng.standard_normal((n, t + s)).astype(np.float32) if case.biased else None
    return (query, key, value, query_segments, key_segments, line), cotangent


def attention(case, query, key, value, query_segments, key_segments, line, cotangent):
    """Output [B, T, N, H] and the gradients of its product with the cotangent, row by row.

    Returns (output, d_query, d_key, d_value, d_line).
    """
    query, key, value, cotangent = (x.astype(np.float64) for x in (query, key, value, cotangent))
    out, d_query, d_key, d_value = (np.zeros_like(x) for x in (query, query, key, value))
    d_line = None if line is None else np.zeros(line.shape)
    s = key.shape[1]
    for b, t, n in np.ndindex(query.shape[:3]):
        g = n // (query.shape[2] // key.shape[2])
        behind = t - np.arange(s)
        seen = (key_segments[b] == query_segments[b, t]) & (key_segments[b] > 0)
        if case.causal:
            seen &= behind >= 0
        if case.window is not None:
            seen &= behind < case.window
        visible = np.flatnonzero(seen)
        if not visible.size:
            continue
        keys, values = key[b, visible, g], value[b, visible, g]
        scores, slope = keys @ query[b, t, n], 1.0
        if case.soft_cap is not None:
            squeezed = np.tanh(scores / case.soft_cap)
            scores, slope = case.soft_cap * squeezed, 1 - squeezed**2
        places = behind[visible] + s
        if line is not None:
            scores = scores + line[n, places]
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[b, t, n] = weights @ values
        given = cotangent[b, t, n]
        d_scores = weights * (values @ given - out[b, t, n] @ given)
        d_value[b, visible, g] += weights[:, None] * given
        d_query[b, t, n] = (d_scores * slope) @ keys
        d_key[b, visible, g] += (d_scores * slope)[:, None] * query[b, t, n]
        if line is not None:
            np.add.at(d_line[n], places, d_scores)
    return out, d_query, d_key, d_value, d_line
