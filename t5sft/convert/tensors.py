"""Where each tensor of a foreign checkpoint lies in our parameter tree, and in which form.

A family is described by tables of rows, one row for a tensor of a layer. `Table.tensors` writes
them out for a model: shapes come from the model, so a table holds names and forms only.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from t5sft import errors

Shape = tuple[int, ...]


class Transform(NamedTuple):
    """A form of a tensor: our shape -> its shape, and the two directions as views of NumPy."""

    shape: Callable[[Shape], Shape]
    read: Callable[[np.ndarray, Shape], np.ndarray]  # theirs and our shape -> ours
    write: Callable[[np.ndarray, Shape], np.ndarray]  # ours and their shape -> theirs


def _turned(array: np.ndarray, ours: Shape) -> np.ndarray:
    return array.T.reshape(ours)


def _turned_back(array: np.ndarray, theirs: Shape) -> np.ndarray:
    return array.reshape(theirs[::-1]).T


def _reshaped(array: np.ndarray, shape: Shape) -> np.ndarray:
    return array.reshape(shape)


# torch keeps a kernel as [out, in], and all heads of a projection in one axis.
TRANSFORMS = {
    "keep": Transform(lambda s: s, _reshaped, _reshaped),
    "transpose": Transform(lambda s: s[::-1], _turned, _turned_back),  # [in, out]
    "heads_out": Transform(lambda s: (s[1] * s[2], s[0]), _turned, _turned_back),  # [D, N, H]
    "heads_in": Transform(lambda s: (s[2], s[0] * s[1]), _turned, _turned_back),  # [N, H, D]
    "flat": Transform(lambda s: (math.prod(s),), _reshaped, _reshaped),  # [N, H]
    # T5X keeps [in, out], with the heads in one axis too.
    "flat_out": Transform(lambda s: (s[0], s[1] * s[2]), _reshaped, _reshaped),
    "flat_in": Transform(lambda s: (s[0] * s[1], s[2]), _reshaped, _reshaped),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One foreign tensor, or some rows of it, and the piece of ours that holds the same numbers.

    Args:
      hf_name: its name in the file.
      shape: its shape there, the whole tensor's.
      path: our leaf, from the root of the parameter tree.
      ours: the shape of our piece, leaf[index].
      layer: which layer of a stacked leaf, or None.
      slot: (axis, number) of a leaf that joins two tensors, counted without the layer axis; `kv` is
        [D, 2, K, H], keys and values, `wi` is [D, 2, F].
      transform: a name in TRANSFORMS.
      part: the rows (start, stop) that are ours of a tensor that joins several, or None.
    """

    hf_name: str
    shape: Shape
    path: tuple[str, ...]
    ours: Shape
    layer: int | None = None
    slot: tuple[int, int] | None = None
    transform: str = "keep"
    part: tuple[int, int] | None = None

    @property
    def index(self) -> tuple[int | slice, ...]:
        """What selects our piece of the leaf: leaf[index]."""
        index: list[int | slice] = [] if self.layer is None else [self.layer]
        if self.slot is not None:
            axis, number = self.slot
            index += [slice(None)] * axis + [number]
        return tuple(index)

    def read(self, array: np.ndarray) -> np.ndarray:
        """Returns our piece, as a view, of the foreign tensor or of its rows `part`."""
        if self.part is not None and len(array) == self.shape[0]:
            array = array[self.part[0] : self.part[1]]
        return TRANSFORMS[self.transform].read(array, self.ours)

    def write(self, piece: np.ndarray) -> np.ndarray:
        """Returns the foreign tensor, or its rows `part`, of our piece."""
        start, stop = self.part or (0, self.shape[0])
        return TRANSFORMS[self.transform].write(piece, (stop - start, *self.shape[1:]))


class Row(NamedTuple):
    """A line of a table; rows of one name follow one another in the tensor they are rows of."""

    hf_name: str
    path: str  # "self_attention/kv"
    transform: str = "keep"
    slot: int | None = None


class Layers(NamedTuple):
    """The rows of each layer of a stack; "{}" in the prefix is the number of the layer."""

    prefix: str
    path: str
    rows: tuple[Row, ...]


class Table(NamedTuple):
    """All names of a family. A row whose leaf the model lacks is passed over (biases, a head)."""

    rows: tuple[Row, ...]
    stacks: tuple[Layers, ...]

    def tensors(self, shapes: Mapping[str, Any], family: str) -> list[Tensor]:
        """Writes the table out.

        Args:
          shapes: our parameter tree, of anything that has a shape.

        Raises:
          ConfigError: the model has parameters for which the family has no name.
        """
        leaves = {"/".join(path): leaf.shape for path, leaf in _leaves(shapes)}
        found = [tensor for row in self.rows for tensor in _tensor([row], "", "", None, leaves)]
        for stack in self.stacks:
            own = [shape for path, shape in leaves.items() if path.startswith(f"{stack.path}/")]
            for layer in range(own[0][0] if own else 0):
                prefix = stack.prefix.format(layer)
                for rows in _by_name(stack.rows):
                    found += _tensor(rows, prefix, stack.path + "/", layer, leaves)
        unnamed = leaves.keys() - {"/".join(tensor.path) for tensor in found}
        if unnamed:
            raise errors.ConfigError(
                f"a model with {', '.join(sorted(unnamed))} is none of this family; {family}; "
                "choose another family"
            )
        return found


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()):
    for name, child in tree.items():
        if isinstance(child, Mapping):
            yield from _leaves(child, (*path, name))
        else:
            yield (*path, name), child


def _by_name(rows: tuple[Row, ...]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.hf_name, []).append(row)
    return list(groups.values())


def _tensor(rows: list[Row], prefix: str, under: str, layer: int | None, leaves) -> list[Tensor]:
    """The tensors of rows of one name: several are parts of one foreign tensor."""
    found = []
    for row in rows:
        leaf = leaves.get(under + row.path)
        if leaf is None:
            continue
        shape = leaf if layer is None else leaf[1:]
        slot = None
        if row.slot is not None:
            slot = (0 if row.path.endswith("_bias") else 1, row.slot)
            shape = shape[: slot[0]] + shape[slot[0] + 1 :]
        path = tuple((under + row.path).split("/"))
        theirs = TRANSFORMS[row.transform].shape(shape)
        found.append(Tensor(prefix + row.hf_name, theirs, path, shape, layer, slot, row.transform))
    if len(found) < 2:
        return found
    ends = np.cumsum([tensor.shape[0] for tensor in found]).tolist()
    whole = (ends[-1], *found[0].shape[1:])
    return [
        dataclasses.replace(tensor, shape=whole, part=(end - tensor.shape[0], end))
        for tensor, end in zip(found, ends, strict=True)
    ]
