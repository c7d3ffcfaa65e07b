"""The fixtures of scripts/make_fixtures.py: small models of transformers and their logits."""

import functools
import json
import pathlib
import types

import ml_dtypes
import numpy as np

from t5sft.convert import families

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "convert/fixtures"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/config.json"))
HOT = 16.0  # what the script multiplied matrices with


def read_safetensors(path):
    """name -> array; for files that are known to be good."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        dtype = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}[entry["dtype"]]
        found[name] = np.frombuffer(data[begin:end], dtype).reshape(entry["shape"])
    return found


@functools.cache
def load(name):
    """config, tensors, rows [(source, target)], and the logits "default" and "hot" [rows, V]."""
    folder = FOLDER / name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arrays = dict(np.load(folder / "logits.npz"))
    return types.SimpleNamespace(
        config=config,
        family=families.find(config["model_type"]),
        tensors=read_safetensors(folder / "model.safetensors"),
        rows=[(arrays[f"source_{i}"], arrays[f"target_{i}"]) for i in range(2)],
        logits={heat: arrays[heat] for heat in ("default", "hot")},
    )


def params_of(fixture, model, heat):
    """Our parameters, float32."""
    params = {}
    for tensor in fixture.family.tensors(model):
        weight = fixture.tensors[tensor.hf_name].astype(np.float32)
        weight = weight * (HOT if heat == "hot" and weight.ndim > 1 else 1.0)
        node = params
        for part in tensor.path[:-1]:
            node = node.setdefault(part, {})
        if tensor.path[-1] not in node:
            shape = functools.reduce(dict.__getitem__, tensor.path, shapes_of(model)).shape
            node[tensor.path[-1]] = np.full(shape, np.nan, np.float32)
        node[tensor.path[-1]][tensor.index] = tensor.read(weight)
    return params


@functools.cache
def shapes_of(model):
    return model.abstract()[0]
