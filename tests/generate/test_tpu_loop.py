"""What is done for TPUs alone gives the same: where parameters lie, how a token is written."""

import jax
import numpy as np
import pytest
from oracles import tiny

from t5sft.generate import decode, layouts
from t5sft.models.attention import cache as cached
from t5sft.parallel import mesh, rules

L, B, K, S, H = 2, 8, 4, 6, 8


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("axes", [None, {"fsdp": 4, "tensor": 2}])
def test_a_token_is_written_row_by_row_as_by_a_scatter(dtype, axes, monkeypatch):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    kept = cached.keep(draw(L, B, S, 2, K, H), dtype)
    new, slots = draw(L, B, 1, 2, K, H), np.array([0, 5, 3, S, 2, 99, 1, 4])  # two beyond the end
    want = cached.write(kept, new, slots)
    monkeypatch.setattr(rules, "platform", lambda: "tpu")
    if axes is None:
        got = tiny.jit(cached.write)(kept, new, slots)
    else:
        over = mesh.make_mesh(**axes)
        names = ("layers", "batch", "kv_heads", None, "head_dim")
        where = lambda x: rules.sharding(names[: x.ndim], over, rules.DEFAULT_RULES)  # noqa: E731
        kept = jax.tree.map(lambda x: jax.device_put(x, where(x)), kept)
        with rules.using(over, rules.DEFAULT_RULES):
            compiled = tiny.jit(cached.write).lower(kept, new, slots).compile()
        got = compiled(kept, new, slots)
        assert "all-gather" not in compiled.as_text()
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert not np.array_equal(got.key, kept.key)


def test_parameters_lie_as_documented():
    names = ("layers", "embed", "heads", "head_dim")
    assert layouts.order_of((2, 2048, 32, 128), names) == (0, 2, 1, 3)
    assert layouts.order_of((2, 2048, 32, 64), names) is None
    names = ("layers", "embed", None, "kv_heads", "head_dim")
    assert layouts.order_of((2, 2048, 2, 32, 128), names) == (0, 2, 3, 1, 4)
    assert layouts.order_of((2, 512, 128), ("layers", "mlp", "embed")) is None
    assert layouts.order_of((128, 32000), ("embed", "vocab")) is None


def test_answers_are_the_same_however_parameters_lie(monkeypatch):
    model, params = tiny.DECODER, jax.tree.map(jax.numpy.array, tiny.hot(tiny.DECODER))
    options = dict(max_new_tokens=4, eos_id=-1, batch_size=2)
    prompts = [[7, 8, 9], [10, 11]]
    want = decode.generate(model, params, prompts, **options)
    assert layouts.laid_out(model, params) is not None
    monkeypatch.setattr(layouts, "platform", lambda _: "tpu")
    monkeypatch.setattr(layouts, "_LANES", 8)
    turned = layouts.laid_out(model, params)
    query = turned["decoder"]["layers"]["self_attention"]["q"]
    assert query.format.layout.major_to_minor == (0, 2, 1, 3)
    assert decode.generate(model, turned, prompts, **options) == want
