"""A manifest inside every checkpoint: size and XXH3 (128 bits) of each of its files.

Orbax notices a file that is missing or cut short, but restores a flipped bit of array data
without a word. So a checkpoint is sealed before it is committed and verified before it is used.
XXH3 finds damage as SHA-256 does, at a quarter of its time; it does not stop a forger, who could
write a manifest that fits, too.
"""

import concurrent.futures
import json
import os
from collections.abc import Iterator

import xxhash
from etils import epath

from t5sft import errors

NAME = "manifest.json"
_FORMAT = 2
# Orbax writes these after the seal; neither has any influence on what is restored.
_AFTER_THE_SEAL = ("commit_success.txt", "_CHECKPOINT_METADATA")
_CHUNK_BYTES = 1 << 19
_LARGE_BYTES = 1 << 20  # below: how arrays are laid out; above: what they hold
_THREADS = 4  # reading releases the interpreter lock; four keep up with a local disk


def seal(directory: epath.PathLike) -> None:
    """Writes the manifest of every file below `directory`.

    Example of the file it writes:
      {"format": 2,
       "files": {"run/run.json": {"bytes": 8, "xxh3": "015abd7f..."}},
       "xxh3": "digest of the files above, so that damage to this file is told apart"}
    """
    directory = epath.Path(directory)
    names = _names(directory)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        entries = threads.map(lambda name: _entry(directory / name), names)
        files = dict(zip(names, entries, strict=True))
    content = {"format": _FORMAT, "files": files, "xxh3": _digest(files)}
    (directory / NAME).write_text(json.dumps(content, indent=1))


def find_damage(
    directory: epath.PathLike, *, part: int = 0, parts: int = 1, large: bool | None = None
) -> str | None:
    """Compares every file with the manifest and says what is wrong with the first bad one.

    Args:
      part, parts: several hosts share the reading: each hashes files part, part + parts, ...
      large: False hashes only the files of up to 1 MiB, True only those above; None: all.

    Raises: CheckpointError, if another version wrote the manifest: that is no damage.
    Returns: None, or for example "params/d/5cf1 has changed: its XXH3 is not the recorded one".
    """
    directory = epath.Path(directory)
    try:
        content = json.loads((directory / NAME).read_text())
        if content["format"] != _FORMAT:
            raise errors.CheckpointError(
                f"written by another version: {NAME} is of format {content['format']}, this t5sft "
                f"reads {_FORMAT}; {directory}; use the version that wrote it"
            )
        files = content["files"]
        if content["xxh3"] != _digest(files):
            return f"{NAME} has changed: its own digest does not fit"
    except FileNotFoundError:
        return f"{NAME} is missing (not written by t5sft, or removed)"
    except (ValueError, KeyError, TypeError):
        return f"{NAME} has changed: it cannot be read"
    present = set(_names(directory))
    for name in sorted(set(files) - present):
        return f"{name} is missing"
    for name in sorted(present - set(files)):
        return f"{name} is not in the manifest: something else wrote it"
    names = [n for n in sorted(files) if large in (None, files[n]["bytes"] > _LARGE_BYTES)]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        damage = threads.map(
            lambda name: _difference(directory, name, files[name]), names[part::parts]
        )
        return next(filter(None, damage), None)


def _difference(directory: epath.Path, name: str, recorded: dict) -> str | None:
    size = (directory / name).stat().length
    if size != recorded["bytes"]:
        return f"{name} has {size} bytes, its manifest says {recorded['bytes']}"
    if _entry(directory / name) != recorded:
        return f"{name} has changed: its XXH3 is not the recorded one"
    return None


def _entry(path: epath.Path) -> dict:
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "xxh3": digest.hexdigest()}


def _chunks(file) -> Iterator[bytes | memoryview]:
    """The content of a file, piece by piece; a piece is gone when the next is asked for."""
    if not hasattr(file, "readinto"):  # TensorFlow's GFile, by which etils reads buckets
        yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
        return
    # One buffer for a file: a new one for each read would be mapped and unmapped by the kernel.
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    while length := file.readinto(buffer):
        yield buffer[:length]


def _names(directory: epath.Path, prefix: str = "") -> list[str]:
    """Relative names of all files that belong in the manifest, sorted.

    A link to a directory counts as a file, which no manifest names: two that lead upwards would be
    2^40 directories.
    """
    names = []
    for path in directory.iterdir():
        if path.is_dir() and not os.path.islink(path):
            names += _names(path, f"{prefix}{path.name}/")
        elif path.name not in _AFTER_THE_SEAL and prefix + path.name != NAME:
            names.append(prefix + path.name)
    return sorted(names)


def _digest(files: dict) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())
