"""Where checkpoints lie: the steps of a model directory, and how one of them is removed."""

import contextlib
import os
import pathlib

from etils import epath

from t5sft import errors, paths
from t5sft.train import manifest

RETIRED = ".retired"  # beside a step: its deletion has begun, it is not to be used
COMMIT_FILE = "commit_success.txt"


def find(path) -> epath.Path:
    """The directory that holds params/: `path` or the newest step below; or CheckpointError."""
    with contextlib.suppress(FileNotFoundError):  # tasks/village/base_t5, from any directory
        path = paths.find(str(path))
    path = absolute(path)
    if (path / "params").is_dir():
        return path
    for parent in (path / "checkpoints", path):
        if parent.is_dir() and (steps := steps_in(parent)):
            return parent / str(steps[-1])
    lacks = "" if path.is_dir() else ", which is no directory"
    todo = "name a model directory, a step of it, or a Hugging Face directory (*.safetensors)"
    raise errors.CheckpointError(f"no checkpoint; {path}{lacks}; {todo}")


def committed(directory) -> dict[int, epath.Path]:
    """The committed steps of a model directory, ascending, and where each lies."""
    parent = absolute(directory) / "checkpoints"
    return {step: parent / str(step) for step in steps_in(parent)} if parent.is_dir() else {}


def steps_in(parent: epath.Path) -> list[int]:
    """The committed steps in MODEL_DIR/checkpoints, ascending."""
    names = [path.name for path in numbered(parent)]
    return sorted(int(name) for name in names if not (parent / (name + RETIRED)).exists())


def numbered(directory: epath.Path) -> list[epath.Path]:
    """Step directories; on a bucket a save in progress has none of the two files yet."""
    files = (manifest.NAME, COMMIT_FILE)
    steps = [path for path in directory.iterdir() if path.name.isdecimal()]
    return [path for path in steps if any((path / file).exists() for file in files)]


def local(path) -> pathlib.Path:
    """The directory of a run; ConfigError for a bucket, which Path would take for a folder gs:/."""
    if "://" in str(path):
        raise errors.ConfigError(
            f"model_dir is a bucket, where a run cannot lock, append or rename; {path}; use a "
            "directory that all hosts share (a disk, NFS, Filestore)"
        )
    return pathlib.Path(path).expanduser()


def absolute(path) -> epath.Path:
    """The path that Orbax takes; a bucket's stays as it is."""
    path = epath.Path(path).expanduser()
    return path if "://" in str(path) else epath.Path(path.absolute())


def delete(path: epath.Path) -> None:
    """Removes a file or a whole directory."""
    # A link is removed, never what it points to: retention must not reach beyond the model_dir.
    if os.path.islink(path) or path.is_file():
        path.unlink()
    elif path.exists():
        path.rmtree()
