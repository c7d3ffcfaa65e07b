"""Rows by hand: the bytes gathered and scattered, dropout and lookup, are those of one device."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import stream
from jax.sharding import PartitionSpec as P

from t5sft.objectives import sft
from t5sft.parallel import explicit, mesh, rules
from t5sft.plan import collectives, count
from t5sft.train import step

FOUR = dict(data=1, fsdp=2, fsdp_inner=2)


def over(**sizes):
    devices = int(np.prod(list(sizes.values())))
    return mesh.make_mesh(**sizes, devices=jax.devices()[:devices])


def gradients(model, on, microbatches=1):
    """The function (params, batch, key) -> (gradient, terms), with its arguments' shardings."""
    placed = rules.shardings(*model.abstract(), on)
    shapes = {name: x for name, x in stream.batch(model.layout, 8).items()}
    of_batch = step.batch_shardings(shapes, on, rules.DEFAULT_RULES)
    compute = functools.partial(step.sums, model, sft.sft, microbatches=microbatches)
    made = explicit.region(compute, on, rules.DEFAULT_RULES, placed, of_batch)
    return made, placed, of_batch


def moved(text, kind):
    """(type, number of values) of what each collective of one kind works on."""
    lines = [line for line in text.splitlines() if f"stablehlo.{kind}" in line]
    lines = lines if kind == "all_gather" else text.split(f'"stablehlo.{kind}"')[1:]
    kinds = [re.search(r": \(tensor<((?:\d+x)*)(\w+)>\)", line) for line in lines]
    sizes = [(k[2], int(np.prod([int(n) for n in k[1].split("x")[:-1]] or [1]))) for k in kinds]
    return [(dtype, size) for dtype, size in sizes if dtype != "i32"]


@pytest.mark.parametrize("name", stream.BOTH)
def test_weights_are_gathered_and_gradients_scattered_in_the_compute_dtype(name):
    model = dataclasses.replace(stream.BOTH[name], dtype="bfloat16", remat="full")
    compute, placed, of_batch = gradients(model, over(**FOUR))
    params = stream.params(model)
    batch = stream.batch(model.layout, 8)
    lowered = jax.jit(compute, in_shardings=(placed, of_batch, None)).lower(params, batch, None)
    text = lowered.as_text()
    gathered, scattered = moved(text, "all_gather"), moved(text, "reduce_scatter")
    assert {kind for kind, _ in gathered} == {kind for kind, _ in scattered} == {"bf16"}
    # Two axes, one after the other: each gather has a scatter of its gradient.
    assert {size for _, size in scattered} == {2 * size for _, size in gathered}
    # What is summed whole is small: norms, T5's bias table, sums of the loss.
    assert max(size for _, size in moved(text, "all_reduce")) <= 32 * 4
    assert moved(text, "all_to_all")  # rows of the embedding, in place of the table


