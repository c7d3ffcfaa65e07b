"""What a sampler keeps and draws, on worked examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
