"""Where a run goes on from: its newest checkpoint, weights of another run, or random ones."""

import importlib.metadata
import json

import jax
import numpy as np

from t5sft import errors
from t5sft.convert import describe
from t5sft.data import batches, prepare
from t5sft.train import hosts, start, state
from t5sft.train.metrics import say


def find_start(init_from, model, vocabulary, checkpoints, directory) -> start.Start | None:
    """Finds the parameters of step 0 and checks them, before anything is compiled."""
    if init_from is None or checkpoints.latest_step() is not None:
        return None
    found = start.find(init_from, model, vocabulary)
    start.keep(init_from, directory)
    for line in [f"parameters from {init_from}", *found.notes]:
        say(line)
    return found


def begin(model, optimizer, program, checkpoints, origin, seed, training):
    """Returns the state and data position to go on from: checkpoint, `origin`, or random."""
    hosts.agree("data", training.identity())  # before the first collective
    like = program.like
    if checkpoints.latest_step() is not None:
        restored = checkpoints.restore(like_params=like.params, like_opt_state=like.opt_state)
        saved, identity = dict(restored.position), training.identity()
        position = batches.Position(saved.pop("block"), saved.pop("row"))
        if saved != identity:
            changed = [name for name in identity if saved.get(name) != identity[name]]
            raise errors.ConfigError(
                f"the data of this run changed ({', '.join(changed)}): step {restored.step} was "
                f"trained with {[saved.get(n) for n in changed]}, now "
                f"{[identity[n] for n in changed]}; resume; use another model_dir"
            )
        say(f"resuming at step {restored.step}")
        step = jax.device_put(np.int32(restored.step), like.step.sharding)
        return state.State(step, restored.params, restored.opt_state), position
    params = origin.read(like.params) if origin else None
    return state.create(model, optimizer, like, seed, params), batches.Position()


def facts(config: str, data: prepare.Data, vocabulary, model) -> dict:
    """Returns what a checkpoint must say of itself."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "config": config,
        "vocabulary": data.vocabulary,
        "vocabulary_sha256": vocabulary.fingerprint(),
        "model": describe.to_json(model),
        "template": data.template,
        "logical_axes": json.loads(json.dumps(model.abstract()[1])),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