@pytest.mark.parametrize(
    "sizes", [FOUR, pytest.param(dict(data=2, tensor=2), marks=pytest.mark.slow)]
)
def test_dropout_is_the_same_on_every_mesh(sizes):
    model = dataclasses.replace(stream.DECODER, dropout_rate=0.5)
    params, batch = stream.params(model), stream.batch(model.layout, 8)
    key = jax.random.key(3)
    on_one, on_many = (
        jax.jit(gradients(model, on)[0], compiler_options=stream.quickly())
        for on in (over(data=1), over(**sizes))
    )
    want = on_one(params, batch, key)[0]["head"]
    got = on_many(params, batch, key)[0]["head"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    other = on_one(params, batch, jax.random.key(4))[0]["head"]
    assert np.abs(other - want).max() > 0.1 * np.abs(want).max()  # it acts


ROWS_OF_TABLE = (("vocab", ("tensor", "fsdp")), *rules.DEFAULT_RULES)  # over axes of the batch, too


@pytest.mark.parametrize(
    "sizes, table_rules",
    [
        (FOUR, rules.DEFAULT_RULES),
        (dict(fsdp=2, tensor=2), rules.DEFAULT_RULES),
        (dict(data=2, tensor=2), rules.DEFAULT_RULES),
        (dict(fsdp=2, tensor=2), ROWS_OF_TABLE),
        (FOUR, ROWS_OF_TABLE),
    ],
)
def test_lookup_is_that_of_one_device(sizes, table_rules):
    on = over(**{"data": 1, **sizes})
    table = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    tokens = np.array([[0, 7, 3], [5, 8, 1], [2, 2, 6], [-9, 4, 4]], np.int32)
    weight = np.random.default_rng(1).standard_normal((4, 3, 4)).astype(np.float32)

    def read(params, batch, _):
        def value(table):
            out = explicit.lookup(table, batch["tokens"], ("vocab", "embed"), jnp.float32)
            return jnp.nansum(out * batch["weight"]), jnp.isnan(out).sum()

        return jax.grad(value, has_aux=True)(params)

    axes = {"tokens": ("batch", "length"), "weight": ("batch", "length", "act_embed")}
    of_batch = {name: rules.sharding(names, on, table_rules) for name, names in axes.items()}
    of_table = rules.sharding(("vocab", "embed"), on, table_rules)
    made = explicit.region(read, on, table_rules, of_table, of_batch)
    got, unknown = jax.jit(made)(table, {"tokens": tokens, "weight": weight}, None)
    want = np.zeros_like(table)
    is_known = (tokens >= 0) & (tokens < 8)
    np.add.at(want, tokens[is_known], weight[is_known])
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert unknown == (~is_known).sum() * 4


def test_bfloat16_runs_on_cpus_beside_axes_of_the_compiler():
    """XLA for CPUs aborts the process at a reduce-scatter in bfloat16 there."""
    model = dataclasses.replace(stream.DECODER, dtype="bfloat16")
    params, batch = stream.params(model), stream.batch(model.layout, 8)
    want, got = (
        jax.jit(gradients(model, on)[0], compiler_options=stream.quickly())(params, batch, None)[0]
        for on in (over(data=1), over(data=1, fsdp=2, tensor=2))
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=0.03 * np.abs(b).max())


HARD = np.array([0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1e-30, -1e38, np.inf, np.nan], np.float32)


def test_gathers_what_a_cast_makes_and_only_over_its_axes():
    """Rounded to even as a cast does; the gradient is the sum's share; `tensor` stays split."""
    on, names = over(data=1, fsdp=2, tensor=2), ("embed", "mlp")
    weights = np.stack([HARD, HARD[::-1]])  # [2, 8]

    def read(part, rows, _):
        made = explicit.gather(part, names, jnp.bfloat16)
        (pulled,) = jax.vjp(lambda w: explicit.gather(w, names, jnp.bfloat16), part)[1](made)
        assert made.dtype == jnp.bfloat16
        return pulled, made.astype(jnp.float32) + 0 * rows.sum()

    placed, of_rows = rules.sharding(names, on), rules.sharding(("batch",), on)
    compute = jax.jit(
        explicit.region(read, on, rules.DEFAULT_RULES, placed, of_rows),
        in_shardings=(placed, of_rows, None),
        out_shardings=(placed, rules.sharding((None, "mlp"), on)),
    )
    arguments = (weights, jnp.zeros(2), None)
    gradient, summed = compute(*arguments)
    want = 2 * weights.astype(jnp.bfloat16).astype(np.float32)  # of two devices
    np.testing.assert_array_equal(summed, want)
    np.testing.assert_array_equal(gradient, want)
    text = compute.lower(*arguments).compile().as_text()
    assert {*re.findall(r"= (\S+?)\{\S* all-gather\(", text)} == {"f32[2,4]"}


def test_outside_a_region_nothing_is_gathered():
    x = jnp.ones((4, 2))
    assert explicit.gather(x, ("embed", "mlp"), x.dtype) is x
    assert explicit.local_shape((4, 2), ("embed", "mlp")) == (4, 2)
    with rules.using(over(**FOUR)):
        assert explicit.gather(x, ("embed", "mlp"), x.dtype) is x


def test_on_parts_splits_what_is_left():
    """Of a mesh whose rows are taken apart already, only the compiler's axes are split."""
    on = over(data=2, tensor=2)

    def compute(params, batch, _):
        part = rules.on_parts(lambda x: x[None], P("data", "tensor"), P(None, "data", "tensor"))
        assert rules.split_ways("heads") == 2 and rules.split_ways("batch") == 1
        return params, (part(batch)).shape[1] + 0.0 * batch.sum()

    placed = rules.sharding(("batch", "heads"), on)
    made = explicit.region(compute, on, rules.DEFAULT_RULES, rules.sharding((None,), on), placed)
    assert jax.jit(made)(jnp.ones((2,)), jnp.ones((4, 4)), None)[1] == 2 + 2  # of both devices


@pytest.mark.parametrize("name", ["decoder", pytest.param("t5", marks=pytest.mark.slow)])
def test_blockwise_attention_splits_heads_and_length_inside_a_region(name):
    model = dataclasses.replace(stream.BOTH[name], attention="blockwise")
    params, batch = stream.params(model), stream.batch(model.layout, 8)
    want, got = (
        jax.jit(gradients(model, over(**sizes))[0], compiler_options=stream.quickly())(
            params, batch, None
        )
        for sizes in (dict(data=1), dict(data=2, tensor=2, context=2))
    )
    np.testing.assert_allclose(got[1].loss, want[1].loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got[0]), jax.tree.leaves(want[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_a_tensor_axis_takes_its_part_of_what_is_gathered():
    """The compiler made weights whole over tensor first: four times the bytes at tensor = 4."""
    on, model = over(data=1, fsdp=2, tensor=2), dataclasses.replace(stream.DECODER, remat="full")
    compute, placed, of_batch = gradients(model, on)
    arguments = stream.params(model), stream.batch(model.layout, 8), None
    lowered = jax.jit(compute, in_shardings=(placed, of_batch, None)).lower(*arguments)
    text = lowered.compile(stream.quickly()).as_text()
    told = count.count(text, collectives.Mesh(on.axis_names, on.devices.shape))
    assert ("all-gather", "tensor") not in {(c.kind, c.axis) for c in told.collectives}
    fsdp = sum(c.wire_bytes_per_chip for c in told.collectives if c.axis == "fsdp")
    size = sum(leaf.size for leaf in jax.tree.leaves(arguments[0]))
    # Gathered twice, scattered once: float32, half of a tensor part passes; and rows of the table.
    assert fsdp < 1.2 * 3 * 4 * size / 2 / 2


@pytest.mark.parametrize("sizes, axes", [(FOUR, 2), (dict(data=1, fsdp=2, tensor=2), 1)])
def test_gathered_weights_are_not_kept_for_the_backward_pass(sizes, axes):
    """Without remat too: kept over all layers they would be the whole model on every device."""
    counts = {}
    for remat in ("none", "full"):
        model = dataclasses.replace(stream.DECODER, remat=remat)
        compute, placed, of_batch = gradients(model, over(**sizes))
        lowered = jax.jit(compute, in_shardings=(placed, of_batch, None)).lower(
            stream.params(model), stream.batch(model.layout, 8), None
        )
        counts[remat] = len(moved(lowered.as_text(), "all_gather"))
    kernels = 5  # q, kv, out, wi, wo, over every axis, forward and backward; the head once
    assert counts == dict.fromkeys(("none", "full"), axes * (2 * kernels + 1))
