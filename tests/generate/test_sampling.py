"""What a sampler keeps and draws, on worked examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.generate import sampling

LOGITS = jnp.log(jnp.array([[0.15, 0.5, 0.05, 0.3]]))


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize(
    "settings, kept",
    [
        (dict(), [0, 1, 2, 3]),
        (dict(top_k=2), [1, 3]),
        (dict(top_k=9), [0, 1, 2, 3]),
        (dict(top_p=0.8 - 1e-6), [1, 3]),
        (dict(top_p=0.81), [0, 1, 3]),
        (dict(top_p=1e-9), [1]),
        (dict(top_k=2, top_p=0.6), [1]),
        (dict(min_p=0.25), [0, 1, 3]),
        (dict(min_p=0.31), [1, 3]),
        (dict(min_p=1.0), [1]),
        (dict(top_k=2, min_p=0.25), [1, 3]),
    ],
)
def test_keeps_as_documented(settings, kept):
    logits = sampling.Sampler(**settings).keep(LOGITS)
    assert np.flatnonzero(np.isfinite(logits[0])).tolist() == kept


def test_equals_are_kept_together():
    logits = sampling.Sampler(top_k=1).keep(jnp.array([[1.0, 3.0, 3.0]]))
    np.testing.assert_array_equal(logits, [[-np.inf, 3.0, 3.0]])


def test_repeated_tokens_are_less_likely():
    """The CTRL rule: positive logits are divided, negative ones multiplied."""
    logits, seen = jnp.array([[3.0, 2.0, -1.0, -1.0]]), jnp.array([[True, False, True, False]])
    sampler = sampling.Sampler(repetition_penalty=2.0)
    assert sampler(logits, keys(0, 1)).tolist() == [0]
    assert sampler(logits, keys(0, 1), seen).tolist() == [1]
    sampler = sampling.Sampler(repetition_penalty=2.0, temperature=1e-3, min_p=0.5)
    assert sampler(-logits, keys(0, 1), seen[:, ::-1]).tolist() == [2]


def test_greedy_takes_the_first_of_the_most_likely():
    tokens = sampling.Sampler()(jnp.array([[1.0, 2.0, 2.0], [3.0, 0.0, 1.0]]), keys(0, 2))
    assert tokens.tolist() == [1, 0]
    assert sampling.Sampler()(jnp.array([[jnp.nan, 1.0]]), keys(0, 1)).tolist() == [1]


def test_frequencies_are_the_softmax_of_logits_over_temperature():
    sampler = sampling.Sampler(temperature=2.0)
    tokens = sampler(jnp.repeat(LOGITS, 4000, axis=0), keys(0, 4000))
    got = np.bincount(tokens, minlength=4) / 4000
    want = np.exp(LOGITS[0] / 2) / np.exp(LOGITS[0] / 2).sum()
    np.testing.assert_allclose(got, want, atol=4 * np.sqrt(0.25 / 4000))  # four standard errors


def test_a_row_draws_the_same_among_any_neighbours():
    sampler = sampling.Sampler(temperature=1.0)
    together = sampler(jnp.repeat(LOGITS, 5, axis=0), keys(0, 5))
    for row in range(5):
        assert sampler(LOGITS, keys(0, 5)[row : row + 1])[0] == together[row]


@pytest.mark.parametrize(
    "settings",
    [
        dict(temperature=-1),
        dict(temperature=float("nan")),
        dict(top_k=-1),
        dict(top_p=0),
        dict(top_p=1.1),
        dict(min_p=-0.1),
        dict(min_p=1.1),
        dict(repetition_penalty=0),
    ],
    ids=str,
)
def test_settings_out_of_range_are_errors(settings):
    with pytest.raises(errors.ConfigError, match=f"{[*settings][0]} = .*; Sampler; use"):
        sampling.Sampler(**settings)


def slow_draw(sampler, logits, noise, seen):
    """One row in float64: (token, smallest distance to where it would be decided otherwise)."""
    z = logits.astype(np.float64)
    r = sampler.repetition_penalty
    z = np.where(seen, np.where(z > 0, z / r, z * r), z)
    if sampler.temperature == 0:
        top = np.sort(z)[::-1]
        return int(z.argmax()), top[0] - top[1]
    z, margin = z / sampler.temperature, np.inf
    kept = np.ones(len(z), bool)
    if sampler.top_k:
        kept[np.argsort(-z, kind="stable")[sampler.top_k :]] = False
    p = np.where(kept, np.exp(z - z.max()), 0.0)
    p /= p.sum()
    if sampler.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
        margin = np.abs(before - sampler.top_p).min()
        kept[order[before >= sampler.top_p]] = False
    if sampler.min_p:
        margin = min(margin, np.abs(p / p.max() - sampler.min_p).min())
        kept &= p >= sampler.min_p * p.max()
    drawn = np.where(kept, z + noise, -np.inf)
    best = np.sort(drawn)[::-1]
    return int(drawn.argmax()), min(margin, best[0] - best[1])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.4]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    penalty=st.sampled_from([1.0, 0.8, 1.7]),
)
def test_all_settings_together_agree_with_a_slow_draw(
    seed, temperature, top_k, top_p, min_p, penalty
):
    """In the documented order; the Gumbel noise of the row's key decides (argmax of z + noise)."""
    b, v = 4, 40
    rng = np.random.default_rng(seed)
    logits, seen = rng.normal(0, 2, (b, v)).astype(np.float32), rng.random((b, v)) < 0.3
    sampler = sampling.Sampler(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (v,), jnp.float32))(keys(seed % 97, b))
    got = sampler(jnp.asarray(logits), keys(seed % 97, b), jnp.asarray(seen)).tolist()
    for row in range(b):
        want, margin = slow_draw(sampler, logits[row], np.asarray(noise[row]), seen[row])
        assume(margin > 1e-5)  # else rounding decides
        assert got[row] == want
