"""Which checkpoints of a run are evaluated: the newest, some, all, or each as it is written."""

import pathlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from t5sft import errors
from t5sft.convert import foreign
from t5sft.train import checkpoint, manifest, places, stored

POLL_SECONDS = 2.0


def present(model_dir) -> list[int]:
    """Returns the committed steps of a run, ascending; changes nothing there.

    A step counts once its manifest is written, and not while it is being removed.
    """
    folder = pathlib.Path(model_dir).expanduser() / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdecimal()
        and (path / manifest.NAME).exists()
        and not (folder / f"{path.name}.retired").exists()
    )


def path_of(model_dir, step: int) -> pathlib.Path:
    return pathlib.Path(model_dir).expanduser() / "checkpoints" / str(step)


def of(path) -> tuple[int | None, Any]:
    """Returns the newest checkpoint of a run, or the one that `path` is, and its step.

    Weights without a step (a base, a Hugging Face directory) have None.
    """
    try:
        found = checkpoint.find(path)
    except errors.CheckpointError:
        return None, pathlib.Path(path)  # `start.load` knows other kinds, or says what is wrong
    return (int(found.name) if found.name.isdecimal() else None), found


def home(model_dir, results_dir: str | None) -> pathlib.Path:
    """Returns where results go: the run's directory, or of bare weights evaluations/NAME.

    Nothing is written among weights: a checkpoint with a file more than its manifest is refused.
    """
    if results_dir is not None:
        return places.local(results_dir)
    path = places.local(model_dir)
    if (path / "config.gin").exists():
        return path
    try:
        found = pathlib.Path(checkpoint.find(path))
    except errors.CheckpointError:
        if not foreign.is_foreign(path):
            return path  # a run that has saved nothing yet
        found = path
    is_step = found.parent.name == "checkpoints"
    return found.parent.parent if is_step else pathlib.Path("evaluations") / found.name


def chosen(model_dir, steps: str) -> list[int]:
    """Returns the steps of a text such as "200,400" or "all".

    Raises:
      ConfigError: a text that is neither.
      CheckpointError: a step that is not there, or none at all.
    """
    there = present(model_dir)
    known = ", ".join(map(str, there)) or "none"
    if steps == "all":
        if not there:
            raise errors.CheckpointError(f"no checkpoint; {model_dir}; train first, or --watch it")
        return there
    try:
        wanted = sorted({int(text) for text in steps.split(",")})
    except ValueError as error:
        raise errors.ConfigError(
            f"--steps is {steps!r}; evaluate; give numbers, as 200,400, or all"
        ) from error
    absent = [step for step in wanted if step not in there]
    if absent:
        raise errors.CheckpointError(
            f"no checkpoint of step {absent[0]} (steps: {known}); {model_dir}; name one of these"
        )
    return wanted


def watch(
    model_dir,
    *,
    last_step: int | None,
    done: Collection[int] = (),
    wait_seconds: float = 3600.0,
    say: Callable[[str], None] = lambda line: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """Yields the steps of a run as they appear, each once, in order.

    Ends when the run's last step has been yielded, or when no checkpoint came for wait_seconds.

    Args:
      last_step: of the run; None: unknown, so that only waiting ends it.
      done: steps that need no evaluation.
    """
    seen, waited = set(done), 0.0
    while True:
        new = [step for step in present(model_dir) if step not in seen]
        step = stored.same_on_all_processes(new[0] if new else None)
        if step is not None:
            seen.add(step)
            waited = 0.0
            yield step
        elif last_step is not None and any(one >= last_step for one in seen):
            return
        elif waited >= wait_seconds:
            say(f"no checkpoint for {waited:.0f} s; {model_dir}; watching ends")
            return
        else:
            sleep(POLL_SECONDS)
            waited += POLL_SECONDS
