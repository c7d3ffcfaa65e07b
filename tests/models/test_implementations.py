"""Models give the same by every implementation, on any mesh; wrong choices are told."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from oracles import tiny

from t5sft import errors
from t5sft.models import attention
from t5sft.models.attention import choice
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules

MODELS = pytest.mark.parametrize("model", [tiny.T5, tiny.GEMMA], ids=["t5", "gemma"])


def loss_and_gradients(model, over=None):
    batch = tiny.pack(tiny.examples(), [], tiny.examples()[::-1])
    weights = (batch["decoder_segment_ids"] > 0).astype(np.float32)
    return tiny.grads_of(model, over)(tiny.hot(model), batch, weights)


def close(got, want, bar):
    np.testing.assert_allclose(got[0], want[0], rtol=bar)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=bar * max(np.abs(b).max(), 1e-3))


@MODELS
def test_blockwise_on_a_mesh_of_rows_heads_and_length_is_the_reference(model):
    """Weights so large that rounding shows: 1e-4 is what the reference differs by on a mesh."""
    over = mesh_lib.make_mesh(data=1, fsdp=2, tensor=2, context=2)
    got = loss_and_gradients(dataclasses.replace(model, attention="blockwise"), over)
    close(got, loss_and_gradients(model), 1e-4)


def test_dropout_is_the_references_to_the_same_bits():
    """One mask serves all queries of a head, so dropping values is dropping weights."""
    config = dataclasses.replace(tiny.DECODER, dropout_rate=0.5)
    layer = attention.Attention(config)
    segments = tiny.pack(tiny.examples())["decoder_segment_ids"]
    mask = attention.packed_mask(segments, segments, causal=True)
    sides = dict(query_segments=segments, key_segments=segments)
    packed = attention.Packed(**sides, implementation="blockwise", causal=True)
    x = np.random.default_rng(0).standard_normal((*segments.shape, config.emb_dim), np.float32)
    params = layer.init(jax.random.key(0), x, attention.View(mask))

    @tiny.jit
    def both(params, x):
        rngs = {"dropout": jax.random.key(3)}
        sights = attention.View(mask), packed
        return [layer.apply(params, x, view, rngs=rngs)[0] for view in sights]

    want, got = both(params, x)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.abs(want - layer.apply(params, x, packed)[0]).max() > 1e-3


def test_auto_goes_by_platform_length_and_features():
    assert rules.platform() == "cpu"
    with rules.using(mesh_lib.make_mesh()):
        assert rules.platform() == "cpu"
    cases = {
        choice.Case("cpu", 512, 512, is_biased=True): "reference",
        choice.Case("cpu", 512, 4096): "blockwise",
        choice.Case("tpu", 512, 512, is_biased=True): "fused",
        choice.Case("tpu", 512, 1024): "splash",
        choice.Case("tpu", 2048, 2048, soft_cap=50.0, head_dim=256): "splash",
        choice.Case("tpu", 2048, 2048, is_split=True): "fused",
        choice.Case("tpu", 10**6, 10**6, is_biased=True): "blockwise",
        choice.Case("tpu", 64, 64): "reference",
        choice.Case("gpu", 2048, 2048): "triton",
        choice.Case("gpu", 2048, 2048, soft_cap=50.0): "triton",
        choice.Case("gpu", 512, 511, is_biased=True): "triton",
        choice.Case("gpu", 2048, 2048, head_dim=96): "cudnn",
        choice.Case("gpu", 2048, 2048, head_dim=96, soft_cap=50.0): "blockwise",
        choice.Case("gpu", 2048, 2048, dtype="float32"): "blockwise",
        choice.Case("gpu", 2048, 2048, capability=7.5): "blockwise",
        choice.Case("gpu", 2048, 2048, head_dim=96, capability=0.0): "blockwise",
    }
    assert {case: choice.resolve("auto", case) for case in cases} == cases


@pytest.mark.parametrize(("told", "value"), [("9.0", 9.0), ("7.5", 7.5), ("gfx942", 0.0)])
def test_knows_what_a_gpu_can(told, value):
    assert choice.capability(types.SimpleNamespace(compute_capability=told)) == value
    assert choice.capability(jax.devices()[0]) == 0.0


@pytest.mark.parametrize(
    "name, case, says",
    [
        ("splash", choice.Case("cpu", 512, 512), "'splash' runs on TPUs, not on cpu"),
        ("splash", choice.Case("tpu", 512, 512, is_biased=True), "has no relative bias"),
        ("splash", choice.Case("tpu", 512, 512, is_split=True), "splits them over context"),
        ("fused", choice.Case("gpu", 512, 512), "runs on TPUs, not on gpu"),
        ("fused", choice.Case("tpu", 512, 512, head_dim=24), "multiple of 16 features, not 24"),
        ("fused", choice.Case("tpu", 40_000, 512), "rows up to 32768"),
        ("triton", choice.Case("cpu", 512, 512), "runs on NVIDIA GPUs, not on cpu"),
        ("triton", choice.Case("gpu", 512, 512, dtype="float32"), "bfloat16, not in float32"),
        ("triton", choice.Case("gpu", 512, 512, head_dim=96), "or 128 features, not 96"),
        ("cudnn", choice.Case("tpu", 512, 512), "runs on NVIDIA GPUs"),
        ("cudnn", choice.Case("gpu", 512, 512, is_biased=True), "no relative bias"),
        ("cudnn", choice.Case("gpu", 512, 512, soft_cap=50.0), "no soft cap"),
        ("cudnn", choice.Case("gpu", 512, 512, dtype="float32"), "bfloat16, not in float32"),
        ("cudnn", choice.Case("gpu", 512, 512, head_dim=256), "up to 128 features"),
        ("cudnn", choice.Case("gpu", 511, 512), "even length, not 511"),
    ],
)
def test_what_cannot_be_computed_is_told(name, case, says):
    with pytest.raises(errors.ConfigError, match=f"{says}.*; model; use 'auto' or .*'blockwise'"):
        choice.resolve(name, case)


def test_a_model_refuses_before_anything_is_compiled():
    model = dataclasses.replace(tiny.T5, attention="fused")
    with pytest.raises(errors.ConfigError, match="'fused' runs on TPUs, not on cpu"):
        loss_and_gradients(model)


def test_an_unknown_implementation_is_told():
    with pytest.raises(errors.ConfigError, match="attention = 'blokwise' is unknown.*blockwise"):
        dataclasses.replace(tiny.T5, attention="blokwise")
