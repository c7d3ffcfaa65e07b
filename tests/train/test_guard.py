"""A bad batch leaves no trace, and what was done about it survives a restart."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import stream

from t5sft import errors
from t5sft.parallel import rules as rules_lib
from t5sft.train import guard, resume, state, step


def slow_spikes(values, *, sigma, window, least):
    """The definition, one batch at a time, in float64: which of the values are good."""
    kept, good = [], []
    for value in values:
        past = kept[-window:]
        limit = np.mean(past) + sigma * np.std(past) if past else 0.0
        is_good = math.isfinite(value) and (len(kept) < least or value <= limit)
        good.append(is_good)
        if is_good:
            kept.append(value)
    return good


@pytest.mark.parametrize("window, least", [(8, 4), (16, 16), (5, 2)])
def test_spikes_are_those_of_the_definition(window, least):
    rng = np.random.default_rng(window)
    values = rng.normal(3.0, 0.1, 60)
    values[[10, 30, 31, 50]] += [5.0, 3.0, 4.0, 0.0]
    values[40] = math.nan
    made = guard.Guard(action="skip", spike_sigma=6.0, window=window, least=least)
    judge = jax.jit(made.judge)
    memory, good = made.memory(), []
    for value in values:
        is_good, memory = judge(memory, jnp.float32(value), jnp.float32(1.0), jnp.float32(1.0))
        good.append(bool(is_good))
    assert good == slow_spikes(values, sigma=6.0, window=window, least=least)
    assert not all(good[11:]) or window == 16


def test_what_is_remembered_goes_through_json_to_the_bit():
    made = guard.Guard(spike_sigma=6.0, window=4, least=2)
    memory = made.memory() | {"losses": jnp.float32([0.1, 1 / 3, 2e-7, 3e8]), "seen": jnp.int32(9)}
    got = guard.from_json(made, json.loads(json.dumps(guard.to_json(memory))))
    jax.tree.map(np.testing.assert_array_equal, got, memory)
    other = dataclasses.replace(made, window=8)
    assert int(guard.from_json(other, guard.to_json(memory))["seen"]) == 0


@pytest.mark.parametrize("change", [{"action": "skp"}, {"spike_sigma": 6.0, "least": 200}])
def test_mistakes_are_told(change):
    with pytest.raises(errors.ConfigError, match="Guard; "):
        guard.Guard(**change)


@pytest.mark.parametrize("skips", [((3, 3),), ((-1, 2),), ((1, 2, 3),), ((1, "2"),)])
def test_ranges_are_checked(skips):
    with pytest.raises(errors.ConfigError, match="no range of batches"):
        guard.check_ranges(skips)


def compiled(made):
    """An update of the tiny T5 on one device, and a state to begin with."""
    optimizer = stream.adamw()
    mesh = stream.mesh("1")
    rules = rules_lib.DEFAULT_RULES
    like = state.abstract(stream.T5, optimizer, mesh, rules, made)
    batch = stream.batch("encoder_decoder", 4)
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    update = step.make_update(
        stream.T5, poisoned, optimizer, like=like, mesh=mesh, rules=rules, batch_shapes=shapes,
        guard=made,
    )  # fmt: skip
    program = update.lower(like, shapes).compile(compiler_options=stream.quickly())
    begin = stream.start(stream.T5, optimizer, like)
    memory = made.memory() if made is not None and made.is_in_step else ()
    return program, begin._replace(guard=memory), batch


def poisoned(model, params, batch, key):
    """The loss of SFT; NaN where the first target is 63, infinite gradients where it is 62."""
    from t5sft.objectives import sft

    terms = sft.sft(model, params, batch, key)
    first = batch["decoder_target_tokens"][0, 0]
    loss = terms.loss * jnp.where(first == 63, jnp.nan, 1.0)
    return terms._replace(loss=loss + jnp.where(first == 62, jnp.inf, 0.0) * jnp.sum(loss) * 0.0)


def test_a_skipped_batch_leaves_no_trace():
    """Parameters, moments and their count: the run is the one without that batch, to the bit."""
    made = guard.Guard(action="skip")
    program, begin, good = compiled(made)
    bad = {k: v.copy() for k, v in good.items()}
    bad["decoder_target_tokens"][0, 0] = 63
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # noqa: E731
    now, _ = program(copy(begin), good)
    before = jax.device_get((now.params, now.opt_state))
    now, sums = program(now, bad)
    assert math.isnan(float(sums["loss"][0])) and float(sums["skipped"][0]) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get((now.params, now.opt_state)), before)
    assert int(now.step) == 2
    now, sums = program(now, bad)
    assert float(sums["skipped"][0]) == 2  # in a row
    now, sums = program(now, good)
    assert float(sums["skipped"][0]) == 0
    without, expected_sums = program(program(copy(begin), good)[0], good)
    # What is told is the rate that was applied.
    assert float(sums["learning_rate"][0]) == float(expected_sums["learning_rate"][0])
    got = jax.device_get((now.params, now.opt_state))
    expected = jax.device_get((without.params, without.opt_state))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_the_step_is_the_plain_one_when_nothing_is_judged_in_it():
    """Neither slower nor another program: the guard that aborts is outside of it."""
    optimizer, mesh, rules = stream.adamw(), stream.mesh("1"), rules_lib.DEFAULT_RULES
    shapes = {
        k: jax.ShapeDtypeStruct(v.shape, v.dtype)
        for k, v in stream.batch("encoder_decoder", 4).items()
    }

    def text(made):
        like = state.abstract(stream.T5, optimizer, mesh, rules, made)
        update = step.make_update(
            stream.T5, poisoned, optimizer, like=like, mesh=mesh, rules=rules, batch_shapes=shapes,
            guard=made,
        )  # fmt: skip
        return update.lower(like, shapes).as_text()

    assert text(guard.Guard()) == text(None)


def test_changed_settings_are_a_diff():
    before = "# x\nimport a\nadamw.b1 = 0.9\nSTEPS = 5\nMODEL_DIR = '/a'\n"
    after = "adamw.b1 = 0.95\nSTEPS = 5\nMODEL_DIR = '/b'\nadamw.eps = 1e-6\n"
    assert resume.changed_settings(before, after) == [
        "- adamw.b1 = 0.9",
        "+ adamw.b1 = 0.95",
        "+ adamw.eps = 1e-6",
    ]
    assert resume.changed_settings("", after) == []
