"""Directories in the formats of others, made of the fixtures with changes."""

import json
import re

import msgpack
import numpy as np
import tensorstore as ts
from oracles import checkpoints

from t5sft.convert import huggingface, safetensors


def directory(path, name, *, config=None, rename=None, files=(), **changed):
    """Writes a Hugging Face directory.

    Args:
      name: of the fixture.
      config: keys that differ; rename: name -> name; changed: name -> array, None removes.
      files: lists of names, one for each file after the first; the first gets the rest.
    """
    fixture = checkpoints.load(name)
    tensors = {(rename or {}).get(n, n): array for n, array in fixture.tensors.items()}
    tensors = {n: a for n, a in {**tensors, **changed}.items() if a is not None}
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**fixture.config, **(config or {})}))
    split = [[n for n in tensors if not any(n in file for file in files)], *files]
    names = [f"model-{i + 1:05}-of-{len(split):05}.safetensors" for i in range(len(split))]
    for file, members in zip(names if files else ["model.safetensors"], split, strict=True):
        save(path / file, {n: tensors[n] for n in members})
    if files:
        weight_map = {n: file for file, members in zip(names, split, strict=True) for n in members}
        (path / huggingface.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return path


def save(path, tensors):
    specs = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    safetensors.write(path, specs, tensors.__getitem__)


ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
BLOCKS = {  # side, number of the sublayer -> T5X's names of it and of its norm
    ("encoder", 0): ("attention", "pre_attention_layer_norm"),
    ("encoder", 1): ("mlp", "pre_mlp_layer_norm"),
    ("decoder", 0): ("self_attention", "pre_self_attention_layer_norm"),
    ("decoder", 1): ("encoder_decoder_attention", "pre_cross_attention_layer_norm"),
    ("decoder", 2): ("mlp", "pre_mlp_layer_norm"),
}


def t5x_name(name):
    """Hugging Face's name -> T5X's, and whether T5X keeps it transposed."""
    if name == "shared.weight":
        return "token_embedder/embedding", False
    if name == "lm_head.weight":
        return "decoder/logits_dense/kernel", True
    side = name.partition(".")[0]
    if "relative_attention_bias" in name:
        return f"{side}/relpos_bias/rel_embedding", True
    if name.endswith("final_layer_norm.weight"):
        return f"{side}/{side}_norm/scale", False
    layer, number, *_, last = re.findall(r"\d+|[a-z]+(?:_\w+)?(?=\.weight)", name)
    sublayer, norm = BLOCKS[side, int(number)]
    if last == "layer_norm":
        return f"{side}/layers_{layer}/{norm}/scale", False
    return f"{side}/layers_{layer}/{sublayer}/{ATTENTION.get(last, last)}/kernel", True


def t5x(path, name, *, dtype=np.float32, version=3, inline=lambda n: n.endswith("scale"), **extra):
    """Writes a T5X checkpoint, as `t5x/checkpoints.py` lays it out."""
    tensors = checkpoints.load(name).tensors
    target = {}
    for theirs, array in tensors.items():
        key, is_turned = t5x_name(theirs)
        target[key] = (array.T if is_turned else array).astype(dtype)
    target.update(extra)
    path.mkdir(parents=True)
    tree = {}
    for key, array in target.items():
        *parents, last = key.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = packed(array) if inline(key) else stored(path, key, array, version)
    states = {"param_states": {"decoder": {"v": packed(np.zeros(3, np.float32))}}}
    state = {"step": packed(np.int32(17)), **states}
    content = {"version": version, "optimizer": {"target": tree, "state": state}}
    (path / "checkpoint").write_bytes(msgpack.packb(content, use_bin_type=True))
    return path


def packed(array):
    array = np.asarray(array)
    data = msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)
    return msgpack.ExtType(1, data)


def stored(path, key, array, version):
    if version == 2:  # bfloat16 as its bits
        array = array.view(np.uint16)
    folder = f"target.{key.replace('/', '.')}/"
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/{folder}"}}
    metadata = {"chunks": [max(size // 2, 1) for size in array.shape]}
    metadata["compressor"] = {"id": "gzip", "level": 1}
    made = ts.open(
        {**spec, "metadata": metadata}, create=True, dtype=array.dtype.name, shape=array.shape
    ).result()
    made.write(array).result()
    where = {"driver": "gfile", "path": f"/cns/elsewhere/checkpoint_17/{folder}"}
    metadata["shape"] = list(array.shape)
    return {"driver": "zarr", "dtype": array.dtype.name, "kvstore": where, "metadata": metadata}
