"""Attention on one GPU, every implementation: error against float32, milliseconds each way.

python scripts/bench/gpu_attention.py [--cases llama t5_encoder ...] [--repeats 20] [--shapes]

Rows are packed with random examples. Errors are |x - x_ref| / |x_ref| of the output and of all
gradients, the reference (`reference.attend`) in float32 on inputs rounded to bfloat16. Milliseconds
are of one layer, forward and then forward with backward. --shapes: the kernels of `triton`, each
alone, cut and scheduled in other ways.
"""

import argparse
import concurrent.futures
import functools
import json
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5sft.models.attention import blockwise, cudnn, reference, triton, views


class Case(NamedTuple):
    """Sizes of a layer, and of the examples in its rows."""

    rows: int
    length: int
    num_heads: int
    num_kv_heads: int
    head_dim: int = 64
    mean_example: int = 500  # tokens; examples are between half and one and a half of it
    limits: views.Limits = views.Limits(True)
    is_biased: bool = False


CASES = {
    "llama": Case(8, 2048, 32, 8),
    "llama_whole_rows": Case(8, 2048, 32, 8, mean_example=2048 * 2),
    "t5_encoder": Case(
        32, 512, 16, 16, mean_example=150, limits=views.Limits(False), is_biased=True
    ),
    "t5_decoder": Case(32, 512, 16, 16, mean_example=200, is_biased=True),
    "t5_cross": Case(32, 512, 16, 16, mean_example=150, limits=views.Limits(False)),
    "mixed": Case(
        4, 1024, 8, 4, 128, limits=views.Limits(True, window=300, soft_cap=5.0), is_biased=True
    ),
}


def segments(case: Case) -> np.ndarray:
    """[B, T]: examples one after the other, then padding."""
    random = np.random.default_rng(0)
    out = np.zeros((case.rows, case.length), np.int32)
    for row in out:
        begin = 0
        for number in range(1, case.length):
            size = int(random.integers(case.mean_example // 2, 3 * case.mean_example // 2 + 1))
            if case.mean_example > case.length:
                size = case.length
            if begin + size > case.length:
                break
            row[begin : begin + size] = number
            begin += size
    return out


def arrays(case: Case):
    """Inputs in bfloat16 (line float32), segments, and a cotangent."""
    random = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.bfloat16)  # noqa: E731
    b, t, n, k, h = case[:5]
    query, given = draw(b, t, n, h), draw(b, t, n, h)
    floats = [query * h**-0.5, draw(b, t, k, h), draw(b, t, k, h)]
    if case.is_biased:
        floats.append(jnp.asarray(random.standard_normal((n, 2 * t)), jnp.float32))
    return floats, jnp.asarray(segments(case)), given


def by_definition(query, key, value, own, other, line=None, *, limits):
    """The reference on a mask and a bias; a part of the rows at a time."""
    rows = None
    if line is not None:
        t, s = query.shape[1], key.shape[1]
        rows = line[:, np.arange(t)[:, None] - np.arange(s)[None, :] + s][None]

    def part(x):
        mask = views.packed_mask(x[3], x[4], causal=limits.causal, window=limits.window)
        return reference.attend(*x[:3], views.View(mask, rows), soft_cap=limits.soft_cap)

    return jax.lax.map(part, [x[:, None] for x in (query, key, value, own, other)])[:, 0]


def whole_rows(query, key, value, own, other, *, limits):
    """cuDNN without segments: what a mask costs it."""
    return jax.nn.dot_product_attention(
        query, key, value, scale=1.0, is_causal=limits.causal, implementation="cudnn"
    )


def programs(run, case: Case):
    """(output, output and gradients) of an implementation."""

    def forward(floats, own):
        return run(*floats[:3], own, own, *floats[3:], limits=case.limits)

    def both(floats, own, given):
        out, pull = jax.vjp(lambda floats: forward(floats, own), floats)
        return out, pull(given.astype(out.dtype))[0]

    return jax.jit(forward), jax.jit(both)


def milliseconds(run, *arguments, repeats: int) -> float:
    """Median time of a call when the device has the next one waiting already."""
    jax.block_until_ready(run(*arguments))
    found = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(repeats):
            out = run(*arguments)
        jax.block_until_ready(out)
        found.append(1e3 * (time.perf_counter() - begun) / repeats)
    return statistics.median(found)


def error(got, want) -> list[float]:
    """Relative errors, array by array."""
    found = []
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        found.append(round(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)), 5))
    return found


