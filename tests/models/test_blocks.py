"""Every implementation of attention against its definition: outputs and all gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import softmax, tiny

from t5sft.models.attention import blockwise, cudnn, fused, reference, splash, triton, views

CASES = {
    "causal": softmax.Case(length=40),
    "encoder": softmax.Case(length=40, causal=False, biased=True),
    "t5_decoder": softmax.Case(length=37, biased=True),
    "window": softmax.Case(length=45, window=11),
    "soft_cap": softmax.Case(length=33, soft_cap=1.5, num_kv_heads=2),
    "cross": softmax.Case(length=21, source=50, causal=False),
    "everything": softmax.Case(length=50, window=20, soft_cap=2.0, num_kv_heads=2, biased=True),
    "one_key_head": softmax.Case(length=16, num_kv_heads=1),
    "one_token": softmax.Case(length=1, biased=True),
}


def value_and_gradients(run, case, arrays, cotangent, dtype=jnp.float32):
    """Output and gradients by query, key, value and line, of an implementation."""
    query, key, value, query_segments, key_segments, line = arrays
    limits = views.Limits(case.causal, case.window, case.soft_cap)

    def apply(floats):
        query, key, value, line = floats
        return run(query, key, value, query_segments, key_segments, line, limits=limits)

    floats = (*(jnp.asarray(x, dtype) for x in (query, key, value)), line)

    @tiny.jit
    def both(floats):
        out, pull = jax.vjp(apply, floats)
        return out, *pull(jnp.asarray(cotangent, out.dtype))[0]

    return both(floats)


def by_definition(query, key, value, query_segments, key_segments, line, *, limits):
    """The reference, on the mask and the bias that it wants."""
    mask = views.packed_mask(
        query_segments, key_segments, causal=limits.causal, window=limits.window
    )
    rows = None
    if line is not None:
        t, s = query.shape[1], key.shape[1]
        rows = line[:, np.arange(t)[:, None] - np.arange(s)[None, :] + s][None]
    view = views.View(jnp.asarray(mask), rows)
    return reference.attend(query, key, value, view, soft_cap=limits.soft_cap)


def agree(got, want, bar):
    """Compares by the size of the largest entry, so that no small entry decides."""
    names = ("output", "query", "key", "value", "line")
    for name, a, b in zip(names, got, want, strict=True):
        if b is None:
            assert a is None
            continue
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, atol=bar * max(np.abs(b).max(), 1.0), err_msg=name)


RUNS = {
    "reference": by_definition,
    "blockwise": functools.partial(blockwise.attend, block=16),
    "fused": functools.partial(fused.attend, interpret=True),
    "splash": functools.partial(splash.attend, interpret=True),
    "triton": functools.partial(triton.attend, interpret=True),
    "cudnn": functools.partial(cudnn.attend, implementation="xla"),  # its masks, not its kernel
}
# Kernels take seconds each to compile for a CPU: one case each, all of them in the slow run.
FAST = [("fused", "everything"), ("triton", "window"), ("splash", "window"), ("cudnn", "window")]
UNABLE = {
    "splash": lambda case: case.biased,
    "cudnn": lambda case: case.biased or case.soft_cap is not None,
}


def every_able():
    for run in RUNS:
        for name, case in CASES.items():
            if run in UNABLE and UNABLE[run](case):
                continue
            is_fast = run in ("reference", "blockwise") or (run, name) in FAST
            yield pytest.param(run, name, marks=[] if is_fast else [pytest.mark.slow])


@pytest.mark.parametrize("run, name", list(every_able()))
def test_agrees_with_the_definition(run, name):
    case = CASES[name]
    arrays, cotangent = softmax.arrays(case)
    want = softmax.attention(case, *arrays, cotangent)
    agree(value_and_gradients(RUNS[run], case, arrays, cotangent), want, 3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["fused", "splash", "triton"])
@pytest.mark.parametrize("window", [None, 150])
def test_kernels_of_several_blocks_agree_with_the_definition(run, window):
    """Rows of 2 x 512 + 256, of 3 x 128 or 5 x 64 tokens: some skipped, sums over blocks."""
    length = 1280 if run == "splash" else 300
    case = softmax.Case(
        length=length, window=window, num_heads=2, num_kv_heads=1, biased=run != "splash"
    )
    apply = RUNS[run]
    if run == "fused":
        apply = functools.partial(apply, blocks=(128,))
    arrays, cotangent = softmax.arrays(case, rows=2)
    want = softmax.attention(case, *arrays, cotangent)
    agree(value_and_gradients(apply, case, arrays, cotangent), want, 3e-6)


def test_bfloat16_is_as_near_as_the_reference():
    case = CASES["everything"]
    arrays, cotangent = softmax.arrays(case)
    want = softmax.attention(case, *arrays, cotangent)
    run = functools.partial(blockwise.attend, block=16)
    agree(value_and_gradients(run, case, arrays, cotangent, jnp.bfloat16), want, 0.02)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_size_of_a_block_changes_nothing(block):
    case = CASES["everything"]
    arrays, cotangent = softmax.arrays(case, seed=1)
    run = functools.partial(blockwise.attend, block=block)
    want = softmax.attention(case, *arrays, cotangent)
    agree(value_and_gradients(run, case, arrays, cotangent), want, 3e-6)


@pytest.mark.parametrize(
    "run",
    ["blockwise", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fused", "triton"))],
)
def test_a_part_of_the_queries_is_part_of_the_whole(run):
    """As on a mesh that splits rows: the offset tells where in the row the queries are."""
    case = CASES["everything"]
    (query, key, value, segments, _, line), _ = softmax.arrays(case)
    limits = views.Limits(True, case.window, case.soft_cap)
    half = case.length // 2
    rest = (query[:, half:], key, value, segments[:, half:], segments, line)

    @tiny.jit
    def all_ways(offset):
        attend = functools.partial(RUNS[run], limits=limits)
        whole = attend(query, key, value, segments, segments, line)
        return whole[:, half:], attend(*rest, offset=half), attend(*rest, offset=offset)

    want, known, told = all_ways(jnp.int32(half))
    np.testing.assert_allclose(known, want, atol=1e-6)
    np.testing.assert_allclose(told, want, atol=1e-6)


def shapes(text):
    """Shapes of all values in a program's text."""
    return {tuple(map(int, found.split(","))) for found in re.findall(r"\w+\[([\d,]+)\]", text)}


