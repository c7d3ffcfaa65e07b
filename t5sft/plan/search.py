"""Looks for faster settings of a recipe: all by arithmetic, the most promising by compiling them.

A compile takes minutes, so each one must pay: what it tells corrects the estimates of the rest, and
the search ends where no estimate is faster than the best that was compiled.
"""

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax

from t5sft import errors
from t5sft.parallel import mesh as mesh_lib
from t5sft.plan import estimate, flops, measure, report, roofline, topology
from t5sft.train import state

MARGIN = 1.1  # an estimate may be so much over the memory, and is compiled nevertheless
FASTER = 0.99  # of the best step's time: what is worth a compile
SHOWN = 6  # estimates in the table

Estimates = dict[estimate.Setting, estimate.Estimate]
Compiled = dict[estimate.Setting, measure.Plan]


@dataclasses.dataclass(frozen=True)
class Found:
    """One setting that fits, or should.

    Args:
      peak: bytes per device; wire: bytes a device sends per step.
      mfu: the model's FLOPs over those that the chips could do in the time.
      plan: as compiled; None: the figures are estimates.
    """

    setting: estimate.Setting
    seconds: roofline.StepSeconds
    peak: float
    wire: float
    mfu: float
    plan: measure.Plan | None


class Guess(NamedTuple):
    """An estimate, corrected by what was compiled."""

    setting: estimate.Setting
    seconds: roofline.StepSeconds
    peak: float
    wire: float


def search(
    recipe: measure.Recipe, place: topology.Topology, base: measure.Plan, max_compiles: int
) -> list[Found]:
    """Returns settings fastest first: those compiled that fit, and the best estimates.

    Args:
      base: the plan of the recipe as it stands; it corrects the estimates.
      max_compiles: how many others are compiled at most.
    """
    own = _own(recipe, base)
    known = {
        "num_parameters": state.num_params(recipe.model.abstract()[0]),
        "state_bytes": (base.memory.parameters + base.memory.optimizer) * own.shards,
        "step_flops": flops.step_flops(recipe.model, recipe.shapes),
    }
    tried = dict.fromkeys([own, *estimate.settings(recipe, place, estimate.REMATS)])
    costs = {each: estimate.estimate(recipe, place, each, **known) for each in tried}
    compiled: Compiled = {own: base}
    _say(
        f"{len(costs)} settings by arithmetic; of these at most {max_compiles} are compiled, "
        f"about {base.compile_seconds:.0f} s each"
    )
    refused: set[estimate.Setting] = set()
    while len(compiled) + len(refused) <= max_compiles:
        ranked = rank(costs, compiled, own, place)
        ranked = [guess for guess in ranked if guess.setting not in refused]
        fastest = min((p.seconds.predicted for p in compiled.values() if p.seconds), default=0)
        if not ranked or (fastest and ranked[0].seconds.predicted > FASTER * fastest):
            _say("no other setting should fit and be faster")
            break
        setting, number = ranked[0].setting, len(compiled) + len(refused)
        _say(f"{number}/{max_compiles}: compiling {_words(setting)}; {_guess(ranked[0])}")
        plan = _compile(setting.of(recipe), place)
        if plan is None:
            refused.add(setting)
        else:
            compiled[setting] = plan
    best = known["step_flops"] / place.num_chips / place.chip.flops
    room = place.chip.hbm_bytes / place.product.devices
    ranked = [guess for guess in rank(costs, compiled, own, place) if guess.peak <= room]
    return _found(compiled, [guess for guess in ranked if guess.setting not in refused], best)


def _found(compiled: Compiled, ranked: Iterable[Guess], best_seconds: float) -> list[Found]:
    """Joins what fits, fastest first; of equals first what is compiled, then as ranked.

    Args:
      best_seconds: of a step that computes what the model asks for, and nothing else.
    """

    def found(setting, seconds, peak, wire, plan=None) -> Found:
        return Found(setting, seconds, peak, wire, best_seconds / seconds.predicted, plan)

    fit = [
        found(each, plan.seconds, plan.memory.peak, plan.counts.wire_bytes, plan)
        for each, plan in compiled.items()
        if plan.seconds is not None and plan.counts is not None
    ]
    fit += [found(*guess) for guess in itertools.islice(ranked, SHOWN)]
    return sorted(fit, key=lambda each: (round(each.seconds.predicted, 6), each.plan is None))


