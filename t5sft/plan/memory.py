"""Memory of a compiled step on one device, by kind, and what a compiler says if it does not fit."""

import dataclasses
import math
import re
from typing import Any

import jax

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device.

    Args:
      parameters, optimizer, batch: parts of `argument`, all that is given to the step; its number
        and what a guard remembers go with the batch.
      temp: activations, gradients, gathered parameters.
      output: the next state, and metrics; alias: how much of it takes the place of an argument.
      peak: most that is held at one time, as the compiler says.
      fits: whether the compiler found place for it.
    """

    argument: int
    temp: int | None
    output: int | None
    alias: int | None
    peak: int
    fits: bool
    parameters: int
    optimizer: int
    batch: int
    code: int | None = None


def held(tree: Any) -> int:
    """Returns the bytes per device of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def of_compiled(compiled: Any, like: Any, batch: Any) -> Memory:
    """Reads the compiler's account.

    Args:
      like: abstract `state.State`; batch: abstract batch with shardings.
    """
    told = compiled.memory_analysis()
    argument, temp = told.argument_size_in_bytes, told.temp_size_in_bytes
    output, alias = told.output_size_in_bytes, told.alias_size_in_bytes
    peak = getattr(told, "peak_memory_in_bytes", 0) or argument + output - alias + temp
    return Memory(
        argument=argument,
        temp=temp,
        output=output,
        alias=alias,
        peak=peak,
        fits=True,
        code=told.generated_code_size_in_bytes,
        **_given(like, batch),
    )


def of_failure(error: BaseException, like: Any, batch: Any) -> Memory | None:
    """Reads how much a step needs of which the compiler says that it does not fit; else None.

    Example:
      "Ran out of memory in memory space hbm. Used 33.17G of 15.75G hbm"    peak 33.17 GiB
      "HLO temporaries (29.36G) exceeds available HBM (15.75G)"             temp 29.36 GiB
    """
    text = str(error)
    given = _given(like, batch)
    argument = sum(given.values())
    used = re.search(r"Used ([\d.]+)([KMGT]?)i?B? of [\d.]+[KMGT]?i?B? hbm", text)
    temporaries = re.search(r"temporaries \(([\d.]+)([KMGT]?)i?B?\) exceeds available HBM", text)
    if not (used or temporaries):
        return None
    size = lambda found: round(float(found[1]) * _UNITS[found[2]])  # noqa: E731
    temp = size(temporaries) if temporaries else None
    peak = size(used) if used else argument + size(temporaries)
    return Memory(argument, temp, None, None, peak, False, **given)


def _given(like, batch) -> dict[str, int]:
    return {
        "parameters": held(like.params),
        "optimizer": held(like.opt_state),
        "batch": held((batch, like.step, like.guard)),
    }