def test_nothing_of_size_t_times_s_is_in_memory():
    """Compiled forward and backward, T = 448, S = 640: no array has that many entries a head."""
    case = softmax.Case(
        length=448, source=640, causal=False, num_heads=2, num_kv_heads=2, biased=True
    )
    arrays, cotangent = softmax.arrays(case, rows=2)
    query, key, value, query_segments, key_segments, line = arrays
    limits = views.Limits(False)

    def loss(run, query, key, value, line):
        out = run(query, key, value, query_segments, key_segments, line, limits=limits)
        return (out * cotangent).sum()

    def largest(run):
        gradient = jax.grad(functools.partial(loss, run), (0, 1, 2, 3))
        compiled = tiny.jit(gradient).lower(query, key, value, line).compile()
        return max(int(np.prod(shape)) for shape in shapes(compiled.as_text()))

    assert largest(functools.partial(blockwise.attend, block=64)) < 448 * 640
    assert largest(by_definition) >= 2 * 2 * 448 * 640  # the measure sees it where it is


def test_blocks_that_cannot_see_each_other_are_not_computed():
    """Rows of 8 blocks, window of one: each block of queries meets its own keys and those before.

    15 pairs of 64; causal alone would be 36.
    """
    case = softmax.Case(length=128, window=16)
    arrays, _ = softmax.arrays(case)
    for window, pairs in ((16, 15), (None, 36)):
        limits = views.Limits(True, window)
        run = functools.partial(blockwise.attend, limits=limits, block=16)
        text = str(jax.make_jaxpr(run)(*arrays[:5]))
        assert f"length={pairs}" in text