def compare(name: str, repeats: int) -> None:
    """Prints a line for each implementation that can."""
    case = CASES[name]
    floats, own, given = arrays(case)
    runs = {
        "triton": triton.attend,
        "cudnn": cudnn.attend,
        "cudnn, no segments": whole_rows,
        "blockwise": blockwise.attend,
        "reference": by_definition,
    }
    if case.is_biased or case.limits.soft_cap is not None:
        del runs["cudnn"]
    if case.is_biased or case.limits != views.Limits(case.limits.causal):
        del runs["cudnn, no segments"]
    wide = [x.astype(jnp.float32) for x in floats]
    with jax.default_matmul_precision("highest"):
        want = programs(by_definition, case)[1](wide, own, given)
    for run, apply in runs.items():
        forward, both = programs(apply, case)
        try:
            errors = error(both(floats, own, given), want)
            times = [
                milliseconds(forward, floats, own, repeats=repeats),
                milliseconds(both, floats, own, given, repeats=repeats),
            ]
        except Exception as problem:  # the others still run
            print(json.dumps({"case": name, "run": run, "error": str(problem)[:500]}), flush=True)
            continue
        figures = {"ms_forward": round(times[0], 3), "ms_both": round(times[1], 3)}
        print(json.dumps({"case": name, "run": run, **figures, "errors": errors}), flush=True)


SHAPES = {
    "forward": [
        (128, 64, 4, 3),
        (128, 64, 8, 3),
        (128, 128, 8, 2),
        (128, 128, 8, 3),
        (64, 64, 4, 3),
        (128, 32, 4, 4),
        (128, 64, 4, 2),
    ],
    "keys": [
        (64, 64, 4, 3),
        (64, 64, 4, 2),
        (64, 128, 8, 2),
        (64, 128, 4, 2),
        (32, 128, 4, 3),
        (128, 64, 4, 2),
        (128, 128, 8, 2),
        (32, 64, 4, 3),
    ],
    "queries": [
        (64, 64, 4, 3),
        (64, 64, 4, 2),
        (128, 64, 8, 2),
        (128, 64, 4, 2),
        (128, 32, 4, 3),
        (64, 128, 4, 2),
        (128, 128, 8, 2),
    ],
    "line": [(64, 64, 4, 2), (64, 64, 8, 1), (64, 64, 4, 1), (128, 64, 8, 1), (32, 64, 4, 2)],
}


def kernels(name: str, repeats: int) -> None:
    """Prints the milliseconds of each kernel by its shape."""
    case = CASES[name]
    floats, own, given = arrays(case)
    line = floats[3] if case.is_biased else None
    zero = jnp.zeros(1, jnp.int32)
    x = triton.Inputs(zero, *floats[:3], own, own, line)
    plan = triton.Plan(case.limits, triton.Shapes(), False)
    out, (_, _, log_z) = jax.jit(functools.partial(triton._forward, plan))(x)
    product = out.astype(jnp.float32) * given.astype(jnp.float32)
    more = (given, log_z, product.sum(axis=-1).swapaxes(1, 2))
    runs = {
        "forward": lambda plan, x, more: triton._forward(plan, x)[0],
        "keys": triton._of_keys,
        "queries": triton._of_queries,
        "line": triton._of_line,
    }

    def prepare(kernel, shape):
        shapes = triton.Shapes()._replace(**{kernel: triton.Shape(*shape)})
        run = functools.partial(runs[kernel], triton.Plan(case.limits, shapes, False))
        return jax.jit(run).lower(x, more).compile()

    wanted = [(k, s) for k, each in SHAPES.items() for s in each if k != "line" or case.is_biased]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        futures = [pool.submit(prepare, *each) for each in wanted]
        concurrent.futures.wait(futures)
    for (kernel, shape), future in zip(wanted, futures, strict=True):
        try:
            took = milliseconds(future.result(), x, more, repeats=repeats)
        except Exception as problem:
            print(f"{name:18} {kernel:8} {shape} {str(problem)[:120]!r}", flush=True)
            continue
        print(f"{name:18} {kernel:8} {str(shape):20} {took:8.3f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--shapes", action="store_true")
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}", flush=True)
    for name in arguments.cases:
        (kernels if arguments.shapes else compare)(name, arguments.repeats)


if __name__ == "__main__":
    main()
