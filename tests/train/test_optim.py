"""Schedules have the documented numbers; optimizers are their definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import stream

from t5sft import errors
from t5sft.parallel import rules as rules_lib
from t5sft.train import optim, state


def rates(steps, **options):
    schedule = optim.schedule(**{"peak": 1.0, "total_steps": 6, "warmup_steps": 2, **options})
    return [float(schedule(jnp.int32(step))) for step in range(steps)]


def test_schedule_has_the_numbers_of_its_example():
    np.testing.assert_allclose(rates(6, shape="linear"), [0.5, 1, 0.8, 0.6, 0.4, 0.2], rtol=1e-6)


def slow_rate(step, shape, peak, total, warmup, end):
    """The definition; `step` counts from 0, and the rate is that of step + 1 steps done."""
    done, warmup = step + 1, max(warmup, 1)
    if done <= warmup:
        return peak * done / warmup
    part = min((done - warmup) / max(total - warmup + 1, 1), 1.0)
    if shape == "constant":
        return peak
    if shape == "linear":
        return peak * (1 - (1 - end) * part)
    if shape == "cosine":
        return peak * (end + (1 - end) * (1 + math.cos(math.pi * part)) / 2)
    return peak * math.sqrt(warmup / done)


@pytest.mark.parametrize("warmup", [0, 1, 3, 9])
@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("shape", optim.Shape.__args__)
def test_schedule_agrees_with_the_definition(shape, end, warmup):
    options = {"shape": shape, "peak": 0.3, "warmup_steps": warmup, "end_fraction": end}
    expected = [slow_rate(step, shape, 0.3, 6, warmup, end) for step in range(12)]
    np.testing.assert_allclose(rates(12, **options), expected, rtol=1e-5, atol=1e-8)
    assert max(expected) == 0.3  # the peak is reached, also without warm-up


def test_unknown_shape_names_the_nearest():
    with pytest.raises(errors.ConfigError, match=r"'cosin' \(did you mean 'cosine'\?\).*linear"):
        optim.schedule(peak=1.0, total_steps=5, shape="cosin")


def apply(optimizer, params, gradients):
    now = optimizer.transform.init(params)
    for gradient in gradients:
        updates, now = optimizer.transform.update(gradient, now, params)
        params = optax.apply_updates(params, updates)
    return params


def slow_adamw(params, gradients, rate, b1, b2, eps, decay, clip):
    """arXiv:1711.05101, algorithm 2, after clipping by global norm; in float64."""
    params = {name: np.float64(x) for name, x in params.items()}
    mean, square = ({name: 0.0 * x for name, x in params.items()} for _ in range(2))
    for step, gradient in enumerate(gradients):
        norm = math.sqrt(sum(np.square(np.float64(g)).sum() for g in gradient.values()))
        for name in params:
            g = np.float64(gradient[name]) * min(1.0, clip / norm)
            mean[name] = b1 * mean[name] + (1 - b1) * g
            square[name] = b2 * square[name] + (1 - b2) * g * g
            m = mean[name] / (1 - b1 ** (step + 1))
            v = square[name] / (1 - b2 ** (step + 1))
            shrink = decay * params[name] if name == "kernel" else 0.0
            params[name] = params[name] - rate(step) * (m / (np.sqrt(v) + eps) + shrink)
    return params


def test_adamw_agrees_with_the_definition():
    rng = np.random.default_rng(0)

    def draw():
        shapes = {"kernel": (4, 3), "norm": (4,), "scale": (4,), "bias": (3,)}
        return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}

    params, gradients = draw(), [draw() for _ in range(5)]
    rate = optim.schedule(peak=0.1, total_steps=5, warmup_steps=2)
    optimizer = optim.adamw(
        learning_rate=rate, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.5, clip_norm=1.5
    )
    got = apply(optimizer, params, gradients)
    expected = slow_adamw(params, gradients, rate, 0.8, 0.9, 1e-3, 0.5, clip=1.5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, expected)


@pytest.mark.parametrize("model", [stream.T5, stream.QWEN], ids=["t5", "decoder"])
def test_weight_decay_leaves_the_scales_of_norms_and_biases(model):
    names = set()
    decays = optim._decays(model.abstract()[0])
    for path, decay in jax.tree_util.tree_leaves_with_path(decays):
        names.add(path[-1].key)
        assert decay == (not path[-1].key.endswith(("norm", "bias"))), jax.tree_util.keystr(path)
    assert {"norm", "embedding", "head", "q", "kv", "out", "wi", "wo"} < names
    assert names & {"q_bias", "relative_bias"}


@pytest.mark.parametrize("make", [optim.adamw, optim.adafactor])
def test_without_gradient_kernels_shrink_and_scales_stay(make):
    params = {"kernel": np.ones((4, 3), np.float32), "norm": np.ones(4, np.float32)}
    optimizer = make(learning_rate=lambda step: 0.1, weight_decay=0.1)
    got = apply(optimizer, params, [jax.tree.map(np.zeros_like, params)])
    assert np.all(got["kernel"] < 1) and np.all(got["norm"] == 1)


def test_clipping_bounds_the_norm_and_leaves_small_gradients():
    params = {"a": np.zeros(3, np.float32), "b": np.zeros(4, np.float32)}
    large = {"a": np.float32([0, 30, 0]), "b": np.float32([0, 0, 40, 0])}
    transform = optim._with_clipping(optax.identity(), 2.0)
    clipped, _ = transform.update(large, transform.init(params))
    np.testing.assert_allclose(clipped["a"][1], 1.2, rtol=1e-6)
    np.testing.assert_allclose(clipped["b"][2], 1.6, rtol=1e-6)
    small = jax.tree.map(lambda x: x / 100, large)
    kept, _ = transform.update(small, transform.init(params))
    jax.tree.map(np.testing.assert_array_equal, kept, small)
    unclipped = optim.adamw(learning_rate=lambda _: 1.0, clip_norm=None)
    assert len(unclipped.transform.init(params)) == len(optax.adamw(1.0).init(params))


@pytest.mark.parametrize("make", [optim.adamw, optim.adafactor])
def test_optimizer_state_has_shardings_on_a_mesh(make):
    """Moments lie as their parameters do; Adafactor's row and column sums on every device."""
    model = stream.wide(stream.T5)
    optimizer = make(learning_rate=lambda step: 0.1)
    like = state.abstract(model, optimizer, stream.mesh("4x2"), rules_lib.DEFAULT_RULES)
    where = [leaf.sharding for leaf in jax.tree.leaves(like.params)]
    moments = [leaf for leaf in jax.tree.leaves(like.opt_state) if leaf.ndim]
    if make is optim.adamw:
        assert [leaf.sharding for leaf in moments] == 2 * where
    num_split = sum(not leaf.sharding.is_fully_replicated for leaf in moments)
    assert num_split >= 2
    sizes = {leaf.shape for leaf in jax.tree.leaves(like.params)}
    num_factors = sum(leaf.shape not in sizes for leaf in moments)
    assert (num_factors > 5) == (make is optim.adafactor)
    for leaf in jax.tree.leaves(like):
        leaf.sharding.shard_shape(leaf.shape)  # raises where it does not divide
