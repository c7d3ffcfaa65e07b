"""Checkpoints that T5X itself has written (scripts/make_t5x_fixture.py), plain and scanned."""

import io
import pathlib
import zipfile

import numpy as np
import pytest
import tensorstore as ts
from oracles import tiny

from t5sft import errors
from t5sft.convert import foreign

FIXTURE = pathlib.Path(__file__).parent / "t5x_fixture.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5x")
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", ["plain", "scan"])
def test_logits_are_those_of_t5x(name, folder):
    opened = foreign.open_any(folder / name)
    assert opened.source.step == 0 and opened.model.num_encoder_layers == 2
    params = foreign.load(opened, opened.model, opened.model.abstract()[0])
    with np.load(io.BytesIO((folder / f"{name}.npz").read_bytes())) as arrays:
        source, target, logits = (arrays[key] for key in ("source", "target", "logits"))
    inputs = np.pad(target, ((0, 0), (1, 0)))[:, :-1]  # begins with the pad token
    batch = tiny.pack(*([pair] for pair in zip(source, inputs, strict=True)))
    got = np.asarray(tiny.logits_of(opened.model)(params, batch))[:2, : target.shape[1]]
    assert np.abs(got - logits).max() <= 2e-5 * logits.std()


def test_position_biases_of_every_layer_are_refused(folder, tmp_path):
    """umT5 has them; a T5 that took the first layer's for all would be wrong without a word."""
    array = folder / "scan/checkpoint_0/target.decoder.decoder.relpos_bias.rel_embedding"
    files = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{array}/"}}
    store = ts.open(files).result()
    kept = store.read().result()
    changed = kept.copy()
    changed[0, 1, 0] += 1
    store.write(changed).result()
    with pytest.raises(errors.CheckpointError, match="position biases of its own .*umT5"):
        foreign.open_any(folder / "scan")
    store.write(kept).result()


def test_a_slice_of_a_stack_reads_no_more(folder, monkeypatch):
    """A layer is read alone: a stack of 24 layers is not in memory at once."""
    opened = foreign.open_any(folder / "scan")
    read = []
    original = ts.TensorStore.read
    monkeypatch.setattr(
        ts.TensorStore, "read", lambda self, **more: read.append(self.shape) or original(self)
    )
    for name in opened.source.tensors:
        if "SelfAttention.q" in name:
            assert opened.source.read(name).shape == (18, 12)
    assert read and set(read) == {(12, 3, 6)}
