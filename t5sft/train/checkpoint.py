"""Checkpoints: one directory per step, all or nothing, never trained on when damaged.

    MODEL_DIR/checkpoints/
      best.json                    {"step": 400, "metric": "validation/loss", "value": 1.31}
      400/ params/ opt_state/      arrays, Orbax (OCDBT)
           data/data.json          position of the data
           run/run.json            what made it: configuration, versions, vocabulary
           metrics/metrics.json    by which the best step is chosen
           manifest.json           size and XXH3 of every file above

Orbax writes a step beside its final name and renames it. The manifest is written just before the
rename, so a step that can be seen is complete and sealed, whenever the process was killed.
"""

import contextlib
import json
import logging
import math
import shutil
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from t5sft import errors
from t5sft.train import places, stored
from t5sft.train.places import find

_LOG = logging.getLogger(__name__)
_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax: a save that did not reach its rename
BEST = "validation/loss"  # the metric by which a run chooses its best step
FAILURES = (OSError, ValueError, RuntimeError)  # of Orbax, TensorStore and JAX while writing


class Restored(NamedTuple):
    step: int
    params: Any
    opt_state: Any
    position: dict
    run: dict


class Checkpointer:
    """Saves in the background, keeps the last and the best steps, restores onto any mesh.

    Create it as the owner of the model directory (t5sft.train.owner) and on all processes: it
    removes what a killed process left behind. Training is a line: saving step s after a restart
    from an earlier step removes the steps beyond s, which belong to the abandoned branch.

    Args:
      directory: MODEL_DIR; steps go to MODEL_DIR/checkpoints/<step>.
      keep_last: how many of the newest steps stay, at least 1.
      keep_best: how many of the best steps stay besides; steps without the metric are not judged.
      best_metric: name in `metrics` that decides, such as "validation/loss"; None: no best step.
      best_mode: "min" or "max".
      async_save: False makes `save` wait until the step is committed.
    """

    def __init__(
        self,
        directory,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        best_metric: str | None = None,
        best_mode: str = "min",
        async_save: bool = True,
    ):
        if keep_last < 1 or keep_best < 0:
            raise errors.ConfigError(
                f"keep_last is {keep_last} and keep_best {keep_best}; Checkpointer; "
                "keep at least 1 of the last and 0 of the best steps"
            )
        if best_mode not in ("min", "max"):
            raise errors.ConfigError(f"best_mode is {best_mode!r}; Checkpointer; use min or max")
        self._directory = places.absolute(directory) / "checkpoints"
        self._keep_last, self._keep_best = keep_last, keep_best
        self._best_metric, self._sign = best_metric, 1 if best_mode == "min" else -1
        self._async_save = async_save
        self._current: int | None = None  # the step that this process saved or restored last
        self._in_flight: int | None = None
        self._orbax = stored.open_orbax()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                self._remove_leftovers()
        except OSError as error:
            raise errors.StorageError(
                f"cannot write ({error}); {self._directory}; choose another model_dir or free it"
            ) from error

    def save(
        self,
        step: int,
        *,
        params,
        opt_state,
        position: dict,
        run: dict,
        metrics: dict | None = None,
    ) -> None:
        """Copies the state off the devices, starts writing it, and returns.

        The state may be donated right after. A step that this process has just saved or restored
        is not written again. The previous save is waited for first.

        Args:
          params, opt_state: pytrees of jax arrays, any sharding.
          position, run: what JSON can hold.
          metrics: floats, for the choice of the best step.

        Raises:
          StorageError: no room for this step, or the previous one could not be written.
        """
        if step == self._current:
            return
        self.wait()
        path = self._directory / str(step)
        texts = {"data": position, "run": run, "metrics": metrics or {}}
        # Copied through JSON: they are written later, and the caller goes on changing its dicts.
        items = {k: ocp.args.JsonSave(json.loads(json.dumps(v))) for k, v in texts.items()}
        trees = {"params": stored.by_name(params), "opt_state": stored.by_name(opt_state)}
        items |= {k: stored.save_tree(v) for k, v in trees.items() if v}
        self._check_space(step, sum(x.nbytes for x in jax.tree.leaves(trees)))
        try:
            if jax.process_index() == 0 and path.exists():
                self._remove(path)  # of an abandoned branch; Orbax waits for this process
            self._orbax.save(path, args=stored.Items(**items))
        except FAILURES as error:
            raise self._not_saved(step, error) from error
        self._current = self._in_flight = step
        if not self._async_save:
            self.wait()

    def wait(self) -> None:
        """Returns when the save in progress is committed and old steps are removed.

        Raises:
          StorageError: it could not be written, or old ones not be removed. Earlier steps are
            intact.
        """
        step, self._in_flight = self._in_flight, None
        if step is None:
            return
        try:
            self._orbax.wait_until_finished()
        except FAILURES as error:
            self._current = None
            raise self._not_saved(step, error) from error
        try:
            if jax.process_index() == 0:
                self._retire(step)
        except OSError as error:
            raise errors.StorageError(
                f"step {step} is saved, but older ones cannot be removed ({error}); "
                f"{self._directory}; free or mend the storage and start again"
            ) from error

    def close(self) -> None:
        """Waits as `wait` does, then frees Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def restore(self, step: int | None = None, *, like_params, like_opt_state) -> Restored:
        """Reads a step onto the shardings of the given trees, after verifying all of its files.

        Args:
          step: None for the newest.
          like_params, like_opt_state: trees of jax.ShapeDtypeStruct with the sharding wanted
            (without one: the first device). Any mesh; shapes and dtypes must be those saved.

        Raises:
          DamageError: a file damaged, missing or added.
          CheckpointError: no such step, or another model.
        """
        self.wait()
        steps = self.steps()
        step = stored.same_on_all_processes(steps[-1] if step is None and steps else step)
        if step not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise errors.CheckpointError(
                f"no checkpoint {'' if step is None else f'of step {step} '}(steps: {known}); "
                f"{self._directory}; name one of these steps or another model_dir"
            )
        path = self._directory / str(step)
        earlier = [s for s in steps if s < step]
        advice = f"delete {path} to go on from step {earlier[-1]}" if earlier else None
        likes = {"params": like_params, "opt_state": like_opt_state}
        params, opt_state = stored.read_verified(self._orbax, path, likes, advice)
        texts = (stored.read_json(path, name) for name in ("data", "run"))
        self._current = step
        return Restored(step, params, opt_state, *texts)

    def steps(self) -> list[int]:
        """The committed steps, ascending."""
        return places.steps_in(self._directory)

    def position(self, step: int) -> dict:
        """The data position saved with a step, unverified; {} where it cannot be read."""
        try:
            found = stored.read_json(self._directory / str(step), "data")
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    def prune(self) -> None:
        """Removes the steps that a save of the newest would remove."""
        steps = self.steps()
        if steps and jax.process_index() == 0:
            self._retire(steps[-1])

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the best `best_metric`; None if there is no metric or no judged step."""
        return next(iter(self._best_first(self.steps())), None)

    def _best_first(self, steps: list[int]) -> list[int]:
        values = {step: self._value(step) for step in steps}
        judged = [step for step in steps if math.isfinite(values[step])]
        return sorted(judged, key=lambda step: self._sign * values[step])

    def _value(self, step: int) -> float:
        if self._best_metric is None:
            return math.nan
        try:
            metrics = stored.read_json(self._directory / str(step), "metrics")
            return float(metrics.get(self._best_metric, math.nan))
        except (OSError, ValueError, TypeError):  # damaged: `restore` says so if it is wanted
            return math.nan

    def _retire(self, newest: int) -> None:
        """Removes steps that are neither among the last nor the best; writes best.json."""
        line = [step for step in self.steps() if step <= newest]
        best = self._best_first(line)[: self._keep_best]
        for step in set(self.steps()) - set(line[-self._keep_last :] + best):
            if step > newest:
                _LOG.warning("removing step %d: step %d began another branch", step, newest)
            self._remove(self._directory / str(step))
        record = self._directory / "best.json"
        if not best:
            record.unlink(missing_ok=True)
            return
        content = {"step": best[0], "metric": self._best_metric, "value": self._value(best[0])}
        unfinished = self._directory / (record.name + _UNFINISHED)
        unfinished.write_text(json.dumps(content))
        unfinished.replace(record)

    def _remove(self, path: epath.Path) -> None:
        mark = path.parent / (path.name + places.RETIRED)
        mark.touch()  # a deletion cut short must not look like a checkpoint
        places.delete(path)
        mark.unlink()

    def _remove_leftovers(self) -> None:
        for path in list(self._directory.iterdir()):
            if path.name.endswith(_UNFINISHED):
                _LOG.info("removing %s, left by a save that was cut short", path)
                places.delete(path)
            elif path.name.endswith(places.RETIRED):
                self._remove(path.parent / path.name.removesuffix(places.RETIRED))

    def _check_space(self, step: int, needed: int) -> None:
        if "://" in str(self._directory):
            return
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise errors.StorageError(
                f"no room for step {step}: it needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB "
                f"are free; {self._directory}; free space or keep fewer steps"
            )

    def _not_saved(self, step: int, error: Exception) -> errors.StorageError:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        if len(reason) > 300:  # TensorStore names the file, then what wraps it, and last the cause
            reason = f"{reason[:60]}...{reason[-220:]}"
        return errors.StorageError(
            f"step {step} could not be written ({reason}); {self._directory}; earlier steps are "
            "intact: free or mend the storage and start again"
        )


