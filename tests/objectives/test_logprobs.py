"""Cross-entropy is its definition, a sum, and safe where nothing is learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft.objectives import logprobs

B, T, V = 3, 4, 6


def batch(seed, rows=B):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((rows, T, V), np.float32)
    weights = rng.choice(np.float32([0, 0.5, 1]), (rows, T))
    return logits, rng.integers(0, V, (rows, T)), weights


def slow_cross_entropy(logits, targets, weights, z_loss):
    """The definition, one token at a time, in float64: loss, weight, nll, number right."""
    loss = weight = nll = right = 0.0
    for b, t in np.ndindex(targets.shape):
        p = np.exp(logits[b, t].astype(np.float64))
        w = float(weights[b, t])
        nll -= w * np.log(p[targets[b, t]] / p.sum())
        loss += w * (-np.log(p[targets[b, t]] / p.sum()) + z_loss * np.log(p.sum()) ** 2)
        right += w * (p[targets[b, t]] == p.max())
        weight += w
    return loss, weight, nll, right


def numbers(terms):
    nll, accuracy = terms.metrics["nll"], terms.metrics["accuracy"]
    assert nll[1] == accuracy[1] == terms.weight
    return [float(x) for x in (terms.loss, terms.weight, nll[0], accuracy[0])]


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_definition(strict_dtypes, seed, z_loss):
    logits, targets, weights = map(jnp.asarray, batch(seed))
    got = numbers(logprobs.cross_entropy(logits, targets, weights, z_loss=z_loss))
    np.testing.assert_allclose(got, slow_cross_entropy(*batch(seed), z_loss), rtol=2e-6)


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_gradient_agrees_with_the_definition(z_loss):
    logits, targets, weights = batch(3)
    got = jax.grad(lambda x: logprobs.cross_entropy(x, targets, weights, z_loss=z_loss).loss)(
        logits
    )
    exp = np.exp(logits.astype(np.float64))
    softmax = exp / exp.sum(-1, keepdims=True)
    of_log_z = 1 + 2 * z_loss * np.log(exp.sum(-1, keepdims=True))
    expected = weights[..., None] * (softmax * of_log_z - np.eye(V)[targets])
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_worked_example():
    weights = jnp.array([[0.0, 1.0, 1.0]])
    terms = logprobs.cross_entropy(jnp.zeros((1, 3, 2)), jnp.array([[1, 0, 1]]), weights)
    np.testing.assert_allclose(float(terms.loss), 1.386, atol=5e-4)
    assert float(terms.weight) == 2.0


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 4), z_loss=st.sampled_from([0.0, 0.1]))
def test_microbatches_add_up(seed, cut, z_loss):
    whole = batch(seed, rows=5)
    parts = [[x[:cut] for x in whole], [x[cut:] for x in whole]]
    first, rest = (numbers(logprobs.cross_entropy(*part, z_loss=z_loss)) for part in parts)
    expected = numbers(logprobs.cross_entropy(*whole, z_loss=z_loss))
    np.testing.assert_allclose(np.add(first, rest), expected, rtol=1e-5, atol=1e-5)


def test_a_tie_counts_as_right():
    """Targets: one of two equal best, a worse one, the only best; the last is not learnt."""
    logits = jnp.array([[[2.0, 2, 1], [2, 2, 1], [0, 0, 5], [0, 0, 5]]])
    terms = logprobs.cross_entropy(
        logits, jnp.array([[1, 2, 2, 2]]), jnp.array([[1.0, 1.0, 0.5, 0.0]])
    )
    assert [float(x) for x in terms.metrics["accuracy"]] == [1.5, 2.5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_logits_neither_overflow_nor_vanish(dtype):
    logits = jnp.array([[[30_000.0, 0, -30_000], [-30_000, -30_000, -30_000]]], dtype)
    terms = logprobs.cross_entropy(logits, jnp.array([[1, 2]]), jnp.ones((1, 2)))
    expected = float(logits[0, 0, 0]) + np.log(3)
    np.testing.assert_allclose(float(terms.loss), expected, rtol=1e-6)
    assert terms.loss.dtype == jnp.float32  # sums of bfloat16 would stop growing at 256


def test_no_weight_gives_zero_and_no_gradient():
    logits, targets, _ = batch(4)
    nothing = np.zeros((B, T), np.float32)
    value, gradient = jax.value_and_grad(
        lambda x: logprobs.cross_entropy(x, targets, nothing, z_loss=0.1).loss
    )(logits)
    assert float(value) == 0.0 and not np.any(gradient)


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_refuses_arrays_that_do_not_fit(wrong):
    arrays = list(batch(0))
    arrays[wrong] = arrays[wrong][:, : T - 1]
    with pytest.raises(ValueError, match=r"\[B, T, V\].*\(3, 3") as raised:
        logprobs.cross_entropy(*arrays)
    assert "(3, 4" in str(raised.value)
