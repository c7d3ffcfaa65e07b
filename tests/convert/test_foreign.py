"""Checkpoints of others: all of them is read, onto any mesh, and what does not fit is named."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from convert import written
from oracles import checkpoints

from t5sft import errors
from t5sft.convert import families, foreign, huggingface
from t5sft.parallel import mesh, rules

EACH = pytest.mark.parametrize("name", checkpoints.NAMES)
T5S = ("t5", "t5_1_1")


def like_of(model, **axes):
    """Shapes on a mesh of four devices; without axes on one."""
    shapes, names = model.abstract()
    if not axes:
        return shapes
    devices = mesh.make_mesh(data=1, **axes, devices=jax.devices()[:4])
    placed = rules.shardings(shapes, names, devices)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        placed,
    )


def assert_equal_trees(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def fixture_params(name):
    fixture = checkpoints.load(name)
    return checkpoints.params_of(fixture, fixture.family.model(fixture.config), "default")


@EACH
def test_reads_every_family_onto_a_mesh(name):
    opened = foreign.open_any(checkpoints.FOLDER / name)
    like = like_of(opened.model, fsdp=4)
    params = foreign.load(opened, opened.model, like)
    assert_equal_trees(params, fixture_params(name))
    jax.tree.map(lambda got, want: got.sharding == want.sharding or pytest.fail(), params, like)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_reads_onto_one_device_and_over_heads():
    opened = foreign.open_any(checkpoints.FOLDER / "t5_1_1")
    for axes in ({}, {"tensor": 4}, {"tensor": 2, "fsdp": 2}):
        params = foreign.load(opened, opened.model, like_of(opened.model, **axes))
        assert_equal_trees(params, fixture_params("t5_1_1"))


def test_tensors_split_over_files(tmp_path):
    names = sorted(checkpoints.load("llama").tensors)
    path = written.directory(tmp_path / "a", "llama", files=(names[:4], names[7:9]))
    opened = foreign.open_any(path)
    assert len({spec.file for spec in opened.source.tensors.values()}) == 3
    params = foreign.load(opened, opened.model, like_of(opened.model))
    assert_equal_trees(params, fixture_params("llama"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "float8_e4m3fn", "bfloat16"])
def test_any_float_dtype(tmp_path, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tensors = {n: a.astype(dtype) for n, a in checkpoints.load("llama").tensors.items()}
    opened = foreign.open_any(written.directory(tmp_path / "a", "llama", **tensors))
    params = foreign.load(opened, opened.model, like_of(opened.model))
    wanted = tensors["model.embed_tokens.weight"].astype(np.float32)
    np.testing.assert_array_equal(params["embedding"], wanted)


NORM, Q = "model.layers.1.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({NORM: None}, f"{NORM}: missing"),
        ({"model.extra.weight": np.ones(3, np.float32)}, "model.extra.weight: not of this model"),
        (
            {Q: np.ones((3, 4), np.float32)},
            rf"{Q} is \[3, 4\], the model needs \[\d+, 24\]: of anot",
        ),
        ({NORM: np.ones(24, np.int32)}, f"{NORM} is int32: not of floats"),
        ({"lm_head.weight": None}, "lm_head.weight: missing"),
    ],
)
def test_each_tensor_that_does_not_fit_is_named(tmp_path, changed, message):
    path = written.directory(tmp_path / "a", "llama", **changed)
    with pytest.raises(errors.CheckpointError, match=message) as caught:
        foreign.open_any(path)
    assert str(path) in str(caught.value)


def test_not_a_number_is_named(tmp_path):
    for value in (np.nan, np.inf):
        norm = np.array([1] * 23 + [value], ml_dtypes.bfloat16)
        path = written.directory(tmp_path / str(value), "llama", **{NORM: norm})
        opened = foreign.open_any(path)
        with pytest.raises(errors.CheckpointError, match=f"{NORM} holds NaN or infinite"):
            foreign.load(opened, opened.model, like_of(opened.model))


def test_buffers_of_old_files_are_passed_over(tmp_path):
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    opened = foreign.open_any(written.directory(tmp_path / "a", "llama", **buffer))
    assert len(opened.tensors) == len(checkpoints.load("llama").tensors)


def test_copies_of_a_tied_embedding(tmp_path):
    embedding = checkpoints.load("t5").tensors["shared.weight"]
    copies = {"encoder.embed_tokens.weight": embedding, "lm_head.weight": embedding}
    opened = foreign.open_any(written.directory(tmp_path / "a", "t5", **copies))
    assert opened.model.logits_via_embedding
    # Only a copy was kept.
    renamed = {"shared.weight": "decoder.embed_tokens.weight"}
    opened = foreign.open_any(written.directory(tmp_path / "b", "t5", rename=renamed))
    params = foreign.load(opened, opened.model, like_of(opened.model))
    assert_equal_trees(params, fixture_params("t5"))


def test_a_t5_whose_head_differs_from_its_embedding_has_one(tmp_path):
    """transformers 5 writes tie_word_embeddings = true also for T5 1.1."""
    config = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    opened = foreign.open_any(written.directory(tmp_path / "a", "t5_1_1", config=config))
    assert not opened.model.logits_via_embedding and opened.model.head_scale == 1.0
    assert_equal_trees(
        foreign.load(opened, opened.model, like_of(opened.model)), fixture_params("t5_1_1")
    )


def test_a_copy_that_differs_is_named(tmp_path):
    other = {"encoder.embed_tokens.weight": checkpoints.load("t5").tensors["shared.weight"] * 2}
    path = written.directory(tmp_path / "a", "t5", **other)
    with pytest.raises(errors.CheckpointError, match="encoder.embed_tokens.weight differs from sh"):
        foreign.open_any(path)


def index_of(path, change):
    file = path / huggingface.INDEX
    content = json.loads(file.read_text())
    change(content["weight_map"])
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update(ghost="model-00001-of-00002.safetensors"),
            "'ghost' is not in model-000",
        ),
        (lambda m: m.pop(NORM), f"'{NORM}' is in model-00002-of.*, the index says no file"),
        (
            lambda m: m.update({NORM: "../other.safetensors"}),
            "'../other.safetensors' is no file na",
        ),
        (lambda m: m.update({NORM: "model.bin"}), "'model.bin' is no file name"),
        (lambda m: m.update({NORM: "model-9.safetensors"}), "model-9.safetensors is missing"),
        (lambda m: m.update({NORM: 3}), "weight_map is no mapping"),
    ],
)
def test_an_index_that_contradicts_its_files(tmp_path, change, message):
    path = written.directory(tmp_path / "a", "llama", files=([NORM, Q],))
    index_of(path, change)
    with pytest.raises(errors.CheckpointError, match=message):
        foreign.open_any(path)


def test_a_tensor_in_two_files(tmp_path):
    path = written.directory(tmp_path / "a", "llama", files=([NORM],))
    norm = checkpoints.load("llama").tensors[NORM]
    written.save(path / "model-00003-of-00003.safetensors", {NORM: norm, "x": norm})
    index_of(path, lambda m: m.update(x="model-00003-of-00003.safetensors"))
    with pytest.raises(
        errors.CheckpointError, match=f"'{NORM}' stands in model-00002.* and in mod"
    ):
        foreign.open_any(path)


def test_pickles_are_never_opened(tmp_path):
    path = written.directory(tmp_path / "a", "llama")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(errors.CheckpointError, match="unpickling runs any code.*save_pretrained"):
        foreign.open_any(path)


def test_directories_that_are_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(errors.CheckpointError, match=r"no \*.safetensors"):
        foreign.open_any(tmp_path)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(errors.CheckpointError, match="cannot be read as JSON"):
        foreign.open_any(tmp_path)
    with pytest.raises(errors.CheckpointError, match="no config.json"):
        foreign.open_any(tmp_path / "nothing")


def test_embeddings_for_added_tokens_are_the_mean_of_the_others():
    opened = foreign.open_any(checkpoints.FOLDER / "llama")
    size = opened.model.vocab_size
    model = dataclasses.replace(opened.model, vocab_size=size + 64)
    params = foreign.load(opened, model, like_of(model, tensor=1, fsdp=4))
    before = fixture_params("llama")
    for leaf, axis in (("embedding", 0), ("head", 1)):
        old, added = np.split(np.asarray(params[leaf]), [size], axis)
        np.testing.assert_array_equal(old, before[leaf])
        mean = old.astype(np.float64).mean(axis, keepdims=True)
        np.testing.assert_allclose(added, np.repeat(mean, 64, axis), rtol=1e-6)
    assert_equal_trees(params["decoder"], before["decoder"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 7.0}, "rope_theta is 10000.0, in the model 7.0"),
        ({"vocab_size": 32}, "vocab_size is 64, in the model 32"),
        ({"num_layers": 1}, "num_layers is 2, in the model 1"),
    ],
)
def test_the_model_must_be_that_of_the_checkpoint(changes, message):
    opened = foreign.open_any(checkpoints.FOLDER / "llama")
    model = dataclasses.replace(opened.model, **changes)
    with pytest.raises(errors.CheckpointError, match=message):
        foreign.load(opened, model, like_of(model))


def test_how_a_model_is_computed_is_free():
    opened = foreign.open_any(checkpoints.FOLDER / "llama")
    other = dict(remat="full", dtype="bfloat16", attention="reference", scan_unroll=2)
    foreign.check_model(dataclasses.replace(opened.model, **other), opened.model, "")


@pytest.mark.parametrize("name", T5S)
@pytest.mark.parametrize("version", [2, 3])
def test_t5x(tmp_path, name, version):
    dtype = ml_dtypes.bfloat16 if version == 2 else np.float32
    written.t5x(tmp_path / "checkpoint_3", name, dtype=dtype, version=version)
    path = written.t5x(tmp_path / "checkpoint_17", name, dtype=dtype, version=version)
    opened = foreign.open_any(tmp_path)
    assert opened.source.path == path and opened.source.step == 17
    config = checkpoints.load(name).config
    wanted = families.find("t5").model(config)
    assert families.differences(opened.model, wanted) == []
    params = foreign.load(opened, opened.model, like_of(opened.model, fsdp=4))
    assert_equal_trees(params, fixture_params(name))


def test_t5x_arrays_all_in_one_file(tmp_path):
    path = written.t5x(tmp_path / "checkpoint_1", "t5", inline=lambda name: True)
    opened = foreign.open_any(path)
    assert_equal_trees(
        foreign.load(opened, opened.model, like_of(opened.model)), fixture_params("t5")
    )


def test_t5x_with_what_is_missing_or_extra(tmp_path):
    path = written.t5x(tmp_path / "a", "t5", **{"encoder/prompt/kernel": np.ones(3)})
    with pytest.raises(errors.CheckpointError, match="encoder/prompt/kernel: not of this model"):
        foreign.open_any(path)
    path = written.t5x(tmp_path / "b", "t5")
    shutil.rmtree(path / "target.encoder.layers_1.mlp.wi.kernel")
    with pytest.raises(errors.CheckpointError, match="encoder/layers_1/mlp/wi/kernel is missing"):
        foreign.open_any(path)


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x80", b"\xc7\xff\x01"])
def test_t5x_damaged(tmp_path, content):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="no T5X checkpoint"):
        foreign.open_any(tmp_path)


def test_t5x_spec_cannot_name_a_file_elsewhere(tmp_path):
    path = written.t5x(tmp_path / "a", "t5")
    (tmp_path / "elsewhere").mkdir()
    content = (path / "checkpoint").read_bytes()
    old = b"target.token_embedder.embedding/"
    assert old in content
    new = b"/../../elsewhere/..".rjust(len(old), b"/")
    (path / "checkpoint").write_bytes(content.replace(old, new))
    with pytest.raises(errors.CheckpointError, match="token_embedder/embedding is missing"):
        foreign.open_any(path)
