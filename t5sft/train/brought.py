"""What weights bring with them, for a recipe to use: their model, tokenizer and chat template.

A run begins with `init_from` and goes on from `model_dir`, where both are kept. So the checkpoint
of the model directory is asked first: it needs no `init_from`, which may be gone.
"""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from t5sft import errors
from t5sft.convert import foreign, weights
from t5sft.data import templates
from t5sft.models.model import Model
from t5sft.train import checkpoint, start

_RECIPES = {
    "encoder_decoder": "gin/recipes/tune_t5.gin",
    "decoder": "gin/recipes/tune_decoder.gin",
}


def model(
    init_from: str | None = None,
    model_dir: str | None = None,
    dtype: str | None = None,
    remat: str | None = None,
    dropout_rate: float | None = None,
    layout: str | None = None,
) -> Model:
    """Returns the model that the weights are of, trained in another way where that is given.

    Args:
      init_from: a Hugging Face directory, a T5X checkpoint or one of ours.
      model_dir: of the run; what it holds comes before init_from.
      dtype: of the computation; None: bfloat16 where the weights are of 16 bits, else float32.
      layout: that the recipe is for, "encoder_decoder" or "decoder"; None: any.

    Raises:
      ConfigError: neither is given, the checkpoint does not say its model, or has another layout.
    """
    path = _place(init_from, model_dir)
    found = start.model_of(path)
    if found is None:
        raise errors.ConfigError(
            f"the checkpoint does not say its model; {path}; use a recipe that names MODEL"
        )
    if layout not in (None, found.layout):
        raise errors.ConfigError(
            f"the recipe is for the layout {layout!r}, the weights are of a {found.layout!r}; "
            f"{path}; use {_RECIPES[found.layout]}"
        )
    if dtype is None and foreign.is_foreign(path) and _are_short(path):
        dtype = "bfloat16"
    given: dict[str, Any] = {"dtype": dtype, "remat": remat, "dropout_rate": dropout_rate}
    return dataclasses.replace(found, **{k: v for k, v in given.items() if v is not None})


def vocabulary(init_from: str | None = None, model_dir: str | None = None) -> str:
    """Returns the tokenizer that lies beside the weights; raises ConfigError without one."""
    path = _place(init_from, model_dir)
    found = start.tokenizer_of(path)
    if found is None:
        raise errors.ConfigError(
            f"no tokenizer beside the weights; {path}; add it there, or "
            """--gin.VOCABULARY='"PATH"'"""
        )
    return found


def template(
    init_from: str | None = None, model_dir: str | None = None, otherwise: str = "plain"
) -> str:
    """Returns the directory of the weights if it has a chat template, else `otherwise`."""
    kept = start.kept(_place(init_from, model_dir))
    if kept is None:
        return otherwise
    try:
        templates.get(str(kept))
    except errors.ConfigError as error:
        if "no chat_template" not in str(error):
            raise
        return otherwise
    return str(kept)


def _place(init_from: str | None, model_dir: str | None) -> str:
    if model_dir is not None:
        folder = str(pathlib.Path(model_dir).expanduser()) if "://" not in model_dir else model_dir
        if foreign.is_foreign(folder):
            return folder
        try:
            checkpoint.find(folder)
            return folder
        except errors.CheckpointError:
            pass
    if init_from is None:
        raise errors.ConfigError(
            "the recipe takes model and tokenizer from weights, and none are given; init_from; "
            "add --init_from DIR"
        )
    return init_from


def _are_short(path: str) -> bool:
    """Tells whether most of the weights are of 16 bits or fewer."""
    opened = foreign.open_any(path)
    sizes = {True: 0, False: 0}
    for name in {tensor.hf_name for tensor in opened.tensors}:
        spec: weights.Spec = opened.spec(name)
        sizes[np.dtype(spec.dtype).itemsize <= 2] += math.prod(spec.shape)
    return sizes[True] > sizes[False]
