"""T5X checkpoints of T5 models, read as if they were Hugging Face directories.

    checkpoint_1000000/
      checkpoint                            msgpack of flax: {version, optimizer: {target, state}}
      target.encoder.layers_0...kernel/     zarr, one for each parameter that was partitioned

Layers that were scanned are stacked along the second axis, heads apart from their size:

    target.encoder.encoder.attention.query.kernel/   [D, L, N, H]; out [N, L, H, D], scale [D, L]

A leaf of `target` is either an array, or a TensorStore spec that says where its array lies (T5X
`checkpoints.py`, `_read_ts`). Only the name in it is used: a spec may say more than we want to run.
"""

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts

from t5sft import errors

FILE = "checkpoint"
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_NAMES = (  # T5X's path -> Hugging Face's name
    (r"token_embedder/embedding", r"shared.weight"),
    (r"decoder/logits_dense/kernel", r"lm_head.weight"),
    (
        r"(encoder|decoder)/relpos_bias/rel_embedding",
        r"\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (r"(encoder|decoder)/\1_norm/scale", r"\1.final_layer_norm.weight"),
    (
        r"encoder/layers_(\d+)/pre_attention_layer_norm/scale",
        r"encoder.block.\1.layer.0.layer_norm",
    ),
    (r"encoder/layers_(\d+)/attention/(\w+)/kernel", r"encoder.block.\1.layer.0.SelfAttention.\2"),
    (r"encoder/layers_(\d+)/pre_mlp_layer_norm/scale", r"encoder.block.\1.layer.1.layer_norm"),
    (r"encoder/layers_(\d+)/mlp/(\w+)/kernel", r"encoder.block.\1.layer.1.DenseReluDense.\2"),
    (
        r"decoder/layers_(\d+)/pre_self_attention_layer_norm/scale",
        r"decoder.block.\1.layer.0.layer_norm",
    ),
    (
        r"decoder/layers_(\d+)/self_attention/(\w+)/kernel",
        r"decoder.block.\1.layer.0.SelfAttention.\2",
    ),
    (
        r"decoder/layers_(\d+)/pre_cross_attention_layer_norm/scale",
        r"decoder.block.\1.layer.1.layer_norm",
    ),
    (
        r"decoder/layers_(\d+)/encoder_decoder_attention/(\w+)/kernel",
        r"decoder.block.\1.layer.1.EncDecAttention.\2",
    ),
    (r"decoder/layers_(\d+)/pre_mlp_layer_norm/scale", r"decoder.block.\1.layer.2.layer_norm"),
    (r"decoder/layers_(\d+)/mlp/(\w+)/kernel", r"decoder.block.\1.layer.2.DenseReluDense.\2"),
)
_STACKED = re.compile(r"(encoder|decoder)/(?:\1|layers)/(.+)")  # T5X names the stack by its side
_BIAS = re.compile(r"(?:relpos_bias|relative_posemb)/rel_embedding")
_LETTERS = {"query": "q", "key": "k", "value": "v", "out": "o"}


class Spec(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]


class Leaf(NamedTuple):
    """Where a tensor lies: all of a leaf of the tree, or one layer of a stack."""

    path: str  # T5X's, as if nothing were stacked
    stored: str  # T5X's
    value: Any  # an array, or what tells where it lies
    layer: int | None = None


def is_directory(path) -> bool:
    """Tells whether a path looks like a T5X checkpoint, or a directory of them."""
    return _find(pathlib.Path(path).expanduser()) is not None


def _find(path: pathlib.Path) -> pathlib.Path | None:
    if (path / FILE).is_file():
        return path
    steps = {p: re.fullmatch(r"checkpoint_(\d+)", p.name) for p in path.glob("checkpoint_*")}
    found = [(int(m[1]), p) for p, m in steps.items() if m and (p / FILE).is_file()]
    return max(found)[1] if found else None


class Checkpoint:
    """An opened checkpoint; `tensors` and `read` speak Hugging Face's names and shapes.

    Args:
      path: checkpoint_N, or the directory of several, of which the newest is taken.

    Raises:
      CheckpointError: it cannot be read, or is not of a T5.
    """

    def __init__(self, path):
        path = pathlib.Path(path).expanduser()
        found = _find(path)
        if found is None:
            raise errors.CheckpointError(f"no T5X checkpoint; {path}; name a checkpoint_N")
        self.path, self.where = found, str(found)
        self.step, target = self._open()
        leaves = [leaf for path, value in target.items() for leaf in self._unstacked(path, value)]
        self._leaves = {_name(leaf.path): leaf for leaf in leaves}
        self.tensors: Mapping[str, Spec] = {
            name: self._spec(leaf) for name, leaf in self._leaves.items()
        }

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What config.json of this model would say: T5X keeps no configuration beside the arrays.

        The sizes are those of the arrays; the rest is the same for all T5s.
        """
        query = self._shape("encoder.block.0.layer.0.SelfAttention.q.weight")
        buckets = self._shape(
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        )
        gate = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
        is_gated = gate in self.tensors
        inner = self._shape(gate if is_gated else gate.replace("wi_0", "wi"))
        is_tied = "lm_head.weight" not in self.tensors
        return {
            "model_type": "t5",
            "vocab_size": self._shape("shared.weight")[0],
            "d_model": query[1],
            "d_kv": query[0] // buckets[1],
            "d_ff": inner[0],
            "num_heads": buckets[1],
            "num_layers": self._count("encoder"),
            "num_decoder_layers": self._count("decoder"),
            "relative_attention_num_buckets": buckets[0],
            "feed_forward_proj": "gated-gelu" if is_gated else "relu",
            "tie_word_embeddings": is_tied,
            "scale_decoder_outputs": is_tied,
            "is_encoder_decoder": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }

    @property
    def model_type(self) -> str:
        """Names the family."""
        return "t5"

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Returns a tensor as [out, in], or its rows (start, stop)."""
        leaf = self._leaves[name]
        array = self._opened(leaf)
        if leaf.layer is not None:
            array = array[:, leaf.layer]
        if not isinstance(array, np.ndarray):
            array = array.read().result()
        if array.dtype == np.uint16:  # version 2 wrote bfloat16 so
            array = array.view(_BFLOAT16)
        array = array.reshape(_fused(leaf.path, array.shape))
        array = array.T if _is_turned(leaf.path) else array
        return array if rows is None else array[slice(*rows)]

    def _unstacked(self, path: str, value: Any) -> list[Leaf]:
        """Returns the tensors of one leaf of the tree: one, or one for each layer of a stack.

        Raises:
          CheckpointError: each layer has position biases of its own (umT5); T5 shares one.
        """
        match = _STACKED.fullmatch(path)
        if match is None:
            return [Leaf(path, path, value)]
        side, rest = match.groups()
        whole = self._opened(Leaf(path, path, value))
        if len(whole.shape) < 2:
            return [Leaf(path, path, value)]  # the check of names will tell it
        if not _BIAS.fullmatch(rest):
            layers = range(whole.shape[1])
            return [Leaf(f"{side}/layers_{i}/{rest}", path, value, i) for i in layers]
        biases = whole if isinstance(whole, np.ndarray) else whole.read().result()
        if not (biases == biases[:, :1]).all():
            raise errors.CheckpointError(
                f"every layer has position biases of its own ({path}, as umT5 has them), a T5 has "
                f"one for all; {self.path}; only T5 and T5 1.1 can be converted"
            )
        return [Leaf(f"{side}/relpos_bias/rel_embedding", path, value, 0)]

    def _open(self) -> tuple[int, dict[str, Any]]:
        try:
            content = msgpack.unpackb(
                (self.path / FILE).read_bytes(), ext_hook=_array, strict_map_key=False
            )
            optimizer = content["optimizer"]
            step = int(np.asarray(optimizer["state"]["step"]))
            target = dict(_flat(optimizer["target"]))
        except (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException) as error:
            raise errors.CheckpointError(
                f"no T5X checkpoint ({type(error).__name__}: {str(error)[:80]}); "
                f"{self.path / FILE}; fetch it again"
            ) from None
        return step, target

    def _spec(self, leaf: Leaf) -> Spec:
        found = self._opened(leaf)
        dtype = found.dtype if isinstance(found, np.ndarray) else found.dtype.numpy_dtype
        dtype = _BFLOAT16 if dtype == np.uint16 else np.dtype(dtype)
        shape = tuple(found.shape)
        shape = _fused(leaf.path, shape if leaf.layer is None else (shape[0], *shape[2:]))
        return Spec(dtype, shape[::-1] if _is_turned(leaf.path) else shape)

    def _opened(self, leaf: Leaf) -> np.ndarray | ts.TensorStore:
        is_array = isinstance(leaf.value, np.ndarray)
        return leaf.value if is_array else self._store(leaf.stored, leaf.value)

    def _store(self, path: str, leaf) -> ts.TensorStore:
        name = f"target.{path.replace('/', '.')}"
        if isinstance(leaf, dict) and isinstance(leaf.get("kvstore"), dict):
            name = str(leaf["kvstore"].get("path", "")).rstrip("/")
        elif isinstance(leaf, str) and leaf.startswith("PLACEHOLDER://"):  # written by Orbax
            name = leaf.removeprefix("PLACEHOLDER://")
        else:
            raise errors.CheckpointError(
                f"{path} is neither an array nor a TensorStore spec; {self.path / FILE}; "
                "name a T5X checkpoint"
            )
        name = name.rpartition("/")[
            2
        ]  # what stood before was a directory of the machine that wrote
        folder = self.path / name
        if name in ("", ".", "..") or not folder.is_dir():
            raise errors.CheckpointError(
                f"the array of {path} is missing: no directory {name!r:.200}; {self.path}; "
                "fetch the whole checkpoint"
            )
        files = {"driver": "file", "path": f"{folder.absolute()}/"}
        try:
            return ts.open({"driver": "zarr", "kvstore": files}, read=True).result()
        except (ValueError, OSError) as error:
            raise errors.CheckpointError(
                f"the array of {path} cannot be read ({str(error)[:120]}); {folder}; fetch it again"
            ) from error

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.tensors:
            raise errors.CheckpointError(
                f"{name} has no counterpart; {self.path}; only encoder-decoders named as T5X's "
                "T5 can be converted"
            )
        return self.tensors[name].shape

    def _count(self, side: str) -> int:
        found = (re.match(rf"{side}\.block\.(\d+)\.", name) for name in self.tensors)
        return 1 + max(int(match[1]) for match in found if match)


def _flat(tree: Mapping[str, Any], prefix: str = ""):
    for name, child in tree.items():
        if isinstance(child, dict) and "__msgpack_chunked_array__" in child:
            chunks = [child["chunks"][str(i)] for i in range(len(child["chunks"]))]
            shape = [child["shape"][str(i)] for i in range(len(child["shape"]))]
            yield prefix + name, np.concatenate(chunks).reshape(shape)
        elif isinstance(child, dict) and "kvstore" not in child:
            yield from _flat(child, f"{prefix}{name}/")
        else:
            yield prefix + name, child


def _array(code: int, data: bytes):
    """Flax's extension types: 1 is an array, 3 a number (flax/serialization.py)."""
    if code not in (1, 3):
        return None
    shape, dtype, content = msgpack.unpackb(data, raw=True)
    name = dtype.decode()
    found = np.frombuffer(content, _BFLOAT16 if name == "bfloat16" else np.dtype(name))
    return found.reshape(shape)


def _name(path: str) -> str:
    for pattern, name in _NAMES:
        if match := re.fullmatch(pattern, path):
            name = match.expand(name)
            head, dot, last = name.rpartition(".")
            name = head + dot + _LETTERS.get(last, last)
            return name if name.endswith(".weight") else f"{name}.weight"
    return path  # the check of names will say that it is not of the model


def _fused(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a kernel with heads and their size as one axis."""
    if len(shape) != 3 or not path.endswith("/kernel"):
        return shape
    a, b, c = shape
    return (a * b, c) if path.endswith("/out/kernel") else (a, b * c)


def _is_turned(path: str) -> bool:
    return path.endswith(("/kernel", "/rel_embedding"))
