"""Tries settings of a recipe: all by arithmetic, the most promising by compiling them."""

import sys
from typing import Any

from t5sft import errors
from t5sft.plan import estimate, measure, report, topology
from t5sft.train import state

MARGIN = 1.1  # an estimate may be so much over the memory, and is compiled nevertheless


def search(
    recipe: measure.Recipe, place: topology.Topology, base: measure.Plan, max_compiles: int
) -> list[measure.Plan]:
    """Returns the plans that fit, fastest first, the recipe's own among them.

    Args:
      base: the plan of the recipe as it stands; it scales the estimates.
      max_compiles: how many others are compiled at most.
    """
    ranked = rank(recipe, place, base)
    if not ranked:
        print("no other setting is likely to fit", file=sys.stderr)
    plans = [base]
    for number, setting in enumerate(ranked[:max_compiles], 1):
        told = ", ".join(describe(setting.of(recipe)))
        print(f"{number}/{min(max_compiles, len(ranked))}: {told}", file=sys.stderr, flush=True)
        try:
            plans.append(measure.plan(setting.of(recipe), place))
        except errors.ConfigError as error:
            print(f"  {error}", file=sys.stderr)
    timed = [(plan.seconds.predicted, plan) for plan in plans if plan.seconds is not None]
    return [plan for _, plan in sorted(timed, key=lambda one: (one[0], one[1].memory.peak))]


def rank(
    recipe: measure.Recipe, place: topology.Topology, base: measure.Plan
) -> list[estimate.Setting]:
    """Returns the settings that should fit, fastest first by arithmetic; not the recipe's own."""
    sizes = dict(zip(base.mesh.axis_names, base.mesh.devices.shape, strict=True))
    own = estimate.Setting(
        type(recipe.mesh or estimate.mesh_lib.MeshSpec())(**sizes),
        recipe.microbatches,
        recipe.model.remat,
    )
    held = base.memory.parameters + base.memory.optimizer
    known = {
        "num_parameters": state.num_params(recipe.model.abstract()[0]),
        "state_bytes": held * own.shards,
    }
    guessed = estimate.estimate(recipe, place, own, **known)
    measured = base.memory.temp or base.memory.peak - base.memory.argument
    scale = min(max(measured / guessed.temp, 0.25), 4)
    room = MARGIN * place.chip.hbm_bytes / place.product.devices
    found = []
    for setting in estimate.settings(recipe, place, estimate.REMATS):
        told = estimate.estimate(recipe, place, setting, **known)
        needed = told.state + scale * told.temp
        if setting != own and needed <= room:
            found.append((round(told.seconds.predicted, 6), needed, setting))
    return [setting for _, _, setting in sorted(found, key=lambda one: one[:2])]


def describe(recipe: measure.Recipe) -> list[str]:
    """Returns a setting in words."""
    sizes = vars(recipe.mesh) if recipe.mesh else {}
    mesh = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size not in (1,))
    return [f"mesh {mesh or 'data'}", f"{recipe.microbatches} microbatches", recipe.model.remat]


def gin(plan: measure.Plan) -> str:
    """Returns a plan's setting as the lines of a gin file, to stand below its includes."""
    kind = type(plan.recipe.model)
    package, _, module = kind.__module__.rpartition(".")
    return "\n".join(
        [
            f"from {package} import {module}",
            "from t5sft.parallel import mesh",
            f"{module}.{kind.__name__}.remat = {plan.recipe.model.remat!r}",
            *(f"mesh.MeshSpec.{axis} = {size}" for axis, size in plan.mesh.shape.items()),
            "MESH = @mesh.MeshSpec()",
            f"MICROBATCHES = {plan.recipe.microbatches}",
        ]
    )


def text(plans: list[measure.Plan]) -> str:
    """Returns the table of plans that fit, and the gin lines of the first."""
    if not plans:
        return "nothing that was tried fits"
    rows: list[tuple[Any, ...]] = [
        ("mesh", "microbatches", "remat", "peak GB", "wire GB", "step ms", "bound by", "MFU")
    ]
    for plan in plans:
        told = plan.to_json()
        mesh = " x ".join(f"{axis} {size}" for axis, size in told["mesh"].items())
        rows.append(
            (
                mesh or "one device",
                plan.recipe.microbatches,
                plan.recipe.model.remat,
                f"{plan.memory.peak / report.GB:.2f}",
                f"{told['wire_bytes_per_chip'] / report.GB:.2f}",
                f"{told['step_seconds']['predicted'] * 1000:.1f}",
                told["bound"],
                f"{told['mfu']:.0%}",
            )
        )
    lines = ["settings that fit, fastest first", *report.table(rows)]
    return "\n".join([*lines, "", "the first as gin:", gin(plans[0])])


def to_json(plans: list[measure.Plan]) -> list[dict[str, Any]]:
    """Returns the plans that fit, as plain data, each with its gin lines."""
    return [
        {
            **plan.to_json(),
            "microbatches": plan.recipe.microbatches,
            "remat": plan.recipe.model.remat,
            "gin": gin(plan),
        }
        for plan in plans
    ]
