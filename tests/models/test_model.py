"""What holds for every model: counts, first loss, variants that change speed only, mistakes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import tiny

from t5sft import errors
from t5sft.models import decoder, t5

BOTH = pytest.mark.parametrize("model", [tiny.T5, tiny.DECODER], ids=["t5", "decoder"])


def num_params(model):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.abstract()[0]))


@BOTH
def test_abstract_describes_what_init_makes(model):
    shapes, axes = model.abstract()
    params = tiny.initial(model)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes)
    for leaf, names in zip(
        jax.tree.leaves(shapes),
        jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple)),
        strict=True,
    ):
        assert len(leaf.shape) == len(names)


def test_tree_of_t5():
    shapes, axes = tiny.T5.abstract()
    block = {"self_attention", "cross_attention", "mlp"}
    assert {*shapes} == {"embedding", "encoder", "decoder", "head"}
    assert {*shapes["decoder"]} == {"layers", "norm", "relative_bias"}
    assert {*shapes["decoder"]["layers"]} == block
    assert {*shapes["encoder"]["layers"]} == block - {"cross_attention"}
    mlp = shapes["decoder"]["layers"]["mlp"]
    assert mlp["wi"].shape == (2, 32, 2, 48)
    assert axes["decoder"]["layers"]["mlp"]["wi"] == ("layers", "embed", None, "mlp")
    assert "head" not in tiny.T5_TIED.abstract()[0]


def first_loss(model, params):
    """Loss of a uniformly random target, in units of ln V."""
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (2, 48), np.int32)
    logits = tiny.logits_of(model)(params, tiny.pack([tokens], length=48, num_rows=1))
    return -jax.nn.log_softmax(logits).mean() / math.log(model.vocab_size)


def test_first_loss_is_near_that_of_a_uniform_guess():
    sizes = dict(vocab_size=2048, emb_dim=128, mlp_dim=384, num_heads=4, head_dim=32)
    encdec = t5.T5(num_encoder_layers=3, num_decoder_layers=3, **sizes)
    tied = dataclasses.replace(encdec, logits_via_embedding=True)
    llama = decoder.Decoder(num_layers=2, num_kv_heads=2, **sizes)
    params = tiny.initial(encdec)
    headless = {name: leaf for name, leaf in params.items() if name != "head"}
    for model, start in ((encdec, params), (tied, headless), (llama, tiny.initial(llama))):
        assert first_loss(model, start) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "model, change",
    [
        (tiny.T5, dict(remat="dots", scan_unroll=2)),
        (tiny.T5, dict(remat="dots_attention", attention="blockwise")),
        (tiny.T5, dict(remat="full")),
        (tiny.GEMMA, dict(remat="full", scan_unroll=3)),
        (tiny.GEMMA, dict(remat="full_offload")),
        pytest.param(tiny.T5, dict(remat="dots_offload"), marks=pytest.mark.slow),
    ],
    ids=[
        "t5-dots-unrolled",
        "t5-dots-attention",
        "t5-full",
        "gemma-full-unrolled",
        "gemma-full-host",
        "t5-dots-host",
    ],
)
def test_remat_and_unroll_change_speed_only(model, change):
    params, batch = tiny.initial(model), tiny.pack(tiny.examples())
    weights = (batch["decoder_segment_ids"] > 0).astype(np.float32)
    want, want_grads = tiny.grads_of(model)(params, batch, weights)
    changed = dataclasses.replace(model, **change)
    got, grads = tiny.grads_of(changed)(params, batch, weights)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@BOTH
def test_unrolling_makes_the_start_no_longer_to_compile(model):
    """24 + 24 layers of T5 unrolled took minutes to draw."""
    key = jax.random.key(0)
    plain, unrolled = (
        str(jax.make_jaxpr(dataclasses.replace(model, scan_unroll=n).init)(key)) for n in (1, 2)
    )
    assert plain == unrolled


@BOTH
def test_dropout_acts_only_with_a_key(model):
    dropping = dataclasses.replace(model, dropout_rate=0.3)
    params, batch = tiny.initial(model), tiny.pack(tiny.examples())
    plain, without = (jax.make_jaxpr(each.hidden)(params, batch) for each in (model, dropping))
    assert str(plain) == str(without)
    hidden = tiny.jit(lambda key: dropping.hidden(params, batch, dropout_key=key))
    first, again, other = (np.asarray(hidden(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert 0.1 < np.mean(first[0] == 0) < 0.6  # the last dropout acts on what is returned


def test_bfloat16_computes_in_bfloat16_and_stays_near():
    model = dataclasses.replace(tiny.DECODER, dtype="bfloat16")
    params, batch = tiny.initial(tiny.DECODER), tiny.pack(tiny.examples())
    got, want = (tiny.logits_of(each)(params, batch) for each in (model, tiny.DECODER))
    assert got.dtype == jnp.bfloat16
    real = batch["decoder_segment_ids"][0] > 0
    error = np.abs(np.asarray(got, np.float32) - want)[0, real].max()
    assert error < 0.05 * np.asarray(want)[0, real].std()


def test_token_outside_the_vocabulary_is_not_taken_for_another():
    batch = tiny.pack(tiny.examples())
    batch["decoder_input_tokens"][0, 0] = tiny.V
    assert np.isnan(tiny.logits_of(tiny.DECODER)(tiny.initial(tiny.DECODER), batch)).any()


@pytest.mark.parametrize(
    "model, change, said",
    [
        (tiny.DECODER, dict(num_kv_heads=3), r"num_heads = 4 is no multiple .* = 3; Decoder; use"),
        (tiny.DECODER, dict(head_dim=7), "head_dim = 7 is odd.*use 6 or 8"),
        (tiny.DECODER, dict(rope_fraction=1.5), "rope_fraction = 1.5 is outside"),
        (tiny.DECODER, dict(rope_fraction=0.4), "rope_fraction = 0.4 of head_dim = 8 is odd"),
        (tiny.DECODER, dict(activation="gelu_"), "activation = 'gelu_'.*did you mean 'gelu'"),
        (tiny.DECODER, dict(layer_pattern=("slide",)), "holds 'slide'.*did you mean 'sliding'"),
        (tiny.DECODER, dict(layer_pattern=()), "layer_pattern is empty; Decoder; use full or"),
        (tiny.DECODER, dict(layer_pattern=("sliding",)), "sliding_window = None does not go with"),
        (tiny.DECODER, dict(sliding_window=4), "sliding_window = 4 does not go with"),
        (tiny.GEMMA, dict(sliding_window=0), "sliding_window = 0 is no positive integer"),
        (tiny.GEMMA, dict(attention_soft_cap=0.0), "attention_soft_cap = 0.0 is not positive"),
        (tiny.DECODER, dict(rope_theta_local=5.0), "rope_theta_local = 5.0 is of sliding layers"),
        (tiny.T5, dict(dtype="bfloat"), r"dtype = 'bfloat'.*did you mean 'bfloat16'"),
        (tiny.T5, dict(remat="fulll"), r"remat = 'fulll'.*did you mean 'full'"),
        (tiny.T5, dict(num_encoder_layers=0), "num_encoder_layers = 0 is no positive integer"),
        (tiny.T5, dict(emb_dim=32.0), "emb_dim = 32.0 is no positive integer"),
        (tiny.T5, dict(dropout_rate=1.0), "dropout_rate = 1.0 is outside"),
        (tiny.T5, dict(relative_attention_num_buckets=31), "31.*use 30 or 32"),
        (tiny.T5, dict(relative_attention_max_distance=16), "max_distance = 16.*more than 16"),
    ],
)
def test_says_what_is_wrong_with_a_configuration(model, change, said):
    with pytest.raises(errors.ConfigError, match=said):
        dataclasses.replace(model, **change)
