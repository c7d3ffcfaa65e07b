"""Compiles the train step of a recipe for a topology, and reads what it will cost."""

import contextlib
import dataclasses
import gzip
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from t5sft.parallel import mesh as mesh_lib
from t5sft.plan import collectives, count, flops, memory, roofline, topology
from t5sft.train import guard as guard_lib
from t5sft.train import optim, state
from t5sft.train import step as step_lib


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What decides the program of a step; no data and no parameter is read.

    Args:
      shapes: SeqIO's feature name -> abstract array of the global batch.
      mesh: sizes, or None for all devices as data.
      steps: of the whole run.
      guard: of bad batches; it judges inside the step. compiler_options: XLA's.
    """

    model: Any
    objective: Callable
    optimizer: optim.Optimizer
    shapes: dict[str, jax.ShapeDtypeStruct]
    microbatches: int
    mesh: mesh_lib.MeshSpec | None
    rules: Sequence
    seed: int
    steps: int
    guard: guard_lib.Guard = guard_lib.DEFAULT
    compiler_options: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step costs; counts and seconds are None where it does not fit."""

    place: topology.Topology
    recipe: Recipe
    mesh: Mesh
    memory: memory.Memory
    counts: count.Counts | None
    seconds: roofline.StepSeconds | None
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as plain data; FLOPs and bytes are per chip, or per half where JAX has
        two devices per chip."""
        chips = self.place.num_chips
        analytic = flops.step_flops(self.recipe.model, self.recipe.shapes)
        counts, seconds = self.counts, self.seconds
        rate = mfu = hours = None
        if seconds is not None:
            rate = flops.tokens(self.recipe.shapes) / seconds.predicted / chips
            mfu = analytic / chips / self.place.chip.flops / seconds.predicted
            hours = seconds.predicted * self.recipe.steps / 3600
        return {
            "topology": self.place.name,
            "num_devices": self.place.num_devices,
            "num_chips": chips,
            "mesh": {axis: size for axis, size in self.mesh.shape.items() if size > 1},
            "num_parameters": state.num_params(self.recipe.model.abstract()[0]),
            "hbm_bytes_per_chip": self.place.chip.hbm_bytes // self.place.product.devices,
            "memory": dataclasses.asdict(self.memory),
            "flops_per_step": {
                "analytic": analytic / self.place.num_devices,
                "hlo": counts and counts.matmul_flops,
                "kernels": counts and counts.kernel_flops,
            },
            "kernels": counts and {"calls": counts.kernels, "silent": counts.undeclared_kernels},
            "collectives": [dataclasses.asdict(c) for c in counts.collectives] if counts else [],
            "wire_bytes_per_chip": counts and counts.wire_bytes,
            "hbm_traffic_bytes_per_chip": counts and counts.hbm_bytes,
            "host_bytes_per_chip": counts and counts.host_bytes,
            "unknown_loops": list(counts.unknown_loops) if counts else [],
            "step_seconds": seconds and roofline.to_json(seconds),
            "bound": seconds and seconds.bound,
            "tokens_per_second_per_chip": rate,
            "mfu": mfu,
            "steps": self.recipe.steps,
            "hours": hours,
            "chip_hours": hours and hours * chips,
            "compile_seconds": self.compile_seconds,
        }


@contextlib.contextmanager
def compiled_anew():
    """Keeps JAX's cache of programs out: how long the compiler takes is told, too.

    What is compiled for a chip that is only described cannot be read back, and is large. JAX
    decides once per process whether it uses its cache; a reset makes it ask again.
    """
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def plan(recipe: Recipe, place: topology.Topology, *, hlo_file: str | None = None) -> Plan:
    """Compiles the step for a topology and counts what it does.

    Args:
      hlo_file: where to keep the text of the compiled program, compressed.

    Raises:
      ConfigError: the recipe does not divide over the topology.
    """
    mesh = mesh_lib.resolve(recipe.mesh, topology.devices(place))
    like, batch, lowered = step_lib.trace(
        recipe.model,
        recipe.objective,
        recipe.optimizer,
        batch_shapes=recipe.shapes,
        microbatches=recipe.microbatches,
        seed=recipe.seed,
        mesh=mesh,
        rules=recipe.rules,
        guard=recipe.guard,
    )
    options = step_lib.of_platform(recipe.compiler_options, mesh)
    begun = time.perf_counter()
    try:
        with compiled_anew():
            compiled = lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        needed = memory.of_failure(error, like, batch)
        if needed is None:
            raise
        return Plan(place, recipe, mesh, needed, None, None, time.perf_counter() - begun)
    seconds = time.perf_counter() - begun
    text = compiled.as_text()
    if hlo_file is not None:
        pathlib.Path(hlo_file).write_bytes(gzip.compress(text.encode()))
    counts = count.count(text, collectives.Mesh(mesh.axis_names, mesh.devices.shape))
    told = memory.of_compiled(compiled, like, batch)
    return Plan(place, recipe, mesh, told, counts, roofline.of_counts(place, counts), seconds)
