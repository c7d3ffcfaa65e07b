"""Memory by kind, and what the compiler says of a step that does not fit."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5sft.plan import memory

State = collections.namedtuple("State", "step params opt_state guard", defaults=((),))


def state_and_batch():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), (AxisType.Auto,) * 2)

    def placed(shape, dtype, *spec):
        where = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    like = State(
        placed((), jnp.int32),
        {"w": placed((8, 100), jnp.float32, "fsdp")},
        {"m": placed((8, 100), jnp.float32, "fsdp"), "v": placed((100,), jnp.bfloat16)},
    )
    return like, {"x": placed((16, 8), jnp.int32, "data")}


def test_what_is_given_is_counted_per_device():
    like, batch = state_and_batch()
    update = jax.jit(
        lambda s, b: State(s.step + 1, s.params, jax.tree.map(lambda x: x * 2, s.opt_state)),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like),
        donate_argnums=0,
    )
    got = memory.of_compiled(update.lower(like, batch).compile(), like, batch)
    assert (got.parameters, got.optimizer) == (8 * 100 * 4 // 4, 8 * 100 * 4 // 4 + 200)
    assert got.fits and got.peak > 0
    assert got.alias == 4 + 800 + 1000  # the whole state is donated
    assert got.argument >= got.alias


@pytest.mark.parametrize(
    "said, temp, peak",
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 33.17G of 15.75G hbm. Exceeded hbm capacity by 17.42G.",
            None,
            33.17 * 2**30,
        ),
        (
            "CompileTimeHbmOom: HLO temporaries (29.36G) exceeds available HBM (15.75G)",
            29.36 * 2**30,
            29.36 * 2**30 + 1800 + 8 * 8 * 4 + 4,
        ),
    ],
)
def test_too_much_is_an_answer(said, temp, peak):
    like, batch = state_and_batch()
    got = memory.of_failure(RuntimeError(said), like, batch)
    assert not got.fits
    assert got.temp == (None if temp is None else round(temp))
    assert got.peak == pytest.approx(peak, abs=1)
    assert got.argument == np.sum([got.parameters, got.optimizer, got.batch])


def test_another_failure_is_none():
    assert memory.of_failure(RuntimeError("INTERNAL: Mosaic failed"), *state_and_batch()) is None
