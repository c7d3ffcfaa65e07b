"""Names count what the product counts; a slice that cannot be had is told with its neighbours."""

import math

import pytest

from t5sft import errors
from t5sft.plan import slices, topology


@pytest.mark.parametrize(
    "name, shape, num_chips, num_devices",
    [
        ("v4-8", (2, 2, 1), 4, 4),
        ("v4-512", (4, 8, 8), 256, 256),
        ("v5e-1", (1, 1), 1, 1),
        ("v5e-16", (4, 4), 16, 16),
        ("v5litepod-16", (4, 4), 16, 16),
        ("v5e-256", (16, 16), 256, 256),
        ("v5p-8", (2, 2, 1), 4, 4),
        ("v5p-128", (4, 4, 4), 64, 64),
        ("v5p-1024", (8, 8, 8), 512, 512),
        ("v5p-6912", (12, 12, 24), 3456, 3456),
        ("v5p-12288", (16, 16, 24), 6144, 6144),
        ("v5p:4x4x8", (4, 4, 8), 128, 128),
        ("v5p:8x4x4", (4, 4, 8), 128, 128),
        ("v6e-8", (2, 4), 8, 8),
        ("tpu7x-8", (2, 2, 1), 4, 8),
        ("tpu7x-128", (4, 4, 4), 64, 128),
        ("2xv5e-256", (16, 16), 512, 512),
        ("4xv5p-128", (4, 4, 4), 256, 256),
        ("cpu-8", (8,), 8, 8),
    ],
)
def test_names(name, shape, num_chips, num_devices):
    found = topology.parse(name)
    assert found.shape == shape
    assert (found.num_chips, found.num_devices) == (num_chips, num_devices)
    assert topology.parse(found.name) == found


@pytest.mark.parametrize(
    "name, said",
    [
        ("v5e-100", "no slice v5e-100.*counts chips: use v5e-64 or v5e-128"),
        ("v5e-512", "no slice v5e-512.*use v5e-256"),
        ("v5p-100", "no slice v5p-100.*counts TensorCores, two per chip: use v5p-64 or v5p-128"),
        ("v5e:8x8x2", "no slice v5e:8x8x2"),
        ("2xv5p-7", "no slice v5p-7"),
        ("v5q-16", r"no chip 'v5q' \(did you mean 'v5"),
        ("v8-16", "use one of v4, v5e, v5p, v6e, tpu7x"),
        ("0xv5e-16", "has no slice"),
        ("v5e", "is no topology.*v5e-16"),
        ("cpu", "is no topology"),
        ("2xcpu-4", "cpu-8"),
    ],
)
def test_a_slice_that_does_not_exist_is_told_with_its_neighbours(name, said):
    with pytest.raises(errors.ConfigError, match=said):
        topology.parse(name)


def test_shapes_are_sorted_compact_and_within_the_pod():
    for product in slices.PRODUCTS.values():
        sizes = [math.prod(shape) for shape in product.shapes()]
        assert sizes == sorted(sizes)
        assert sizes[-1] <= product.max_chips
        assert len(set(product.shapes())) == len(sizes)


def test_cpu_devices_are_those_of_this_process():
    assert len(topology.devices(topology.parse("cpu-4"))) == 4
    with pytest.raises(errors.ConfigError, match="cpu-16 needs 16 devices, this JAX has 8"):
        topology.devices(topology.parse("cpu-16"))


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.ConfigError, match=r"pip install 't5sft\[tpu\]'"):
        topology.devices(topology.parse("v6e-256"))
