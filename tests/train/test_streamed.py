"""Checkpoints written and read piece by piece are checkpoints like any other."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from t5sft import errors
from t5sft.train import checkpoint, stored, streamed

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def tree(seed=0):
    """Stacked layers of two joined kernels, and an embedding."""
    rng = np.random.default_rng(seed)
    return {
        ("decoder", "layers", "kv"): rng.normal(size=(3, 4, 2, 6)).astype(BFLOAT16),
        ("embedding",): rng.normal(size=(10, 4)).astype(np.float32),
    }


def leaves(arrays, log=None):
    def joined(array):
        for layer in range(len(array)):
            for slot in range(2):
                if log is not None:
                    log.append((layer, slot))
                yield (layer, slice(None), slot), array[layer, :, slot]

    def whole(array):
        yield (), array

    kv, embedding = arrays.values()
    return {
        ("decoder", "layers", "kv"): streamed.Leaf(
            kv.shape, kv.dtype, (1, 4, 1, 6), lambda: joined(kv)
        ),
        ("embedding",): streamed.Leaf(
            embedding.shape, embedding.dtype, embedding.shape, lambda: whole(embedding)
        ),
    }


def saved(tmp_path, **run):
    arrays = tree()
    streamed.save_params(tmp_path / "a", leaves(arrays), run)
    return tmp_path / "a", arrays


def test_restores_as_any_checkpoint_on_any_mesh(tmp_path):
    path, arrays = saved(tmp_path, recipe="none")
    mesh = jax.make_mesh((2,), ("fsdp",), devices=jax.devices()[:2])
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    kv, embedding = arrays.values()
    like = {
        "decoder": {"layers": {"kv": jax.ShapeDtypeStruct(kv.shape, jnp.float32, sharding=split)}},
        "embedding": jax.ShapeDtypeStruct(embedding.shape, jnp.float32, sharding=split),
    }
    params = checkpoint.restore_params(path, like)
    restored = params["decoder"]["layers"]["kv"]
    assert restored.sharding == split
    np.testing.assert_array_equal(restored, kv.astype(np.float32))
    np.testing.assert_array_equal(params["embedding"], embedding)
    run = json.loads((path / "run" / "run.json").read_text())
    assert run == {"recipe": "none", "stored_dtype": "bfloat16"}


def test_reads_any_part(tmp_path):
    path, arrays = saved(tmp_path)
    reader = streamed.Reader(path)
    assert reader.leaves.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (reader.leaves[name].shape, reader.leaves[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(reader.read(name), array)
    kv = ("decoder", "layers", "kv")
    part = reader.read(kv, (2, slice(None), 1))
    np.testing.assert_array_equal(part, arrays[kv][2, :, 1])


def test_reads_what_training_saved(tmp_path):
    params = {"a": {"b": jnp.arange(6.0).reshape(2, 3)}, "c": jnp.ones(2)}
    checkpoint.save_params(tmp_path / "a", params, {"step": 3})
    reader = streamed.Reader(tmp_path / "a")
    assert reader.run == {"step": 3}
    np.testing.assert_array_equal(reader.read(("a", "b"), (1,)), [3, 4, 5])
    np.testing.assert_array_equal(reader.read(("c",)), [1, 1])


def test_the_next_piece_is_made_when_the_one_before_is_written(tmp_path, monkeypatch):
    """One piece at a time in memory: none is asked for while another is being written."""
    events: list = []
    write = streamed._write_piece

    def watched(*arguments):
        events.append("begin")
        write(*arguments)
        events.append("end")

    monkeypatch.setattr(streamed, "_write_piece", watched)
    streamed.save_params(tmp_path / "a", leaves(tree(), events), {})
    asked = [i for i, event in enumerate(events) if isinstance(event, tuple)]
    assert len(asked) == 6 and events.count("end") == 7
    for i in asked:
        assert events[:i].count("begin") == events[:i].count("end")


def test_damage_is_found(tmp_path):
    path, _ = saved(tmp_path)
    data = max((path / "params").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="damaged"):
        streamed.Reader(path)


def test_never_over_something(tmp_path):
    path, _ = saved(tmp_path)
    with pytest.raises(errors.StorageError, match="already there"):
        streamed.save_params(path, leaves(tree()), {})


@pytest.mark.parametrize(
    ("unit", "chunk"),
    [
        ((1, 4096, 1, 11008), (1, 4096, 1, 5504)),
        ((128256, 4096), (8016, 4096)),
        ((7, 3), (7, 3)),
    ],
)
def test_chunks_of_64_mebibytes(unit, chunk):
    assert streamed.chunk_shape(unit, BFLOAT16) == chunk


def test_training_saves_large_leaves_layer_by_layer(tmp_path, monkeypatch):
    """Reading one layer of a stack, or a part of an embedding, decodes no more than that."""
    monkeypatch.setattr(stored, "CHUNK_BYTES", 1000)
    on = jax.make_mesh((2, 4), ("data", "fsdp"))
    split = jax.sharding.NamedSharding(on, jax.sharding.PartitionSpec(None, "fsdp"))
    rng = np.random.default_rng(0)
    values = {
        "layers": {"wi": rng.normal(size=(3, 8, 2, 40)).astype(np.float32)},
        "embedding": rng.normal(size=(64, 16)).astype(np.float32),
        "small": np.ones((4, 8), np.float32),
    }
    params = jax.device_put(values, split)
    checkpointer = checkpoint.Checkpointer(tmp_path)
    moments = {"mu": params}
    checkpointer.save(1, params=params, opt_state=moments, position={}, run={})
    checkpointer.close()
    reader = streamed.Reader(tmp_path)
    assert reader.chunk_shape(("layers", "wi"))[0] == 1
    for name in (("layers", "wi"), ("embedding",)):
        assert np.prod(reader.chunk_shape(name)) * 4 <= 1000
    np.testing.assert_array_equal(
        reader.read(("layers", "wi"), (1, slice(None), 0)), values["layers"]["wi"][1, :, 0]
    )
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), values)
    restored = checkpoint.Checkpointer(tmp_path).restore(
        like_params=like, like_opt_state={"mu": like}
    )
    jax.tree.map(np.testing.assert_array_equal, restored.params, values)
    jax.tree.map(np.testing.assert_array_equal, restored.opt_state["mu"], values)