def rank(
    costs: Estimates, compiled: Compiled, own: estimate.Setting, place: topology.Topology
) -> list[Guess]:
    """Returns the settings that are not compiled and should fit, fastest first.

    Of those as fast within 1 %, first the ones that split layers least: each product then waits for
    sums over the tensor axis, which the roofs do not see. Then the one whose roofs together are
    lowest: nothing overlaps perfectly.

    Args:
      own: the recipe's setting, a key of both.
    """
    room = MARGIN * place.chip.hbm_bytes / place.product.devices
    guesses = [_corrected(each, costs, compiled, own, place) for each in costs]
    fit = [guess for guess in guesses if guess.setting not in compiled and guess.peak <= room]

    def key(guess: Guess) -> tuple[float, int, float]:
        roofs = sum(dataclasses.astuple(guess.seconds))
        return round(math.log(guess.seconds.predicted), 2), guess.setting.mesh.tensor, roofs

    return sorted(fit, key=key)


def _corrected(setting, costs: Estimates, compiled: Compiled, own, place) -> Guess:
    """Scales an estimate by what the compiler said of the settings most like it."""
    told = costs[setting]
    least = min(cost.flops for cost in costs.values())  # nothing computes less than the model
    timed = {each: plan.counts for each, plan in compiled.items() if plan.counts}
    work = {name: getattr(told, name) for name in ("flops", "hbm", "ici", "dcn", "host")}
    if timed:
        alike = _closest(setting, timed, ("remat", "tensor"))
        counts, guessed = timed[alike], costs[alike]
        flops = told.flops * _ratio(counts.matmul_flops + counts.kernel_flops, guessed.flops)
        work["flops"] = max(flops, least)
        work["hbm"] *= _ratio(counts.hbm_bytes, guessed.hbm)
        work["host"] *= _ratio(counts.host_bytes, guessed.host)
        alike = _closest(setting, timed, ("tensor", "remat"))
        work["ici"] *= _ratio(timed[alike].wire_bytes, costs[alike].ici + costs[alike].dcn)
    seen = [each for each in compiled if each.remat == setting.remat]
    alike = _closest(setting, seen, ("tensor",)) if seen else own
    measured = compiled[alike].memory.peak - costs[alike].state
    temp = told.temp * measured / costs[alike].temp
    if not seen:  # what another policy keeps is known better than the rest: only the rest is moved
        temp = max(told.temp + measured - costs[alike].temp, told.temp / 2)
    corrected = dataclasses.replace(told, temp=temp, **work)
    wire = corrected.ici + corrected.dcn
    return Guess(setting, corrected.seconds(place), corrected.bytes, wire)


def _closest(
    setting: estimate.Setting, among: Iterable[estimate.Setting], features: Sequence[str]
) -> estimate.Setting:
    """Returns the setting with the same features, the first counting most; of equals the last."""

    def likeness(other: estimate.Setting) -> list[bool]:
        equal = {"remat": other.remat == setting.remat}
        equal["tensor"] = other.mesh.tensor == setting.mesh.tensor
        return [equal[feature] for feature in features]

    return max(reversed([*among]), key=likeness)


def _ratio(measured: float, guessed: float) -> float:
    return min(max(measured / guessed, 0.25), 4.0) if measured and guessed else 1.0


