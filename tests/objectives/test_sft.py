"""Only what is to be learnt has a loss and a gradient, and both are finite always."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import stream

from t5sft.objectives import sft
from t5sft.train import optim, step

BOTH = pytest.mark.parametrize("name", stream.BOTH)


class Given:
    """A model whose hidden states are its parameters."""

    vocab_size = 5

    def hidden(self, params, batch, *, dropout_key):
        return params["hidden"]

    def unembed(self, params, hidden):
        return jnp.einsum("BTD,DV->BTV", hidden, params["head"])


@functools.cache
def gradient(model):
    """The jitted function (params, batch) -> (loss, gradient)."""
    loss = jax.value_and_grad(lambda params, batch: sft.sft(model, params, batch, None).loss)
    return jax.jit(loss, compiler_options=stream.quickly())


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 3e38])
def test_unlearnt_places_contribute_exactly_nothing(bad):
    rng = np.random.default_rng(0)
    params = {
        "hidden": rng.standard_normal((2, 3, 4), np.float32),
        "head": rng.standard_normal((4, 5), np.float32),
    }
    batch = {
        "decoder_target_tokens": rng.integers(0, 5, (2, 3)),
        "decoder_loss_weights": np.float32([[1, 0, 1], [0, 1, 0]]),
    }
    spoilt = np.where(batch["decoder_loss_weights"][..., None] > 0, params["hidden"], bad)
    both = [
        jax.value_and_grad(lambda p: sft.sft(Given(), p, batch, None, z_loss=0.1).loss)(p)
        for p in (params, params | {"hidden": spoilt})
    ]
    jax.tree.map(np.testing.assert_array_equal, *both)
    value, grads = both[1]
    assert np.isfinite(value) and np.isfinite(grads["head"]).all()
    assert np.array_equal(np.any(grads["hidden"], axis=-1), batch["decoder_loss_weights"] > 0)


@BOTH
def test_unlearnt_targets_do_not_matter(name):
    model = stream.BOTH[name]
    batch = stream.batch(model.layout, 4)
    unlearnt = batch["decoder_loss_weights"] == 0
    assert unlearnt.any()
    other = dict(batch, decoder_target_tokens=np.where(unlearnt, 9, batch["decoder_target_tokens"]))
    params = stream.params(model)
    jax.tree.map(
        np.testing.assert_array_equal,
        gradient(model)(params, batch),
        gradient(model)(params, other),
    )


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_and_fully_masked_rows_are_finite(name, dtype):
    """Row 0 of the batch is all padding, then a row whose tokens all have weight 0."""
    model = dataclasses.replace(stream.BOTH[name], dtype=dtype)
    batch = stream.batch(model.layout, 4)
    assert not batch["decoder_segment_ids"][0].any()
    batch["decoder_loss_weights"][1] = 0.0
    for part in (batch, dict(batch, decoder_loss_weights=0 * batch["decoder_loss_weights"])):
        value, grads = gradient(model)(stream.params(stream.BOTH[name]), part)
        assert np.isfinite(value) and value.dtype == jnp.float32
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        is_learnt = bool(part["decoder_loss_weights"].any())
        assert is_learnt == (float(value) > 0) == any(map(np.any, jax.tree.leaves(grads)))


@BOTH
def test_loss_of_step_0_is_near_ln_v(name):
    """Logits of variance 0 (Llama's start) cost ln V, of variance 1 (T5's) half a nat more."""
    model = stream.BOTH[name]
    batch = stream.batch(model.layout, 4, seed=1)
    loss = float(gradient(model)(stream.params(model), batch)[0])
    per_token = loss / batch["decoder_loss_weights"].sum()
    expected = math.log(stream.V) + {"t5": 0.5, "decoder": 0.0}[name]
    assert abs(per_token - expected) < {"t5": 0.8, "decoder": 0.05}[name]


def slow_means(nll, weights, segments):
    """The mean of every example, one token at a time."""
    out = []
    for row in range(len(nll)):
        for segment in sorted(set(segments[row]) - {0}):
            places = [t for t in range(nll.shape[1]) if segments[row, t] == segment]
            total = sum(weights[row, t] for t in places)
            if total:
                out.append(sum(nll[row, t] * weights[row, t] for t in places) / total)
    return out


def test_by_example_is_the_sum_of_the_means_of_the_examples():
    rng = np.random.default_rng(0)
    params = {
        "hidden": rng.standard_normal((2, 8, 4), np.float32),
        "head": rng.standard_normal((4, 5), np.float32),
    }
    batch = {
        "decoder_target_tokens": rng.integers(0, 5, (2, 8)),
        "decoder_loss_weights": np.float32([[0, 1, 0.5, 0, 2, 2, 0, 0], [0, 0, 1, 1, 1, 1, 1, 0]]),
        "decoder_segment_ids": np.int32([[1, 1, 1, 2, 2, 2, 3, 0], [1, 1, 2, 2, 2, 2, 2, 0]]),
    }
    logits = np.einsum("BTD,DV->BTV", params["hidden"], params["head"]).astype(np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, batch["decoder_target_tokens"][..., None], -1)[..., 0]
    weights, segments = batch["decoder_loss_weights"], batch["decoder_segment_ids"]
    means = slow_means(log_z - picked, weights, segments)
    terms = sft.sft(Given(), params, batch, None, normalize="example")
    assert len(means) == 3  # segment 3 of row 0 and segment 1 of row 1 have nothing to learn
    np.testing.assert_allclose(terms.loss, sum(means), rtol=1e-5)
    assert float(terms.weight) == 3
    tokens = sft.sft(Given(), params, batch, None)
    assert float(tokens.weight) == weights.sum()
    assert terms.metrics == tokens.metrics  # per token, whatever the loss is a mean over
    places = sft.sft(Given(), params, batch, None, normalize="batch_tokens")
    assert float(places.loss) == float(tokens.loss) and float(places.weight) == 16


@BOTH
def test_by_example_does_not_see_packing_or_microbatches(name):
    """Four examples of unequal length in one row, in a row each, and in two microbatches."""
    model = stream.BOTH[name]
    examples = [e for e in stream.examples(model.layout, 6, seed=2) if len(e.targets.ids) <= 7][:3]
    objective = functools.partial(sft.sft, normalize="example")

    @functools.cache
    def gradient(microbatches):
        return jax.jit(
            lambda batch: step.sums(
                model, objective, stream.params(model), batch, None, microbatches
            ),
            compiler_options=stream.quickly(),
        )

    rows = {"packed": [examples[:2], examples[2:], [], []], "apart": [[e] for e in examples] + [[]]}
    packed, apart = (stream.convert(model.layout, rows[one]) for one in ("packed", "apart"))
    want, terms = gradient(1)(apart)
    assert float(terms.weight) == len(examples)
    for batch, microbatches in ((packed, 1), (apart, 2), (packed, 2)):
        got, other = gradient(microbatches)(batch)
        assert float(other.weight) == len(examples)
        np.testing.assert_allclose(other.loss, terms.loss, rtol=1e-6)

        def compare(a, b):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * np.abs(b).max())

        jax.tree.map(compare, got, want)


@pytest.mark.parametrize("normalize", ["example", "batch_tokens"])
def test_normalized_training_is_the_same_on_a_mesh(normalize):
    model = stream.BOTH["decoder"]
    objective = functools.partial(sft.sft, normalize=normalize)
    # Plain descent: Adam would divide rounding errors by roots near 0.
    descent = optim.Optimizer(optax.sgd(0.5), lambda step: jnp.float32(0.5))
    after = []
    for mesh_name, microbatches in (("1", 1), ("4x2", 2)):
        program = stream.program(
            model,
            descent,
            batch_size=16,
            mesh_name=mesh_name,
            microbatches=microbatches,
            objective=objective,
        )
        now = stream.start(model, descent, program.like)
        batch = jax.device_put(stream.batch(model.layout, 16, 3), program.shardings)
        now, metrics = program.update(now, batch)
        after.append((metrics["loss"], jax.device_get(now.params)))

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())

    jax.tree.map(compare, *after)
