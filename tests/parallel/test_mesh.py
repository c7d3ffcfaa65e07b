"""The mesh has the sizes asked for, or says which sizes would work."""

import re
import types

import jax
import numpy as np
import pytest

from t5sft import errors
from t5sft.parallel import mesh


@pytest.mark.parametrize(
    "sizes, shape",
    [
        (dict(), (1, 8, 1, 1, 1, 1)),
        (dict(tensor=2), (1, 4, 1, 1, 2, 1)),
        (dict(fsdp=4, tensor=2), (1, 1, 4, 1, 2, 1)),
        (dict(data=2, fsdp=-1), (1, 2, 4, 1, 1, 1)),
        (dict(replica=2, data=1, fsdp=2, tensor=1, context=2), (2, 1, 2, 1, 1, 2)),
        (dict(data=1, fsdp=2, fsdp_inner=4), (1, 1, 2, 4, 1, 1)),
    ],
)
def test_sizes(sizes, shape):
    made = mesh.make_mesh(**sizes)
    assert made.axis_names == ("replica", "data", "fsdp", "fsdp_inner", "tensor", "context")
    assert made.devices.shape == shape
    assert {*made.devices.flat} == {*jax.devices()}


@pytest.mark.parametrize(
    "sizes, said",
    [
        (
            dict(tensor=3),
            "tensor=3 needs a multiple of 3 devices, but there are 8; mesh; use data=-1, tensor=2",
        ),
        (dict(fsdp=4, tensor=4), "multiple of 16 devices, but there are 8.*fsdp=2, tensor=4"),
        (dict(data=2, tensor=2), "data=2, tensor=2 needs 4 devices.*8.*use data=-1, tensor=2"),
        (dict(data=-1, fsdp=-1), "data and fsdp are all -1"),
        (dict(tensor=0), "tensor=0 is no axis size"),
    ],
)
def test_says_what_would_work(sizes, said):
    with pytest.raises(errors.ConfigError, match=said):
        mesh.make_mesh(**sizes)


@pytest.mark.parametrize("sizes", [dict(tensor=3), dict(fsdp=4, tensor=4), dict(data=2, tensor=2)])
def test_the_advice_works(sizes):
    with pytest.raises(errors.ConfigError) as raised:
        mesh.make_mesh(**sizes)
    advice = dict(re.findall(r"(\w+)=(-?\d+)", str(raised.value).rpartition("; use ")[2]))
    made = mesh.make_mesh(**{axis: int(size) for axis, size in advice.items()})
    assert made.size == len(jax.devices())
    assert all(made.shape[axis] == int(size) for axis, size in advice.items() if size != "-1")


def test_a_part_of_the_devices():
    assert mesh.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4]).size == 4


def test_what_a_configuration_gives_becomes_a_mesh():
    two = jax.devices()[:2]
    made = mesh.resolve(mesh.MeshSpec(data=1, tensor=2), two)
    assert (made.size, made.shape["tensor"]) == (2, 2)
    assert mesh.resolve(None).shape["data"] == len(jax.devices())
    assert mesh.resolve(made) is made


def pod(num_slices, per_slice):
    """Stand-ins for TPU devices in several slices."""
    return [
        types.SimpleNamespace(
            id=i,
            slice_index=i // per_slice,
            process_index=i // per_slice,
            platform="cpu",
            device_kind="cpu",
        )
        for i in range(num_slices * per_slice)
    ]


def test_replica_runs_across_slices(monkeypatch):
    monkeypatch.setattr(mesh, "Mesh", lambda grid, names, axis_types: grid)
    grid = mesh.make_mesh(replica=4, fsdp=2, devices=pod(2, 4))
    assert grid.shape == (4, 1, 2, 1, 1, 1)
    slices = np.vectorize(lambda device: device.slice_index)(grid)
    np.testing.assert_array_equal(slices[:, 0, :, 0, 0, 0], [[0, 0], [0, 0], [1, 1], [1, 1]])


def test_no_axis_but_replica_leaves_a_slice():
    with pytest.raises(errors.ConfigError, match="replica=1 does not divide over 2 TPU slices"):
        mesh.make_mesh(devices=pod(2, 4))
