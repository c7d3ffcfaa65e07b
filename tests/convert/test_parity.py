"""Logits of every family are those of transformers: padded, packed, and through the cache.

The fixtures come from scripts/make_fixtures.py. An error is max|d| / std of the reference logits.
"""

import dataclasses

import numpy as np
import pytest
from oracles import checkpoints, tiny

BARS = {"default": 2e-5, "hot": 2e-4}
LENGTH = 40


def model_of(fixture, name):
    model = fixture.family.model(fixture.config)
    if name == "phi3_long":  # transformers goes over to the long factors by itself
        scaling = dataclasses.replace(model.rope_scaling, is_long=True)
        model = dataclasses.replace(model, rope_scaling=scaling)
    return model


def error(got, want):
    return np.abs(np.asarray(got) - want).max() / want.std()


@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_logits_are_those_of_transformers(name):
    fixture = checkpoints.load(name)
    model = model_of(fixture, name)
    (first, second), ends = fixture.rows, [len(target) for _, target in fixture.rows]
    padded = tiny.pack([first], [second], length=LENGTH, num_rows=3)
    packed = tiny.pack([first, second], [second, first], length=LENGTH, num_rows=3)
    whole, prefill, step = programs(model)
    for heat, bar in BARS.items():
        params = checkpoints.params_of(fixture, model, heat)
        wants = np.split(fixture.logits[heat], ends[:1])
        got = whole(params, padded)
        for row in (0, 1):
            assert error(got[row, : ends[row]], wants[row]) <= bar, "padded"
        got = whole(params, packed)
        for row, order in enumerate((wants, wants[::-1])):
            assert error(got[row, : sum(ends)], np.concatenate(order)) <= bar, "packed"
        for row, got in enumerate(cached(model, prefill, step, params, padded, ends)):
            assert error(got, wants[row]) <= bar, "cached"


def programs(model):
    whole = tiny.jit(lambda params, batch: model.unembed(params, model.hidden(params, batch)))

    def prefill(params, batch):
        hidden, cache = model.prefill(params, batch, LENGTH)
        return None if hidden is None else model.unembed(params, hidden), cache

    return whole, tiny.jit(prefill), tiny.jit(model.decode_step)


def cached(model, prefill, step, params, batch, ends):
    """Logits of each row: those of the first tokens by the prefill, the others one by one."""
    known = 5 if model.layout == "decoder" else 0
    prompt = {
        key: np.where(np.arange(LENGTH)[None, :] < known, value, 0) if key[0] == "d" else value
        for key, value in batch.items()
    }
    logits, cache = prefill(params, prompt)
    parts = [] if logits is None else [np.asarray(logits)[:, :known]]
    for position in range(known, max(ends)):
        tokens = batch["decoder_input_tokens"][:, position]
        logits, cache = step(params, cache, tokens, np.full(len(tokens), position, np.int32))
        parts.append(np.asarray(logits)[:, None])
    found = np.concatenate(parts, axis=1)
    return [found[row, :end] for row, end in enumerate(ends)]
