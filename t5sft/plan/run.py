"""The verb plan: what a run needs and how long it takes, before anybody rents a chip."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import converters
from t5sft.objectives import sft
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.plan import measure, report
from t5sft.plan import search as search_lib
from t5sft.plan import shardings as shardings_lib
from t5sft.plan import topology as topology_lib
from t5sft.train import guard as guard_lib
from t5sft.train import optim


def plan(
    *,
    model,
    optimizer: optim.Optimizer,
    steps: int,
    batch_size: int,
    decoder_length: int,
    encoder_length: int = 0,
    topology: str | None = None,
    objective: Callable = sft.sft,
    microbatches: int = 1,
    seed: int = 0,
    mesh: mesh_lib.MeshSpec | None = None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
    guard: guard_lib.Guard = guard_lib.DEFAULT,
    compiler_options: dict | None = None,
    search: bool = False,
    max_compiles: int = 4,
    shardings: bool = False,
    hlo: str | None = None,
) -> dict[str, Any]:
    """Compiles the train step of a recipe for a TPU topology on this machine and tells its cost.

    Args:
      topology: as Google Cloud names it (`topology.parse`).
      model, optimizer, steps, batch_size, objective, microbatches, seed, mesh, rules,
        guard, compiler_options: as of `train.run.train`.
      encoder_length, decoder_length: S and T of a row; of the data nothing else matters.
      search: also try other meshes, microbatches and remat policies; max_compiles: at most so many.
      shardings: only tell how every parameter lies on the mesh; nothing is compiled.
      hlo: file for the text of the compiled program, compressed.
    """
    if topology is None:
        raise errors.ConfigError(
            f"plan needs a topology; command line; add --topology, as {topology_lib.EXAMPLES}"
        )
    place = topology_lib.parse(topology)
    topology_lib.prepare()
    recipe = measure.Recipe(
        model=model,
        objective=objective,
        optimizer=optimizer,
        shapes=converters.shapes(
            model.layout,
            batch_size,
            encoder_length=encoder_length,
            decoder_length=decoder_length,
        ),
        microbatches=microbatches,
        mesh=mesh,
        rules=rules,
        seed=seed,
        steps=steps,
        guard=guard,
        compiler_options=compiler_options,
    )
    if shardings:
        rows = shardings_lib.rows(recipe, place)
        print(shardings_lib.text(rows))
        return {"topology": place.name, "shardings": rows}
    print(f"compiling for {place} ...", file=sys.stderr, flush=True)
    planned = measure.plan(recipe, place, hlo_file=hlo)
    print(report.text(planned))
    told = planned.to_json()
    if search:
        found = search_lib.search(recipe, place, planned, max_compiles)
        print(f"\n{search_lib.text(found, model)}")
        told["search"] = search_lib.to_json(found, model)
    return told
