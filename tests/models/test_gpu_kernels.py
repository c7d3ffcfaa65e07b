"""Attention for NVIDIA GPUs: lowered for CUDA without a card; against the reference on one."""

import functools
import importlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import softmax

from t5sft.models.attention import blockwise, cudnn, reference, triton, views

CASES = {
    "llama": softmax.Case(length=300, num_heads=8, num_kv_heads=2, head_dim=64),
    "t5_encoder": softmax.Case(length=256, head_dim=64, causal=False, biased=True),
    "t5_decoder": softmax.Case(length=257, head_dim=64, biased=True),
    "cross": softmax.Case(length=128, source=320, head_dim=64, causal=False),
    "gemma": softmax.Case(
        length=384, num_kv_heads=2, head_dim=128, window=100, soft_cap=5.0, biased=True
    ),
}


def has_gpu() -> bool:
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def exported(run, limits, biased: bool, calls=()):
    """The text of the gradient's program, for CUDA."""
    floats = [jax.ShapeDtypeStruct((2, 512, n, 64), jnp.bfloat16) for n in (8, 4, 4)]
    if biased:
        floats.append(jax.ShapeDtypeStruct((8, 1024), jnp.float32))
    segments = jax.ShapeDtypeStruct((2, 512), jnp.int32)

    def loss(floats, segments):
        out = run(*floats[:3], segments, segments, *floats[3:], limits=limits)
        return out.astype(jnp.float32).sum()

    checks = [jax.export.DisabledSafetyCheck.custom_call(call) for call in calls]
    export = jax.export.export(jax.jit(jax.grad(loss)), platforms=["cuda"], disabled_checks=checks)
    return export(floats, segments).mlir_module()


@pytest.mark.slow
def test_cudnn_lowers_for_cuda(monkeypatch):
    """Exported without a GPU: JAX asks the machine's cuDNN and card, so both are told here."""
    library = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(library, "check_compute_capability", lambda capability: True)
    calls = ["__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"]
    text = exported(cudnn.attend, views.Limits(True, 256), False, calls)
    assert all(f"@{call}(" in text for call in calls)


@pytest.mark.slow
@pytest.mark.parametrize("biased, kernels", [(False, 3), (True, 4)])
def test_triton_lowers_for_cuda(monkeypatch, biased, kernels):
    """Forward, gradients of keys and values, of queries and of the bias: a kernel each."""
    try:  # since JAX 0.11 the lowering asks which card it is
        info = importlib.import_module("jax._src.pallas.triton.gpu_info")
    except ModuleNotFoundError:
        pass
    else:
        card = info.get_gpu_info_from_version(info.GpuVersion.H200)
        monkeypatch.setattr(info, "get_gpu_info", lambda: card)
    call = "__gpu$xla.gpu.triton"
    text = exported(triton.attend, views.Limits(True, 256, 50.0), biased, [call])
    assert text.count(f"@{call}(") == kernels


def by_definition(query, key, value, query_segments, key_segments, line=None, *, limits):
    """The reference, on the mask and the bias that it wants."""
    sides = (query_segments, key_segments)
    mask = views.packed_mask(*sides, causal=limits.causal, window=limits.window)
    rows = None
    if line is not None:
        t, s = query.shape[1], key.shape[1]
        rows = line[:, np.arange(t)[:, None] - np.arange(s)[None, :] + s][None]
    view = views.View(jnp.asarray(mask), rows)
    return reference.attend(query, key, value, view, soft_cap=limits.soft_cap)


@pytest.mark.manual
@pytest.mark.skipif(not has_gpu(), reason="computes on an NVIDIA GPU, and there is none")
@pytest.mark.parametrize("run", ["triton", "cudnn", "blockwise"])
@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu_as_near_as_the_reference(run, name):
    """In bfloat16, of outputs and all gradients, against the reference in float32.

    By the relative norm of the difference, 2e-3 to 3e-3 for bfloat16's 8 bits.
    """
    case = CASES[name]
    if run == "cudnn" and (case.biased or case.soft_cap or case.length % 2):
        pytest.skip("cuDNN has no bias by blocks and no soft cap, and wants even rows")
    (query, key, value, *segments, line), cotangent = softmax.arrays(case)
    query = query * case.head_dim**-0.5
    limits = views.Limits(case.causal, case.window, case.soft_cap)
    floats = [jnp.asarray(x, jnp.bfloat16) for x in (query, key, value, cotangent)]
    line = [] if line is None else [jnp.asarray(line)]

    @functools.partial(jax.jit, static_argnums=0)
    def both(apply, query, key, value, cotangent, line):
        def output(floats):
            return apply(*floats[:3], *segments, *floats[3:], limits=limits)

        out, pull = jax.vjp(output, [query, key, value, *line])
        return out, *pull(cotangent.astype(out.dtype))[0]

    card = jax.devices("gpu")[0]
    with jax.default_device(card):
        want = both(by_definition, *(x.astype(jnp.float32) for x in floats), line)
        module = {"triton": triton, "cudnn": cudnn, "blockwise": blockwise}[run]
        got = both(module.attend, *floats, line)
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= 4e-3 * np.linalg.norm(b)
