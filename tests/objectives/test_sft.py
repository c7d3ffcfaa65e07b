"""Only what is to be learnt has a loss and a gradient, and both are finite always."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import stream

from t5sft.objectives import sft

BOTH = pytest.mark.parametrize("name", stream.BOTH)


class Given:
    """A model whose hidden states are its parameters."""

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
