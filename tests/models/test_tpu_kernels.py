"""The kernels compile for real TPU topologies, and the program there holds no T x S."""

import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import softmax

from t5sft.models.attention import fused, splash, views
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules
from t5sft.plan import collectives, count

pytestmark = pytest.mark.slow
pytest.importorskip("libtpu", reason="compiles for TPUs: pip install libtpu")


@functools.cache
def device(topology):
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]


def compiled(run, case, *, topology="v5e:2x2", rows=4, dtype=jnp.bfloat16):
    """The compiled gradient of an implementation, on one chip."""
    place = jax.sharding.SingleDeviceSharding(device(topology))
    n, k, h = case.num_heads, case.num_kv_heads, case.head_dim
    t, s = case.length, case.source or case.length
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=place)
    floats = [shape((rows, t, n, h), dtype), *[shape((rows, s, k, h), dtype)] * 2]
    segments = [shape((rows, size), jnp.int32) for size in (t, s)]
    if case.biased:
        floats.append(shape((n, t + s), jnp.float32))
    limits = views.Limits(case.causal, case.window, case.soft_cap)

    def loss(floats, segments):
        out = run(*floats[:3], *segments, *floats[3:], limits=limits)
        return jnp.square(out.astype(jnp.float32)).sum()

    with jax.default_matmul_precision("default"):  # the tests' own is for CPUs
        return jax.jit(jax.grad(loss)).lower(floats, segments).compile()


def largest(program):
    found = re.findall(r"(?:bf16|f32|s32|pred)\[([\d,]+)\]", program.as_text())
    return max(int(np.prod([int(size) for size in each.split(",")])) for each in found)


T5 = softmax.Case(length=1024, num_heads=12, num_kv_heads=12, head_dim=64, biased=True)
ENCODER = softmax.Case(
    length=512, num_heads=12, num_kv_heads=12, head_dim=64, causal=False, biased=True
)
CROSS = softmax.Case(
    length=512, source=384, num_heads=12, num_kv_heads=12, head_dim=64, causal=False
)
GEMMA = softmax.Case(
    length=2048, num_heads=8, num_kv_heads=4, head_dim=256, window=1024, soft_cap=50.0
)


@pytest.mark.parametrize(
    "case", [T5, ENCODER, CROSS, GEMMA], ids=["t5_decoder", "t5_encoder", "cross", "gemma"]
)
def test_fused_compiles_and_declares_its_cost(case):
    """2 matmuls forward and 5 backward, of the blocks that are computed."""
    program = compiled(fused.attend, case)
    t, s, n = case.length, case.source or case.length, case.num_heads
    q, k = (next(size for size in fused.BLOCKS if length % size == 0) for length in (t, s))
    limits = views.Limits(case.causal, case.window)
    pairs = sum(limits.may_see(i, q, j, k) for i in range(0, t, q) for j in range(0, s, k))
    declared = 2 * 7 * 4 * n * pairs * q * k * case.head_dim
    assert declared <= program.cost_analysis()["flops"] <= 1.05 * declared
    features = max(n * case.head_dim, 128) * 4 * max(t, s)
    assert largest(program) <= features < 4 * n * t * s


@pytest.mark.parametrize("case", [GEMMA], ids=["gemma"])
def test_splash_compiles(case):
    program = compiled(splash.attend, case)
    told = count.count(program.as_text(), collectives.Mesh(("data",), (1,)))
    limits = views.Limits(case.causal, case.window)
    pairs = splash.computed_pairs(limits, case.length, case.source or case.length)
    # 2 products forward, 3 and 4 in the two kernels backward.
    assert told.kernel_flops == 2 * 9 * 4 * case.num_heads * pairs * case.head_dim
    assert (told.kernels, told.undeclared_kernels) == (3, 0)
    assert largest(program) < 4 * case.num_heads * case.length**2


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_fused_compiles_for_every_generation(topology):
    compiled(fused.attend, T5, topology=topology)


def test_the_mesh_decides_though_the_process_has_cpus():
    from t5sft.models import t5

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    over = mesh_lib.make_mesh(devices=[device("v5e:2x2")])
    with rules.using(over):
        assert rules.platform() == "tpu"
    sizes = dict(vocab_size=256, emb_dim=128, mlp_dim=256, num_heads=2, head_dim=64)
    model = t5.T5(num_encoder_layers=1, num_decoder_layers=1, dtype="bfloat16", **sizes)
    names = [f"{side}_{part}" for side in ("encoder", "decoder") for part in PARTS]
    batch = {name: jax.ShapeDtypeStruct((2, 256), jnp.int32) for name in names}

    def run(params, batch):
        with rules.using(over):
            return model.hidden(params, batch)

    text = str(jax.make_jaxpr(run)(model.abstract()[0], batch))
    assert text.count("name=fused_attention") >= 2  # of the encoder and of the decoder


PARTS = ("input_tokens", "segment_ids", "positions")
