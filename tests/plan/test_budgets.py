"""What the recipes of the budgets may need at most, plus 2 %.

In budgets.json "source" tells where a figure is from: "measured" by this compiler on this code;
else what a peer's own step needs on the same topology, or the chip's memory; null: no limit.

Each row compiles for 60 to 160 CPU seconds, all eleven for 20 CPU minutes; of the slow tests one is
enough, the others are manual. With libtpu of the version below installed, rows are chosen by name:
  pytest tests/plan/test_budgets.py -k "llama2_7b_v5e_16_b1 or t5_1_1_base"
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
LIBTPU = "0.0.52"  # the figures are its own; another compiler has others
RECORDED = json.loads((TOP / "tests/plan/budgets.json").read_text())
QUICK = ("llama2_7b_v5e_16_b1",)  # the others take as long, each
FIGURES = ("peak", "wire_bytes_per_chip", "matmul_flops")
ROWS = [
    pytest.param(row, marks=pytest.mark.slow if row in QUICK else pytest.mark.manual)
    for row in RECORDED
]


def planned(row):
    """Plans in a process of its own: libtpu must not find JAX begun."""
    recipe = f"gin/recipes/budget_{row}.gin"
    words = [sys.executable, "-m", "t5sft", "plan", "--gin_file", recipe, "--json"]
    done = subprocess.run(words, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def broken(told, recorded):
    """Returns what a plan breaks of its budget: figure -> times its record, 1.02 being allowed."""
    got = {
        "peak": told["memory"]["peak"],
        "wire_bytes_per_chip": told["wire_bytes_per_chip"],
        "matmul_flops": told["flops_per_step"]["hlo"],
    }
    limits = {name: recorded[name] for name in got if recorded[name] is not None}
    assert limits
    return {name: got[name] / limit for name, limit in limits.items() if got[name] > 1.02 * limit}


@pytest.mark.parametrize("row", ROWS)
def test_needs_no_more_than_recorded(row):
    pytest.importorskip("libtpu")
    if importlib.metadata.version("libtpu") != LIBTPU:
        pytest.skip(f"figures are of libtpu {LIBTPU}")
    told, recorded = planned(row), RECORDED[row]
    assert told["memory"]["fits"]
    assert not broken(told, recorded)
    state = told["memory"]["parameters"] + told["memory"]["optimizer"]
    assert told["memory"]["alias"] >= state  # all of it is donated
    assert recorded["bound"] in (None, told["bound"])
    assert told["kernels"]["silent"] == 0 and not told["unknown_loops"]


@pytest.mark.parametrize("row", RECORDED)
@pytest.mark.parametrize("figure", FIGURES)
def test_two_percent_more_break_a_budget(row, figure):
    recorded = RECORDED[row]
    if recorded[figure] is None:
        pytest.skip("no limit yet")
    figures = {name: recorded[name] or 0 for name in FIGURES}

    def told(times):
        more = {**figures, figure: times * figures[figure]}
        return {
            "memory": {"peak": more["peak"]},
            "wire_bytes_per_chip": more["wire_bytes_per_chip"],
            "flops_per_step": {"hlo": more["matmul_flops"]},
        }

    assert not broken(told(1.019), recorded)
    assert broken(told(1.021), recorded).keys() == {figure}


def test_every_recipe_of_a_budget_is_recorded():
    recipes = {p.stem.removeprefix("budget_") for p in TOP.glob("gin/recipes/budget_*.gin")}
    assert recipes == RECORDED.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology, more",
    [
        ("v4-8", {}),
        ("v5p-8", {}),
        ("v6e-4", {}),
        ("tpu7x-8", {}),
        ("2xv5e-4", {"replica": 2}),
        ("v5e-8", {"context": 2}),
    ],
)
def test_every_generation_two_slices_and_context_compile(topology, more):
    """The tiny decoder: memory is there, collectives go along the axes of the mesh."""
    pytest.importorskip("libtpu")
    words = [sys.executable, "-m", "t5sft", "plan", "--topology", topology, "--json"]
    words += ["--gin_file", "gin/recipes/quickstart_decoder.gin", "--gin_file", "gin/mesh/cpu8.gin"]
    sizes = {"replica": 1, "data": 1, "fsdp": -1, "tensor": 2, "context": 1, **more}
    words += [f"--gin.MeshSpec.{axis}={size}" for axis, size in sizes.items()]
    done = subprocess.run(words, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["topology"] == topology
    assert told["memory"]["fits"] and not told["unknown_loops"]
    assert told["kernels"]["silent"] == 0
    axes = {axis for c in told["collectives"] for axis in c["axis"].split("+")}
    assert axes == {axis for axis, size in told["mesh"].items() if size > 1}
    assert (told["step_seconds"]["dcn"] > 0) == ("replica" in axes)