def restore_params(path, like):
    """Reads the parameters alone, to start another run or to evaluate.

    Args:
      path: a model directory or its `checkpoints` (the newest step is taken), one step, or what
        `save_params` wrote.
      like: tree of jax.ShapeDtypeStruct, as in `Checkpointer.restore`.

    Raises:
      CheckpointError: nothing there, damage, or another model.
    """
    path = find(path)
    with contextlib.closing(stored.open_orbax()) as orbax:
        return stored.read_verified(orbax, path, {"params": like})[0]


def save_params(path, params, run: dict, *, dtype: str | None = None) -> None:
    """Writes a checkpoint of the parameters alone, sealed like any other; waits for it.

    Args:
      path: a directory that does not exist.
      params: tree of arrays.
      run: what made them, for run/run.json.
      dtype: "bfloat16" halves the files; "stored_dtype" in run.json says so, and reading gives
        float32 again with 8 bits of mantissa. None: as they are.

    Raises:
      StorageError: the directory exists or cannot be written.
    """
    path = places.absolute(path)
    if path.exists():
        raise errors.StorageError(f"already there; {path}; delete it or name another directory")
    if dtype not in (None, "bfloat16"):
        raise errors.ConfigError(f"dtype is {dtype!r}; save_params; use None or bfloat16")
    params = jax.tree.map(lambda x: jax.numpy.asarray(x, dtype=dtype), stored.by_name(params))
    run = run | {"stored_dtype": dtype} if dtype else run
    args = stored.Items(params=stored.save_tree(params), run=ocp.args.JsonSave(run))
    try:
        with contextlib.closing(stored.open_orbax()) as orbax:
            orbax.save(path, args=args)
            orbax.wait_until_finished()
        # They name the directory of this machine, which is nobody's business where it is shipped.
        for directory in (path, path / "params", path / "run"):
            (directory / places.COMMIT_FILE).write_text("committed")
    except FAILURES as error:
        raise errors.StorageError(f"could not be written ({error}); {path}; mend it") from error
