"""Models give the same by every implementation, on any mesh; wrong choices are told."""

import dataclasses

import jax
import numpy as np
import pytest
from oracles import tiny

from t5sft import errors
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
    batch = tiny.pack(tiny.examples())
    out = []
    for name in ("reference", "blockwise"):
        model = dataclasses.replace(tiny.T5, dropout_rate=0.5, attention=name)
        key = jax.random.key(3)
        apply = tiny.jit(
            lambda params, model=model, key=key: model.hidden(params, batch, dropout_key=key)
        )
        out.append(apply(tiny.hot(tiny.T5)))
    np.testing.assert_allclose(*out, atol=1e-5 * np.abs(out[0]).max())


def test_auto_goes_by_platform_length_and_features():
    assert choice.platform() == "cpu"
    with rules.using(mesh_lib.make_mesh()):
        assert choice.platform() == "cpu"
    cases = {
        choice.Case("cpu", 512, 512, is_biased=True): "reference",
        choice.Case("cpu", 512, 4096): "blockwise",
        choice.Case("tpu", 512, 512, is_biased=True): "fused",
        choice.Case("tpu", 512, 1024): "splash",
        choice.Case("tpu", 2048, 2048, soft_cap=50.0, head_dim=256): "splash",
        choice.Case("tpu", 2048, 2048, is_split=True): "fused",
        choice.Case("tpu", 10**6, 10**6, is_biased=True): "blockwise",
        choice.Case("tpu", 64, 64): "reference",
        choice.Case("gpu", 2048, 2048): "cudnn",
        choice.Case("gpu", 2048, 2048, soft_cap=50.0): "blockwise",
        choice.Case("gpu", 2048, 2048, dtype="float32"): "blockwise",
        choice.Case("gpu", 512, 512, is_biased=True): "blockwise",
    }
    assert {case: choice.resolve("auto", case) for case in cases} == cases


@pytest.mark.parametrize(
    "name, case, says",
    [
        ("splash", choice.Case("cpu", 512, 512), "'splash' runs on TPUs, not on cpu"),
        ("splash", choice.Case("tpu", 512, 512, is_biased=True), "has no relative bias"),
        ("splash", choice.Case("tpu", 512, 512, is_split=True), "splits them over context"),
        ("fused", choice.Case("gpu", 512, 512), "runs on TPUs, not on gpu"),
        ("fused", choice.Case("tpu", 512, 512, head_dim=24), "multiple of 16 features, not 24"),
        ("fused", choice.Case("tpu", 40_000, 512), "rows up to 32768"),
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
