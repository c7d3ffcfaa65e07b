"""The loss in parts is the whole loss, gradients and metrics too, and holds no whole logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import stream

from t5sft.objectives import chunked, logprobs, sft
from t5sft.parallel import explicit, mesh, rules
from t5sft.train import step

B, T, D, V = 3, 12, 5, 7


def arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((D, V)).astype(dtype)
    hidden = rng.standard_normal((B, T, D)).astype(dtype)
    targets = rng.integers(0, V, (B, T))
    weights = rng.integers(0, 3, (B, T)).astype(np.float32)
    return jnp.asarray(kernel), jnp.asarray(hidden), targets, weights


def project(kernel, hidden):
    return jnp.einsum("BTD,DV->BTV", hidden, kernel)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("num", [2, 12])
def test_parts_are_the_whole(num, z_loss):
    kernel, hidden, targets, weights = arrays()
    of_loss = np.sqrt(weights)
    options = {"of_loss": of_loss, "z_loss": z_loss}

    def whole(kernel, hidden):
        terms = logprobs.cross_entropy(project(kernel, hidden), targets, weights, **options)
        return 3 * terms.loss, terms

    def parts(kernel, hidden):
        terms = chunked.cross_entropy(
            project, kernel, hidden, targets, weights, num_chunks=num, **options
        )
        return 3 * terms.loss, terms

    want, want_terms = jax.grad(whole, (0, 1), has_aux=True)(kernel, hidden)
    got, terms = jax.jit(jax.grad(parts, (0, 1), has_aux=True))(kernel, hidden)
    for a, b in zip(
        jax.tree.leaves((got, terms)), jax.tree.leaves((want, want_terms)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(b).max())
    alone = parts(kernel, hidden)[1]  # not differentiated
    np.testing.assert_allclose(alone.loss, want_terms.loss, rtol=1e-6)
    assert alone.metrics["accuracy"][0] == want_terms.metrics["accuracy"][0]


def test_gradient_of_a_bfloat16_kernel_is_added_in_float32():
    """2,048 equal parts: in bfloat16 the sum would stop growing at 256 of them."""
    kernel = jnp.zeros((1, 2), jnp.bfloat16)
    hidden = jnp.ones((1, 2048, 1), jnp.bfloat16)
    targets, weights = np.zeros((1, 2048), int), np.ones((1, 2048), np.float32)

    def loss(kernel):
        return chunked.cross_entropy(
            project, kernel, hidden, targets, weights, num_chunks=2048
        ).loss

    np.testing.assert_array_equal(jax.grad(loss)(kernel), [[-1024, 1024]])


@pytest.mark.parametrize(
    "shape, vocab, asked, parts",
    [
        ((8, 512), 1000, None, 1),  # 16 MB
        ((4, 2048), 32_000, None, 2),
        ((1, 2050), 128_000, None, 2),
        ((1, 2**16), 256_000, None, 128),
        ((2, 12), 10, 5, 6),  # the next divisor
        ((2, 12), 10, 99, 12),
    ],
)
def test_number_of_parts(shape, vocab, asked, parts):
    assert chunked.num_chunks(shape, vocab, asked) == parts


def test_fewer_parts_where_devices_share_the_logits():
    with rules.using(mesh.make_mesh(data=4, tensor=2)):
        assert chunked.num_chunks((32, 2048), 32_000, None) == 2


def largest(compiled_for, model):
    """Bytes of the largest float32 array in the traced gradient."""
    params, batch = stream.params(model), stream.batch(model.layout, 8)
    objective = functools.partial(sft.sft, num_chunks=compiled_for)
    text = (
        jax.jit(lambda p, b: step.sums(model, objective, p, b, None, 1))
        .lower(params, batch)
        .as_text()
    )
    return "8x16x512xf32" in text, "8x4x512xf32" in text


@pytest.mark.parametrize("name", stream.BOTH)
def test_no_logits_of_the_whole_batch(name):
    model = dataclasses.replace(stream.BOTH[name], vocab_size=512, emb_dim=32)
    assert largest(1, model) == (True, False)
    assert largest(4, model) == (False, True)


@pytest.mark.parametrize(
    "sizes", [dict(data=2, fsdp=2, fsdp_inner=2), dict(fsdp=2, tensor=2, context=2)]
)
def test_on_a_mesh(sizes):
    model = stream.DECODER
    on = mesh.make_mesh(**{"data": 1, **sizes})
    params, batch = stream.params(model), stream.batch(model.layout, 8)
    want = jax.jit(
        lambda p, b: step.sums(model, sft.sft, p, b, None, 1), compiler_options=stream.quickly()
    )(params, batch)
    compute = functools.partial(
        step.sums, model, functools.partial(sft.sft, num_chunks=4), microbatches=1
    )
    placed = rules.shardings(*model.abstract(), on)
    of_batch = step.batch_shardings(batch, on, rules.DEFAULT_RULES)
    made = explicit.region(compute, on, rules.DEFAULT_RULES, placed, of_batch)
    got = jax.jit(made, compiler_options=stream.quickly())(params, batch, None)
    np.testing.assert_allclose(got[1].loss, want[1].loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got[0]), jax.tree.leaves(want[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * np.abs(b).max())
