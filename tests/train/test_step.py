"""One step is the same on every mesh, in any number of microbatches, packed or not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import stream

from t5sft import errors
from t5sft.data import packing
from t5sft.objectives import sft
from t5sft.parallel import rules as rules_lib
from t5sft.train import optim, state, step

BOTH = pytest.mark.parametrize("name", stream.BOTH)
B = 32
NUM_STEPS = 5


@functools.cache
def trained(name, mesh_name, microbatches):
    """Losses and parameters of five AdamW steps, on the host."""
    model = stream.BOTH[name]
    # A larger epsilon: Adam divides by a root near 0 where a gradient is rounding error alone.
    optimizer = stream.adamw(eps=1e-4)
    program = stream.program(
        model, optimizer, batch_size=B, mesh_name=mesh_name, microbatches=microbatches
    )
    now, losses = stream.start(model, optimizer, program.like), []
    for seed in range(NUM_STEPS):
        batch = jax.device_put(stream.batch(model.layout, B, seed), program.shardings)
        now, metrics = program.update(now, batch)
        losses.append(float(metrics["loss"][0]) / float(metrics["loss"][1]))
    assert int(now.step) == NUM_STEPS
    return losses, jax.device_get(now.params)


def everywhere():
    quick = {("t5", "1x2x2x2", 1), ("t5", "2x2+2", 4), ("decoder", "1x2x2x2", 2)}
    for name in stream.BOTH:
        for mesh_name in stream.MESHES:
            for microbatches in (1, 2, 4):
                case = (name, mesh_name, microbatches)
                if case != (name, "1", 1):
                    marks = () if case in quick else pytest.mark.slow
                    yield pytest.param(*case, marks=marks)


@pytest.mark.parametrize("name, mesh_name, microbatches", list(everywhere()))
def test_same_on_every_mesh_and_in_microbatches(name, mesh_name, microbatches):
    losses, params = trained(name, mesh_name, microbatches)
    expected_losses, expected = trained(name, "1", 1)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    begun = stream.params(stream.BOTH[name])

    def compare(path, got, want, first):
        assert not np.array_equal(got, first), jax.tree_util.keystr(path)  # it was trained
        # On Intel one of 512 numbers lay 1.1e-6 of the largest away, Adam's root being near 0.
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-6 * np.abs(want).max())

    jax.tree_util.tree_map_with_path(compare, params, expected, begun)


@functools.cache
def sums(model):
    """The jitted function (params, batch) -> (gradient, terms)."""
    return jax.jit(
        lambda params, batch: step.sums(model, sft.sft, params, batch, None, 1),
        compiler_options=stream.quickly(),
    )


@BOTH
def test_packed_equals_one_example_per_row(name):
    """Eight examples in few rows, or in a row each; what is left of eight rows is padding."""
    model = stream.BOTH[name]
    examples = stream.examples(model.layout, 8, seed=1)
    is_decoder = name == "decoder"  # each token but the last takes a place
    costs = np.array([[len(e.inputs.ids), len(e.targets.ids) - is_decoder] for e in examples])
    packed = [[examples[i] for i in row] for row in packing.pack(costs, (stream.S, stream.T))]
    assert len(packed) <= 6 and max(map(len, packed)) > 1
    packed.insert(1, [])
    apart = [[example] for example in examples]
    (packed_gradient, packed_terms), (gradient, terms) = (
        sums(model)(
            stream.params(model), stream.convert(model.layout, rows + [[]] * (8 - len(rows)))
        )
        for rows in (packed, apart)
    )
    tokens = sum(sum(example.targets.weights) for example in examples)
    assert float(terms.weight) == float(packed_terms.weight) == tokens
    np.testing.assert_allclose(packed_terms.loss, terms.loss, rtol=1e-6)
    np.testing.assert_allclose(packed_terms.metrics["nll"], terms.metrics["nll"], rtol=1e-6)
    assert packed_terms.metrics["accuracy"] == terms.metrics["accuracy"]

    def compare(got, want):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())

    jax.tree.map(compare, packed_gradient, gradient)


@functools.cache
def dropping():
    """A decoder with dropout under plain gradient descent: (model, optimizer, program)."""
    model = dataclasses.replace(stream.DECODER, dropout_rate=0.5)
    optimizer = optim.Optimizer(optax.sgd(0.5), lambda step: jnp.float32(0.5))
    return model, optimizer, stream.program(model, optimizer, batch_size=4, microbatches=2)


def begin(at=0):
    model, optimizer, program = dropping()
    now = stream.start(model, optimizer, program.like)
    return now._replace(step=jax.device_put(np.int32(at), program.like.step.sharding))


def test_a_batch_without_weight_changes_nothing_but_the_step():
    batch = stream.batch("decoder", 4)
    batch["decoder_loss_weights"][:] = 0.0
    now, metrics = dropping()[2].update(begin(), batch)
    assert int(now.step) == 1
    jax.tree.map(np.testing.assert_array_equal, now.params, stream.params(stream.DECODER))
    assert all(np.isfinite(value) for pair in metrics.values() for value in pair)
    assert [float(x) for x in metrics["loss"]] == [0.0, 0.0]


def test_state_is_donated():
    before = begin()
    after, _ = dropping()[2].update(before, stream.batch("decoder", 4))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_dropout_depends_on_the_step_and_on_nothing_else():
    def loss(at):
        metrics = dropping()[2].update(begin(at), stream.batch("decoder", 4))[1]
        return float(metrics["loss"][0])

    assert loss(0) == loss(0) != loss(1)


def test_microbatches_drop_differently():
    """The same row twice, in two microbatches: with one mask both would cost the same."""
    model = dropping()[0]
    (example,) = stream.examples("decoder", 1)
    batch = stream.convert("decoder", [[example], [example]])
    seen = []

    def objective(model, params, part, key):
        seen.append(key)
        terms = sft.sft(model, params, part, key)
        return terms._replace(metrics={"bits": (jax.random.uniform(key), terms.weight)})

    def value(key):
        terms = step.sums(model, objective, stream.params(model), batch, key, 2)[1]
        return terms.metrics["bits"][0]

    key = jax.random.key(0)
    keys = [jax.random.fold_in(key, i) for i in range(2)]
    expected = sum(float(jax.random.uniform(k)) for k in keys)
    got = jax.jit(value, compiler_options=stream.quickly())(key)
    np.testing.assert_allclose(float(got), expected, rtol=1e-6)


def test_an_adafactor_step_runs_on_a_mesh():
    model = stream.wide(stream.DECODER)
    optimizer = optim.adafactor(learning_rate=lambda step: 0.01)
    program = stream.program(model, optimizer, batch_size=8, mesh_name="4x2")
    now, losses = stream.start(model, optimizer, program.like), []
    for _ in range(3):
        now, metrics = program.update(now, stream.batch(model.layout, 8))
        losses.append(float(metrics["loss"][0]))
    assert losses[2] < losses[1] < losses[0]
    assert (
        jax.tree.map(lambda leaf: leaf.sharding, now.opt_state)
        == state.shardings(program.like).opt_state
    )


@pytest.mark.parametrize(
    "batch_size, microbatches, mesh_name, near",
    [(33, 1, "8x1", 32), (37, 1, "8x1", 40), (3, 1, "8x1", 8), (16, 4, "4x2", None),
     (20, 4, "4x2", 16), (6, 1, "1x2x2", None), (7, 2, "1x2x2", 8), (0, 1, "1", 1)],
)  # fmt: skip
def test_batch_size_that_does_not_divide_names_the_nearest(
    batch_size, microbatches, mesh_name, near
):
    mesh = stream.mesh(mesh_name)
    if near is None:
        return step.check_batch(batch_size, microbatches, mesh, rules_lib.DEFAULT_RULES)
    with pytest.raises(errors.ConfigError, match=rf"batch_size {batch_size} .*use {near}$"):
        step.check_batch(batch_size, microbatches, mesh, rules_lib.DEFAULT_RULES)


@pytest.mark.parametrize("microbatches", [0, -1])
def test_no_microbatch_is_refused(microbatches):
    with pytest.raises(errors.ConfigError, match="microbatches"):
        step.check_batch(8, microbatches, stream.mesh("1"), rules_lib.DEFAULT_RULES)
