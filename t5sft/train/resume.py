"""Where a run goes on from: its newest checkpoint, weights of another run, or random ones."""

import difflib
import importlib.metadata
import json
from typing import NamedTuple

import jax
import numpy as np

from t5sft import errors
from t5sft.convert import describe
from t5sft.data import prepare, templates
from t5sft.train import guard as guard_lib
from t5sft.train import hosts, start, state
from t5sft.train import position as position_lib
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


class Begin(NamedTuple):
    """Where a run goes on."""

    state: state.State
    position: position_lib.Position


def begin(
    model,
    optimizer,
    program,
    checkpoints,
    origin,
    seed,
    training,
    *,
    facts: dict,
    guard: guard_lib.Guard,
    skips: list,
    on_damage: str = "error",
    allow_changes: bool = False,
) -> Begin:
    """Returns where to go on from: a checkpoint, `origin`, or random parameters.

    Args:
      facts: of this run, compared with those of the checkpoint.
      skips: batches to be left out; a checkpoint that has learnt one of them is passed over.
      on_damage: "fallback" passes over damaged checkpoints, too.
      allow_changes: go on with other data, tokenizer or batch size.

    Raises:
      CheckpointError: damage; ConfigError: other data, or no checkpoint before `skips`.
    """
    identity = training.identity()
    hosts.agree("data", identity)  # before the first collective
    like = program.like
    restored = _restore(checkpoints, like, skips, identity, on_damage)
    if restored is None:
        params = origin.read(like.params) if origin else None
        now = state.create(model, optimizer, like, seed, params)
        here = position_lib.Position(identity=identity, skips=skips)
        return Begin(remembering(now, like, guard, {}), here)
    saved = position_lib.from_json(restored.position, restored.step)
    _compare(restored, saved, identity, facts, allow_changes)
    here = saved.carried_over(identity)
    say(f"resuming at step {restored.step}")
    for line in changed_settings(restored.run.get("config", ""), facts["config"]):
        say(f"  {line}")
    step = jax.device_put(np.int32(restored.step), like.step.sharding)
    now = state.State(step, restored.params, restored.opt_state)
    here = here._replace(skips=sorted({*here.skips, *skips}))
    return Begin(remembering(now, like, guard, here.guard), here)


def _restore(checkpoints, like, skips, identity, on_damage):
    """Returns the newest checkpoint that is good and has learnt none of `skips`, None without."""

    def is_fit(step: int) -> bool:
        try:
            saved = position_lib.from_json(checkpoints.position(step), step)
            return not saved.has_learnt(skips, identity)
        except (errors.CheckpointError, ValueError, TypeError):
            return True  # not verified yet: `restore` says what is wrong with it

    steps = checkpoints.steps()
    fitting = [step for step in steps if not skips or is_fit(step)]
    if steps and not fitting:
        raise errors.ConfigError(
            f"every checkpoint has learnt batches of {skips} (steps: {steps}); skip_batches; use "
            "another model_dir, or keep more checkpoints (keep_last)"
        )
    for step in reversed(fitting):
        try:
            return checkpoints.restore(step, like_params=like.params, like_opt_state=like.opt_state)
        except errors.DamageError as error:
            if on_damage != "fallback" or step == fitting[0]:
                raise
            say(f"{error}: going back to the step before")
    return None


def _compare(restored, saved: position_lib.Position, identity, facts, allow_changes):
    """Tells what of the data is another than it was; raises unless that is allowed."""
    before, after = dict(saved.identity), dict(identity)
    if restored.run.get("vocabulary_sha256", facts["vocabulary_sha256"]):
        before["tokenizer"] = restored.run.get("vocabulary_sha256", facts["vocabulary_sha256"])
        after["tokenizer"] = facts["vocabulary_sha256"]
    if before.get("data") != after.get("data"):
        before["template"], after["template"] = _templates(restored.run, facts)
    changed = position_lib.differences(before, after)
    if not changed:
        return
    was, now = [before.get(n) for n in changed], [after[n] for n in changed]
    what = f"the data of this run changed ({', '.join(changed)}): step {restored.step} was trained "
    what += f"with {was}, now {now}"
    if not allow_changes:
        raise errors.ConfigError(
            f"{what}; resume; use another model_dir, or allow it (--gin.train.allow_changes=True)"
        )
    say(f"{what}: allowed")
    if set(changed) - {"batch_size", "tokenizer"}:
        say("a position means nothing in other data: they are read from their start, batch 0")


def _templates(*runs) -> list[str | None]:
    """Returns the name of each run's template, or its digest where only its text is another."""
    names = [run.get("template") for run in runs]
    texts = [run.get("template_sha256") for run in runs]
    is_only_text = names[0] == names[1] and None not in texts
    return [text[:16] for text in texts] if is_only_text else names


def changed_settings(before: str, after: str) -> list[str]:
    """Returns what differs between two gin texts, as lines of a diff; paths of runs are left out.

    Example:
      changed_settings("a.b = 1\nM = 2", "a.b = 3\nM = 2")   ["- a.b = 1", "+ a.b = 3"]
    """
    if not before or not after:
        return []
    texts = [
        [
            line
            for line in text.splitlines()
            if line.strip() and not line.startswith(("#", "import"))
        ]
        for text in (before, after)
    ]
    lines = list(difflib.unified_diff(texts[0], texts[1], n=0, lineterm=""))[2:]
    told = [f"{line[0]} {line[1:]}" for line in lines if line[0] in "+-"]
    return [line for line in told if "MODEL_DIR = " not in line]


def remembering(now: state.State, like: state.State, guard: guard_lib.Guard, saved):
    """Returns the state with what its guard remembers: `saved`, or nothing yet."""
    if not like.guard:
        return now
    place = lambda x, leaf: jax.device_put(x, leaf.sharding)  # noqa: E731
    return now._replace(guard=jax.tree.map(place, guard_lib.from_json(guard, saved), like.guard))


def facts(config: str, data: prepare.Data, vocabulary, model) -> dict:
    """Returns what a checkpoint must say of itself."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "config": config,
        "vocabulary": data.vocabulary,
        "vocabulary_sha256": vocabulary.fingerprint(),
        "model": describe.to_json(model),
        "template": data.template,
        "template_sha256": templates.fingerprint(data.template),
        "logical_axes": json.loads(json.dumps(model.abstract()[1])),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