def _compile(recipe: measure.Recipe, place: topology.Topology) -> measure.Plan | None:
    """Plans a setting and tells how it went; None where the compiler or the mesh refuse it."""
    begun = time.perf_counter()
    try:
        plan = measure.plan(recipe, place)
    except (errors.ConfigError, jax.errors.JaxRuntimeError) as error:
        _say(f"  refused: {' '.join(str(error).split())[:200]}")
        return None
    verdict = f"{time.perf_counter() - begun:.0f} s; peak {plan.memory.peak / report.GB:.2f} GB"
    if plan.seconds is None:
        _say(f"  {verdict}: does not fit")
    else:
        _say(f"  {verdict}, a step takes {plan.seconds.predicted * 1000:.1f} ms at least")
    return plan


def _own(recipe: measure.Recipe, base: measure.Plan) -> estimate.Setting:
    sizes = dict(zip(base.mesh.axis_names, base.mesh.devices.shape, strict=True))
    spec = mesh_lib.MeshSpec(**sizes)
    return estimate.Setting(spec, recipe.microbatches, recipe.model.remat)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _guess(guess: Guess) -> str:
    return f"estimated {guess.peak / report.GB:.1f} GB, {guess.seconds.predicted * 1000:.1f} ms"


def _mesh(spec: mesh_lib.MeshSpec) -> str:
    sizes = [f"{axis} {size}" for axis, size in vars(spec).items() if size != 1]
    return " x ".join(sizes) or "one device"


def _words(setting: estimate.Setting) -> str:
    """Returns a setting in words."""
    number = f"{setting.microbatches} microbatch{'es' if setting.microbatches > 1 else ''}"
    return f"mesh {_mesh(setting.mesh)}, {number}, remat {setting.remat}"


def gin(setting: estimate.Setting, model: Any) -> str:
    """Returns a setting as the lines of a gin file, to stand below its includes."""
    package, _, module = type(model).__module__.rpartition(".")
    return "\n".join(
        [
            f"from {package} import {module}",
            "from t5sft.parallel import mesh",
            f"{module}.{type(model).__name__}.remat = {setting.remat!r}",
            *(f"mesh.MeshSpec.{axis} = {size}" for axis, size in vars(setting.mesh).items()),
            "MESH = @mesh.MeshSpec()",
            f"MICROBATCHES = {setting.microbatches}",
        ]
    )


def text(found: list[Found], model: Any) -> str:
    """Returns the table of settings, and the gin lines of the first that was compiled."""
    first = next((each for each in found if each.plan is not None), None)
    if first is None:
        return "nothing that was compiled fits"
    rows: list[tuple[Any, ...]] = [
        ("mesh", "microbatches", "remat", "peak GB", "wire GB", "step ms", "bound by", "MFU", "")
    ]
    for each in found:
        rows.append(
            (
                _mesh(each.setting.mesh),
                each.setting.microbatches,
                each.setting.remat,
                f"{each.peak / report.GB:.2f}",
                f"{each.wire / report.GB:.2f}",
                f"{each.seconds.predicted * 1000:.1f}",
                each.seconds.bound,
                f"{each.mfu:.0%}",
                "estimated" if each.plan is None else "compiled",
            )
        )
    lines = ["settings that fit, fastest first", *report.table(rows)]
    if found[0].plan is None:
        lines.append("estimates may be wrong by a third: --max_compiles tries more of them")
    return "\n".join([*lines, "", "the fastest compiled one as gin:", gin(first.setting, model)])


def to_json(found: list[Found], model: Any) -> list[dict[str, Any]]:
    """Returns the settings as plain data, each with its gin lines; of estimates what is known."""
    rows = []
    for each in found:
        told = {
            "mesh": {axis: size for axis, size in vars(each.setting.mesh).items() if size > 1},
            "memory": {"peak": each.peak, "fits": True},
            "wire_bytes_per_chip": each.wire,
            "step_seconds": roofline.to_json(each.seconds),
            "bound": each.seconds.bound,
            "mfu": each.mfu,
        }
        rows.append(
            {
                **(told if each.plan is None else each.plan.to_json()),
                "compiled": each.plan is not None,
                "microbatches": each.setting.microbatches,
                "remat": each.setting.remat,
                "gin": gin(each.setting, model),
            }
        )
    return rows
