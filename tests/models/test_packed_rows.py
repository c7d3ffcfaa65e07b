"""Logits are those of the definitions, and neither packing nor padding changes them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import tiny, transformer

ALL = pytest.mark.parametrize(
    "model", [tiny.T5, tiny.DECODER, tiny.GEMMA], ids=["t5", "decoder", "gemma"]
)
BOTH = pytest.mark.parametrize("model", [tiny.T5, tiny.DECODER], ids=["t5", "decoder"])
HOT = [tiny.T5, tiny.DECODER, tiny.T5_TIED, tiny.DECODER_TIED]


def slow_logits(params, model, example):
    source, target = example
    if model.layout == "decoder":
        return transformer.decoder_logits(params, model, target)
    return transformer.t5_logits(params, model, source, target)


@pytest.mark.parametrize(
    "model, start, bar",
    [(model, tiny.hot, 2e-4) for model in HOT] + [(model, tiny.initial, 2e-5) for model in HOT[:2]],
    ids=["t5-hot", "decoder-hot", "t5_tied-hot", "decoder_tied-hot", "t5", "decoder"],
)
def test_every_packed_segment_agrees_with_the_definition(model, start, bar):
    params, examples = start(model), tiny.examples()
    # Row 1 is padding only, and row 2 has the segments in another order.
    batch = tiny.pack(examples, [], examples[::-1])
    got = np.asarray(tiny.logits_of(model)(params, batch))
    want = [slow_logits(params, model, example) for example in examples]
    for row, segments in ((0, want), (2, want[::-1])):
        expected = np.concatenate(segments)
        error = np.abs(got[row, : len(expected)] - expected).max() / expected.std()
        assert error <= bar
    assert np.isfinite(got).all()


@BOTH
def test_packed_is_alone(model):
    params, examples = tiny.hot(model), tiny.examples()
    logits = tiny.logits_of(model)
    packed = np.asarray(logits(params, tiny.pack(examples)))[0]
    alone = np.asarray(logits(params, tiny.pack(*([example] for example in examples))))
    begin = 0
    for row, (_, target) in enumerate(examples):
        got = packed[begin : begin + len(target)]
        np.testing.assert_allclose(got, alone[row, : len(target)], atol=2e-5 * alone.std())
        begin += len(target)


@ALL
def test_no_gradient_crosses_a_segment(model):
    examples = tiny.examples()
    batch = tiny.pack(examples)
    grad = tiny.grads_of(model)
    for segment, own in enumerate(examples, start=1):
        weights = (batch["decoder_segment_ids"] == segment).astype(np.float32)
        by_token = np.asarray(grad(tiny.hot(model), batch, weights)[1]["embedding"])  # [V, D]
        touched = set(np.flatnonzero(np.abs(by_token).sum(axis=-1)))
        sources = own[0] if model.layout == "encoder_decoder" else []
        assert touched == {*sources, *own[1]}


@BOTH
def test_another_example_in_its_place_moves_no_other_logits(model):
    """To the bit: source and target of one segment are exchanged, in a row of three."""
    params, batch = tiny.hot(model), tiny.pack(tiny.examples())
    before = np.asarray(tiny.logits_of(model)(params, batch))
    for segment in (1, 2, 3):
        changed = dict(batch)
        for side in ("encoder", "decoder"):
            mine = batch[f"{side}_segment_ids"] == segment
            ids = batch[f"{side}_input_tokens"]
            changed[f"{side}_input_tokens"] = np.where(mine, (ids * 7 + 1) % tiny.V, ids)
        after = np.asarray(tiny.logits_of(model)(params, changed))
        others = (batch["decoder_segment_ids"] > 0) & (batch["decoder_segment_ids"] != segment)
        np.testing.assert_array_equal(after[others], before[others])
        mine = batch["decoder_segment_ids"] == segment
        assert np.all(np.abs(after - before)[mine].max(axis=-1) > 1e-3)


@BOTH
def test_the_first_prediction_of_a_segment_sees_only_its_own_start(model):
    examples = tiny.examples()
    batch = tiny.pack(examples)
    for segment, (source, target) in enumerate(examples, start=1):
        first = (batch["decoder_segment_ids"] == segment) & (batch["decoder_positions"] == 0)
        assert first.sum() == 1
        weights = first.astype(np.float32)
        grads = tiny.grads_of(model)(tiny.hot(model), batch, weights)[1]
        touched = set(np.flatnonzero(np.abs(np.asarray(grads["embedding"])).sum(axis=-1)))
        assert touched == {*(source if model.layout == "encoder_decoder" else []), target[0]}


def test_a_target_without_source_sees_no_other_source():
    (source, target), (_, alone), _ = tiny.examples()
    batch = tiny.pack([(source, target), ([], alone)])
    weights = (batch["decoder_segment_ids"] == 2).astype(np.float32)
    grads = tiny.grads_of(tiny.T5)(tiny.hot(tiny.T5), batch, weights)[1]
    touched = set(np.flatnonzero(np.abs(np.asarray(grads["embedding"])).sum(axis=-1)))
    assert touched == {*alone}


@ALL
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_is_finite_in_value_and_gradient(model, dtype):
    batch = tiny.pack(tiny.examples(), [], tiny.examples()[:1])
    everywhere = np.ones_like(batch["decoder_segment_ids"], np.float32)
    grads_of = tiny.grads_of(dataclasses.replace(model, dtype=dtype))
    value, grads = grads_of(tiny.hot(model), batch, everywhere)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))


@BOTH
def test_padding_tokens_do_not_matter(model):
    params, batch = tiny.hot(model), tiny.pack(tiny.examples())
    noisy = dict(batch)
    for side in ("encoder", "decoder"):
        padding = batch[f"{side}_segment_ids"] == 0
        noisy[f"{side}_input_tokens"] = np.where(padding, 7, batch[f"{side}_input_tokens"])
    got, want = (np.asarray(tiny.logits_of(model)(params, each)) for each in (noisy, batch))
    real = batch["decoder_segment_ids"] > 0
    np.testing.assert_array_equal(got[real], want[real])
