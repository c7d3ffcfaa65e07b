"""Decoding compiles for TPUs, and neither parameters nor cache are there twice."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5sft.generate import layouts, prompts, sampling, slots
from t5sft.models import decoder, t5
from t5sft.parallel import mesh, rules

pytestmark = pytest.mark.slow
pytest.importorskip("libtpu", reason="compiles for TPUs: pip install libtpu")

BEGIN, ADVANCE = slots.begin, slots.advance  # other tests here compile without optimising
COMMON = dict(dtype="bfloat16", num_heads=32)
MODELS = {
    "llama2_7b, 2 layers": decoder.Decoder(
        vocab_size=32000, emb_dim=4096, mlp_dim=11008, num_kv_heads=32, head_dim=128,
        num_layers=2, **COMMON,
    ),
    "t5 xl, 2 + 2 layers": t5.T5(
        vocab_size=32128, emb_dim=2048, mlp_dim=5120, head_dim=64, num_encoder_layers=2,
        num_decoder_layers=2, **COMMON,
    ),
}  # fmt: skip
ROWS, LENGTH, NEW = 8, 512, 512


@functools.cache
def devices():
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices


def abstract(model, over, cache_dtype):
    """The arguments of `advance`, as `laid_out` lays them."""
    formed = jax.experimental.layout

    def placed(shape, names, where):
        order = layouts.order_of(shape.shape, names)
        where = where if order is None else formed.Format(formed.Layout(order), where)
        return jax.ShapeDtypeStruct(shape.shape, jnp.bfloat16, sharding=where)

    shapes, names = model.abstract()
    params = jax.tree.map(placed, shapes, names, rules.shardings(shapes, names, over))
    program = slots.Program(
        model, sampling.Sampler(), NEW, cache_dtype, over, prompts.frozen(rules.DEFAULT_RULES)
    )
    given = prompts.arrays(model.layout, [[1] * LENGTH] * ROWS, LENGTH, 0)
    given["ignored"] = np.zeros(ROWS, bool)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))
    begin = functools.partial(BEGIN, program=program)
    state = jax.eval_shape(begin, params, given, keys)
    everywhere = jax.sharding.NamedSharding(over, jax.sharding.PartitionSpec())
    of_cache = ("layers", "batch", "kv_heads", None, "head_dim")

    def at(x, where=everywhere):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    def cached(x):
        known = x.ndim > 3  # not the segments of the encoder
        return at(x, rules.sharding(of_cache[: x.ndim], over) if known else everywhere)

    state = jax.tree.map(at, state._replace(cache=None))._replace(
        cache=jax.tree.map(cached, state.cache)
    )
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    ends = jax.ShapeDtypeStruct((1,), jnp.int32, sharding=everywhere)
    return (params, state, ends, number, number), program


def held(tree):
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.number)]
    return sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


@pytest.mark.parametrize(
    "name, cache_dtype, axes",
    [
        ("llama2_7b, 2 layers", "bfloat16", {"fsdp": 1}),
        ("llama2_7b, 2 layers", "int8", {"tensor": 4}),
        ("t5 xl, 2 + 2 layers", "bfloat16", {"fsdp": 1}),
    ],
    ids=str,
)
def test_a_loop_of_steps_copies_neither_parameters_nor_cache(name, cache_dtype, axes):
    """XLA laid 70 % of the parameters, and the whole cache, out anew: in every call, both held."""
    count = int(np.prod(list(axes.values())))
    over = mesh.make_mesh(**axes, devices=list(devices()[:count]))
    arguments, program = abstract(MODELS[name], over, cache_dtype)
    with jax.default_matmul_precision("default"):  # the tests' own is for CPUs
        compiled = ADVANCE.lower(*arguments, program=program).compile()
    told = compiled.memory_analysis()
    assert told.alias_size_in_bytes >= held(arguments[1].cache)  # all of it is donated
    assert told.temp_size_in_bytes <= 0.02 * told.argument_size_in_bytes
