"""A Hugging Face directory: config.json, safetensors in one or many files, tokenizer files."""

import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from t5sft import errors, paths
from t5sft.convert import safetensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What a tokenizer and generation need besides the weights; copied from and to, never executed.
_COMPANIONS = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")


def is_directory(path) -> bool:
    """Tells whether a path looks like a Hugging Face directory."""
    path = pathlib.Path(path).expanduser()
    return (path / CONFIG).is_file() and not (path / "params").is_dir()


def read_config(path) -> dict[str, Any]:
    """Returns config.json of a directory; raises CheckpointError without a readable one."""
    return _read_json(pathlib.Path(path) / CONFIG)


def companions(path) -> list[pathlib.Path]:
    """Returns the files of configuration, tokenizer and generation in a directory."""
    return [file for name in _COMPANIONS if (file := pathlib.Path(path) / name).is_file()]


class Directory:
    """An opened directory, whose files have been found to fit together.

    Args:
      path: where config.json is.

    Raises:
      CheckpointError: no config.json, no safetensors, or files that are damaged, missing or
        contradict one another.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path).expanduser()
        self.where = str(self.path)
        self.config = read_config(self.path)
        self.tensors = self._open()

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Returns a tensor, or its rows (start, stop)."""
        return safetensors.read(self.tensors[name], rows)

    @property
    def model_type(self) -> str:
        """Names the family."""
        name = self.config.get("model_type")
        if not isinstance(name, str):
            raise errors.CheckpointError(
                f"model_type is missing; {self.path / CONFIG}; take the config.json of the weights"
            )
        return name

    def _open(self) -> dict[str, safetensors.Tensor]:
        index = self.path / INDEX
        if index.is_file():
            return _sharded(index)
        found = sorted(self.path.glob("*.safetensors"))
        if not found:
            raise errors.CheckpointError(self._no_weights())
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:5])
            raise errors.CheckpointError(
                f"{len(found)} safetensors files ({names}) without {INDEX}; {self.path}; fetch the "
                "index too, or keep one file"
            )
        return safetensors.read_header(found[0])

    def _no_weights(self) -> str:
        pickles = [path.name for pattern in _PICKLES for path in sorted(self.path.glob(pattern))]
        if not pickles:
            return f"no *.safetensors; {self.path}; fetch the weights"
        return (
            f"only {pickles[0]}, which t5sft does not open, since unpickling runs any code in it; "
            f"{self.path}; fetch the *.safetensors of the model, or where you trust the file write "
            "them with transformers: AutoModel.from_pretrained(DIR).save_pretrained(NEW)"
        )


def _sharded(index: pathlib.Path) -> dict[str, safetensors.Tensor]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise _contradiction(index, "weight_map is no mapping of names to files")
    files = sorted(set(weight_map.values()))
    for file in files:
        if pathlib.PurePath(file).name != file or not file.endswith(".safetensors"):
            raise _contradiction(index, f"{file!r:.200} is no file name in this directory")
        if not (index.parent / file).is_file():
            raise _contradiction(index, f"{file} is missing")
    found: dict[str, safetensors.Tensor] = {}
    for file in files:
        for name, tensor in safetensors.read_header(index.parent / file).items():
            if name in found:
                where = f"{found[name].file.name} and in {file}"
                raise _contradiction(index, f"{name!r:.200} stands in {where}")
            if weight_map.get(name) != file:
                said = weight_map.get(name, "no file")
                raise _contradiction(index, f"{name!r:.200} is in {file}, the index says {said}")
            found[name] = tensor
    lacking = sorted(weight_map.keys() - found.keys())
    if lacking:
        raise _contradiction(index, f"{lacking[0]!r:.200} is not in {weight_map[lacking[0]]}")
    return {name: found[name] for name in weight_map}


def _contradiction(index: pathlib.Path, what: str) -> errors.CheckpointError:
    return errors.CheckpointError(f"{what}; {index}; fetch the files again")


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return paths.read_object(path)
    except FileNotFoundError as error:
        raise errors.CheckpointError(
            f"no {path.name}; {path.parent}; name a Hugging Face directory"
        ) from error
    except ValueError as error:
        raise errors.CheckpointError(
            f"it cannot be read as JSON ({str(error)[:80]}); {path}; fetch it again"
        ) from error


def write(
    path,
    *,
    texts: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, pathlib.Path],
    specs: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    make: Callable[[str], np.ndarray],
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a directory that transformers loads; all or nothing, one tensor in memory at a time.

    Args:
      path: a directory that does not exist.
      texts: name -> content of JSON files, config.json among them.
      files: name -> file to copy.
      specs: name -> dtype and shape of all tensors.
      make: name -> the tensor.
      max_shard_bytes: a file is not larger, unless one tensor is; 5 GB is transformers' own.
    """
    path = pathlib.Path(path).expanduser().absolute()
    if path.exists():
        raise errors.StorageError(f"already there; {path}; delete it or name another directory")
    unfinished = path.parent / f"{path.name}.unfinished-{os.getpid()}"
    unfinished.mkdir(parents=True)
    try:
        for name, file in files.items():
            shutil.copyfile(file, unfinished / name)
        shards = _shards(specs, max_shard_bytes)
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        names = names if len(shards) > 1 else [WEIGHTS]
        for name, shard in zip(names, shards, strict=True):
            safetensors.write(unfinished / name, {n: specs[n] for n in shard}, make)
        written = dict(texts)
        if len(shards) > 1:
            size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in specs.values())
            index = {n: name for name, shard in zip(names, shards, strict=True) for n in shard}
            written[INDEX] = {"metadata": {"total_size": size}, "weight_map": index}
        for name, content in written.items():
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (unfinished / name).write_text(text + "\n", encoding="utf-8")
        unfinished.rename(path)
    except OSError as error:
        raise errors.StorageError(
            f"could not be written ({error}); {path}; free space or name another directory"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _shards(specs: Mapping, limit: int) -> list[list[str]]:
    """Fills shard after shard, in order."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, (dtype, shape) in specs.items():
        nbytes = math.prod(shape) * dtype.itemsize
        if shards[-1] and size + nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards
