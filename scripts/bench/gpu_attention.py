"""Attention on one GPU, every implementation: error against float32, milliseconds each way.

python scripts/bench/gpu_attention.py [--cases llama t5_encoder ...] [--runs triton ...]

Rows are packed with random examples. Errors are |x - x_ref| / |x_ref| of the output and of all
gradients, the reference (`reference.attend`) in float32 on inputs rounded to bfloat16. Milliseconds
are of one layer, forward and then forward with backward.
"""

import argparse
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


RUNS = {
    "triton": triton.attend,
    "cudnn": cudnn.attend,
    "cudnn_no_segments": whole_rows,
    "blockwise": blockwise.attend,
    "reference": by_definition,
}


def unable(run: str, case: Case) -> bool:
    """Whether an implementation cannot compute a case."""
    is_plain = not case.is_biased and case.limits.soft_cap is None
    if run == "cudnn_no_segments":
        return not is_plain or case.limits.window is not None
    return run == "cudnn" and not is_plain


def compare(name: str, runs: list[str], repeats: int) -> None:
    """Prints a line for each implementation that can."""
    case = CASES[name]
    floats, own, given = arrays(case)
    wide = [x.astype(jnp.float32) for x in floats]
    with jax.default_matmul_precision("highest"):
        want = programs(by_definition, case)[1](wide, own, given)
    for run in runs:
        if unable(run, case):
            continue
        forward, both = programs(RUNS[run], case)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}", flush=True)
    for name in arguments.cases:
        compare(name, arguments.runs, arguments.repeats)


if __name__ == "__main__":
    main()
