"""The state of a run: step, parameters, optimizer state, and where each array lies."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from t5sft.parallel import rules as rules_lib
from t5sft.train import optim


class State(NamedTuple):
    """What one step turns into the next."""

    step: jax.Array  # [], int32: steps done
    params: Any
    opt_state: Any
    guard: Any = ()  # what guard.Guard remembers, where the step itself judges batches


def abstract(model, optimizer: optim.Optimizer, mesh, rules, guard=None) -> State:
    """Returns shapes and shardings of a state without making one; checks that they divide.

    An optimizer array of a parameter's shape lies as the parameter does; the others (Adafactor's
    factors, counts) are on every device.

    Raises:
      ConfigError: an axis does not divide over the mesh.
    """
    shapes, axes = model.abstract()
    shardings = rules_lib.shardings(shapes, axes, mesh, rules)
    replicated = NamedSharding(mesh, PartitionSpec())

    def placed(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    params = jax.tree.map(placed, shapes, shardings)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer.transform,
        lambda leaf, param: placed(
            leaf, param.sharding if leaf.shape == param.shape else replicated
        ),
        jax.eval_shape(optimizer.transform.init, shapes),
        params,
        transform_non_params=lambda leaf: placed(leaf, replicated),
    )
    step = placed(jax.ShapeDtypeStruct((), jnp.int32), replicated)
    memory = jax.eval_shape(guard.memory) if guard is not None and guard.is_in_step else ()
    memory = jax.tree.map(lambda leaf: placed(leaf, replicated), memory)
    return State(step, params, opt_state, memory)


def shardings(state: State) -> State:
    """Returns the shardings of an abstract state."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def create(model, optimizer: optim.Optimizer, like: State, seed: int, params=None) -> State:
    """Makes the state of step 0, in place on its devices; `params` given are taken as they are."""
    if params is None:
        params = initial_params(model, like.params, seed)
    init = jax.jit(optimizer.transform.init, out_shardings=shardings(like).opt_state)
    step = jax.device_put(jnp.zeros((), jnp.int32), like.step.sharding)
    return State(step, params, init(params))


def initial_params(model, like, seed: int):
    """Makes random parameters of `model` that lie as `like` does; a function of `seed` alone."""
    out = jax.tree.map(lambda leaf: leaf.sharding, like)
    return jax.jit(model.init, out_shardings=out)(jax.random.key(seed))


def num_params(tree) -> int:
    """Counts parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
