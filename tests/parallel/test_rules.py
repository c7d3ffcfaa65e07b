"""Logical names become mesh axes, or an error that names parameter, axis and sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from oracles import tiny

from t5sft import errors
from t5sft.parallel import mesh, rules


@pytest.mark.parametrize(
    "names, spec",
    [
        (("vocab", "mlp"), P("tensor", None)),  # an axis is used once
        (("embed", None, "mlp"), P(("fsdp", "fsdp_inner"), None, "tensor")),
        (("length", "embed", "embed"), P("context", ("fsdp", "fsdp_inner"), None)),
        (("batch", "embed"), P(("replica", "data", "fsdp", "fsdp_inner"), None)),
    ],
)
def test_first_free_rule_wins(names, spec):
    assert rules.spec(names) == spec


def test_a_second_rule_is_a_second_choice():
    both = (("embed", "fsdp"), ("mlp", "fsdp"), ("mlp", "tensor"))
    assert rules.spec(("mlp",), both) == P("fsdp")
    assert rules.spec(("embed", "mlp"), both) == P("fsdp", "tensor")


def test_unknown_names_are_errors():
    with pytest.raises(errors.ConfigError, match="'hedas'.*did you mean 'heads'"):
        rules.spec(("embed", "hedas"))
    with pytest.raises(errors.ConfigError, match="no axis 'fdsp'.*did you mean 'fsdp'"):
        rules.sharding(("embed",), mesh.make_mesh(), (("embed", "fdsp"),))


def test_axes_of_size_one_are_left_out():
    names = ("batch", "length", "embed")
    assert rules.sharding(names, mesh.make_mesh()).spec == P("data", None, None)
    over = mesh.make_mesh(data=2, fsdp=2, fsdp_inner=2)
    assert rules.sharding(names, over).spec == P(("data", "fsdp", "fsdp_inner"), None, None)


def test_shardings_of_a_model():
    out = rules.shardings(*tiny.T5.abstract(), mesh.make_mesh(fsdp=4, tensor=2))
    block = out["decoder"]["layers"]
    assert out["embedding"].spec == P("tensor", "fsdp")
    assert block["cross_attention"]["kv"].spec == P(None, "fsdp", None, "tensor", None)
    assert block["mlp"]["wo"].spec == P(None, "tensor", "fsdp")
    assert out["encoder"]["relative_bias"].spec == P(None, "tensor")


def test_says_which_parameter_does_not_divide():
    said = (
        r"decoder\.layers\.self_attention\.kv has 2 along 'kv_heads', which tensor=4 does not "
        r"divide; mesh; use tensor = 2, or the rule \('kv_heads', None\)"
    )
    with pytest.raises(errors.ConfigError, match=said):
        rules.shardings(*tiny.DECODER.abstract(), mesh.make_mesh(tensor=4))
    shape = {"wi": jax.ShapeDtypeStruct((6, 9), jnp.float32)}
    with pytest.raises(errors.ConfigError, match="wi has 6 along 'embed', which fsdp=4 .* 3 or 6"):
        rules.shardings(shape, {"wi": ("embed", "mlp")}, mesh.make_mesh(fsdp=4))


def test_ways():
    assert rules.ways("batch", mesh.make_mesh(data=2, fsdp=2, tensor=2)) == 4
    assert rules.ways("head_dim", mesh.make_mesh()) == 1


def test_constrain_acts_only_inside_using():
    x = jnp.zeros((8, 2))
    eight = mesh.make_mesh(data=2, fsdp=4)

    def inside(x):
        with rules.using(eight):
            return rules.constrain(x, ("batch", "act_embed"))

    assert rules.constrain(x, ("batch", "act_embed")) is x
    assert tiny.jit(inside)(x).sharding.spec[0] == ("data", "fsdp")
    assert rules.constrain(x, ("batch", "act_embed")) is x
    with pytest.raises(ValueError, match="3 axis names"):
        rules.constrain(x, ("batch", "length", "embed"))


MESHES = {
    "2x2": dict(fsdp=2, tensor=2, devices=4),
    "4x2": dict(fsdp=4, tensor=2, devices=8),
    "8x1": dict(data=2, fsdp=4, devices=8),
    "2x2x2": dict(data=2, fsdp=2, fsdp_inner=2, devices=8),
}


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
@pytest.mark.parametrize("model", [tiny.T5, tiny.DECODER], ids=["t5", "decoder"])
def test_sharded_is_one_device(model, sizes):
    sizes = dict(sizes)
    devices = jax.devices()[: sizes.pop("devices")]
    over = mesh.make_mesh(**sizes, devices=devices)
    params = tiny.hot(model)
    batch = tiny.pack(*[tiny.examples()] * 3)
    weights = (batch["decoder_segment_ids"] > 0).astype(np.float32)
    placed = jax.device_put(params, rules.shardings(*model.abstract(), over))
    spread = jax.device_put((batch, weights), rules.sharding(("batch", None), over))
    want, want_grads = tiny.grads_of(model)(params, batch, weights)
    got, grads = tiny.grads_of(model, over)(placed, *spread)
    np.testing.assert_allclose(got, want, rtol=2e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max())


def test_a_table_tells_where_every_parameter_lies():
    on = mesh.make_mesh(fsdp=2, fsdp_inner=2, tensor=2)
    rows = {row["parameter"]: row for row in rules.table(*tiny.T5.abstract(), on)}
    shapes = tiny.T5.abstract()[0]
    assert len(rows) == len(jax.tree.leaves(shapes))
    row = rows["decoder.layers.mlp.wo"]
    size = shapes["decoder"]["layers"]["mlp"]["wo"].shape
    assert row["shape"] == [*size] and row["names"] == ["layers", "mlp", "embed"]
    assert row["split"] == [[], ["tensor"], ["fsdp", "fsdp_inner"]]
    assert row["part"] == [size[0], size[1] // 2, size[2] // 4]
    assert row["bytes_per_device"] == 4 * np.prod(size) // 8
    placed = rules.shardings(*tiny.T5.abstract(), on)["decoder"]["layers"]["mlp"]["wo"]
    assert [*placed.shard_shape(size)] == row["part"]
