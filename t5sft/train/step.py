"""The training step: one jitted function for every objective, model and mesh."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from t5sft import errors
from t5sft.parallel import explicit
from t5sft.parallel import rules as rules_lib
from t5sft.train import optim, state


def batch_shardings(shapes, mesh, rules):
    """Returns where each array of a batch lies: rows over the data axes."""
    spec = {name: ("batch", "length") for name in shapes}
    return rules_lib.shardings(shapes, spec, mesh, rules)


def check_batch(batch_size: int, microbatches: int, mesh, rules) -> None:
    """Checks that rows divide over microbatches and devices.

    Raises:
      ConfigError: with the nearest batch size that does.
    """
    (axes,) = rules_lib.spec(("batch",), rules)
    axes = (axes,) if isinstance(axes, str) else axes or ()
    shards = math.prod(mesh.shape[axis] for axis in axes)
    unit = shards * microbatches
    if microbatches < 1 or batch_size < 1 or batch_size % unit:
        near = max(round(batch_size / max(unit, 1)), 1) * max(unit, 1)
        raise errors.ConfigError(
            f"batch_size {batch_size} does not divide over {shards} data shards x "
            f"{microbatches} microbatches; batch_size; use {near}"
        )


def _split(batch, num: int):
    """[B, ...] -> [num, B / num, ...]; each microbatch takes rows of every device."""

    def split(array):
        parts = array.reshape(array.shape[0] // num, num, *array.shape[1:])
        return jnp.swapaxes(parts, 0, 1)

    return jax.tree.map(split, batch)


def sums(model, objective: Callable, params, batch, key, microbatches: int):
    """Returns gradients and terms of a batch, added up over its microbatches.

    Returns:
      (gradient of the summed loss, Terms).
    """

    def value(params, part, key):
        terms = objective(model, params, part, key)
        return terms.loss, terms

    gradient = jax.grad(value, has_aux=True)
    if microbatches == 1:
        return gradient(params, batch, key)

    def add(total, inputs):
        part, number = inputs
        part_key = None if key is None else jax.random.fold_in(key, number)
        return jax.tree.map(jnp.add, total, gradient(params, part, part_key)), None

    parts = _split(batch, microbatches)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (parts, jnp.arange(microbatches)))[0]


def make_update(
    model,
    objective: Callable,
    optimizer: optim.Optimizer,
    *,
    like: state.State,
    mesh,
    rules,
    batch_shapes,
    microbatches: int = 1,
    seed: int = 0,
    guard=None,
):
    """Builds the jitted step (State, batch) -> (State, metrics); the state is donated.

    The gradient is divided once, by the weight of the whole global batch. Metrics are (sum, weight)
    pairs. A batch without weight changes nothing but the step.

    Args:
      like: abstract state with shardings.
      batch_shapes: feature name -> ShapeDtypeStruct of the global batch.
      seed: of dropout; the key of a step is a function of (seed, step).
      guard: a guard.Guard; where it judges in the step, a bad batch leaves no trace.
    """

    placed = state.shardings(like)
    of_batch = batch_shardings(batch_shapes, mesh, rules)
    compute = explicit.region(
        functools.partial(sums, model, objective, microbatches=microbatches),
        mesh,
        rules,
        placed.params,
        of_batch,
    )

    def update(now: state.State, batch):
        key = None
        if model.dropout_rate:
            key = jax.random.fold_in(jax.random.key(seed), now.step)
        gradient, terms = compute(now.params, batch, key)
        weight = jnp.maximum(terms.weight, 1e-8)
        gradient = jax.tree.map(lambda g: g / weight, gradient)
        updates, opt_state = optimizer.transform.update(gradient, now.opt_state, now.params)
        params = optax.apply_updates(now.params, updates)
        one = jnp.ones((), jnp.float32)
        metrics = {
            "loss": (terms.loss, terms.weight),
            **terms.metrics,
            "gradient_norm": (optax.tree.norm(gradient), one),
            "learning_rate": (optim.rate(optimizer, now.opt_state, now.step), one),
        }
        after = state.State(now.step + 1, params, opt_state)
        if now.guard:
            norm = metrics["gradient_norm"][0]
            good, memory = guard.judge(now.guard, terms.loss / weight, norm, terms.weight)
            after = jax.tree.map(
                lambda new, old: jnp.where(good, new, old), after, now._replace(guard=())
            )
            after = after._replace(step=now.step + 1, guard=memory)
            metrics["skipped"] = (memory["in_row"].astype(jnp.float32), one)
        return after, metrics

    everywhere = NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(
        update,
        in_shardings=(placed, of_batch),
        out_shardings=(placed, everywhere),
        donate_argnums=0,
    )


def make_evaluate(model, objective: Callable, *, like: state.State, mesh, rules, batch_shapes):
    """Builds the jitted function (params, batch) -> metrics: sums, without dropout."""

    def evaluate(params, batch):
        with rules_lib.using(mesh, rules):
            terms = objective(model, params, batch, None)
        return {"loss": (terms.loss, terms.weight), **terms.metrics}

    everywhere = NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(
        evaluate,
        in_shardings=(
            state.shardings(like).params,
            batch_shardings(batch_shapes, mesh, rules),
        ),
        out_shardings=everywhere,
    )


def of_platform(compiler_options: dict | None, mesh) -> dict | None:
    """Returns the compiler's options that are of the mesh's platform: others do not know them.

    Example: {"xla_tpu_a": True, "xla_gpu_b": False} on a CPU: None.
    """
    platform = mesh.devices.flat[0].platform
    prefix = f"xla_{'gpu' if platform in ('cuda', 'rocm') else platform}_"
    own = {k: v for k, v in (compiler_options or {}).items() if k.startswith(prefix)}
    return own or None


class Program(NamedTuple):
    """The compiled functions of a run and where their arrays lie."""

    like: state.State  # shapes and shardings
    shardings: dict  # of a batch
    update: Callable  # (State, batch) -> (State, metrics)
    evaluate: Callable  # (params, batch) -> metrics
    peak_seconds: float | None = None  # of a step if the chips did nothing else; None: not known


class Traced(NamedTuple):
    """A step that is not compiled yet."""

    like: state.State  # abstract, with shardings
    batch: dict  # the same of a batch
    lowered: Any  # jax.stages.Lowered


def trace(
    model,
    objective: Callable,
    optimizer: optim.Optimizer,
    *,
    batch_shapes,
    microbatches: int,
    seed: int,
    mesh,
    rules,
    guard=None,
) -> Traced:
    """Traces the step of a run, as it is compiled for training and for a plan.

    Raises:
      ConfigError: the batch or a parameter does not divide over the mesh.
    """
    (batch_size,) = {shape.shape[0] for shape in batch_shapes.values()}
    check_batch(batch_size, microbatches, mesh, rules)
    like = state.abstract(model, optimizer, mesh, rules, guard)
    update = make_update(
        model,
        objective,
        optimizer,
        like=like,
        mesh=mesh,
        rules=rules,
        batch_shapes=batch_shapes,
        microbatches=microbatches,
        seed=seed,
        guard=guard,
    )
    placed = batch_shardings(batch_shapes, mesh, rules)
    batch = {
        name: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=placed[name])
        for name, shape in batch_shapes.items()
    }
    return Traced(like, batch, update.lower(like, batch))


def build(
    model,
    objective: Callable,
    optimizer: optim.Optimizer,
    *,
    batch_shapes,
    microbatches: int,
    seed: int,
    mesh,
    rules,
    guard=None,
    compiler_options: dict | None = None,
) -> Program:
    """Compiles the step of a run; no parameter is made yet. The evaluation compiles on first use.

    Args:
      compiler_options: XLA's, such as gin/mesh/tpu_overlap.gin; see `of_platform`.

    Raises:
      ConfigError: the batch or a parameter does not divide over the mesh.
    """
    traced = trace(
        model,
        objective,
        optimizer,
        batch_shapes=batch_shapes,
        microbatches=microbatches,
        seed=seed,
        mesh=mesh,
        rules=rules,
        guard=guard,
    )
    placed = {"like": traced.like, "mesh": mesh, "rules": rules, "batch_shapes": batch_shapes}
    return Program(
        traced.like,
        {name: leaf.sharding for name, leaf in traced.batch.items()},
        traced.lowered.compile(of_platform(compiler_options, mesh)),
        make_evaluate(model, objective, **placed),
    )
