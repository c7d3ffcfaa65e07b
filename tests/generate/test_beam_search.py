"""Beam search finds what a slow search over whole sequences finds."""

import numpy as np
import pytest
from oracles import tiny

from t5sft import errors
from t5sft.generate import beam, decode
from t5sft.parallel import mesh, rules

NEW = 5
BOTH = pytest.mark.parametrize(
    "model", [tiny.T5, pytest.param(tiny.DECODER, marks=pytest.mark.slow)], ids=["t5", "decoder"]
)


def prompts():
    rng = np.random.default_rng(3)
    return [rng.integers(6, tiny.V, n).tolist() for n in (7, 1, 13)]


def log_p(model, params, prompt, answers):
    """[n, V] log-probabilities of the next token, by the uncached model."""
    start = prompt if model.layout == "decoder" else [0]
    rows = [[(prompt, [*start, *answer])] for answer in answers]
    out = []
    for first in range(0, len(rows), 8):
        logits = tiny.logits_of(model)(params, tiny.pack(*rows[first : first + 8]))
        last = np.array([len(row[0][1]) - 1 for row in rows[first : first + 8]])
        out += list(np.asarray(logits, np.float64)[np.arange(len(last)), last])
    shifted = np.array(out) - np.max(out, axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def slow_search(model, params, prompt, num_beams, alpha, ends):
    """Lists of (score, tokens): the search by its definition, without stopping early."""
    live, finished = [(0.0, [])], []
    for step in range(NEW):
        following = log_p(model, params, prompt, [tokens for _, tokens in live])
        options = [
            (total + following[i, token], [*tokens, token])
            for i, (total, tokens) in enumerate(live)
            for token in range(tiny.V)
        ]
        options.sort(key=lambda option: -option[0])
        options = options[: num_beams * (1 + len(ends))]
        penalty = ((5 + step + 1) / 6) ** alpha
        finished += [(total / penalty, tokens) for total, tokens in options if tokens[-1] in ends]
        finished = sorted(finished, key=lambda one: -one[0])[:num_beams]
        live = [option for option in options if option[1][-1] not in ends][:num_beams]
    return [tokens for _, tokens in (finished + live)[:num_beams]]


def common_ends(model, params, count):
    """Tokens that the model likes, so that beams end."""
    answers = decode.generate(model, params, prompts(), max_new_tokens=NEW, eos_id=-1)
    tokens = np.concatenate([one.tokens for one in answers])
    return tuple(int(t) for t in np.unique(tokens)[:count])


@BOTH
@pytest.mark.parametrize(
    "num_beams, alpha, count",
    [
        pytest.param(3, 0.6, 2, marks=pytest.mark.slow),
        pytest.param(3, -0.5, 1, marks=pytest.mark.slow),
        pytest.param(2, 1.0, 0, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_agrees_with_a_slow_search(model, num_beams, alpha, count):
    params = tiny.initial(model)
    ends = common_ends(model, params, count) or (-1,)
    got = decode.generate(
        model, params, prompts(), max_new_tokens=NEW, eos_id=ends, batch_size=6,
        sampler=beam.Beams(num_beams=num_beams, length_penalty=alpha), num_samples=num_beams,
    )  # fmt: skip
    num_finished = 0
    for i, prompt in enumerate(prompts()):
        want = slow_search(model, params, prompt, num_beams, alpha, ends)
        mine = got[i * num_beams : (i + 1) * num_beams]
        for one, tokens in zip(mine, want, strict=True):
            is_finished = tokens[-1] in ends
            num_finished += is_finished
            assert one == decode.Generated(tokens[:-1] if is_finished else tokens, is_finished)
    assert (num_finished > 0) == (count > 0)


def test_one_beam_is_greedy_where_nothing_ends():
    params = tiny.hot(tiny.T5)
    options = dict(max_new_tokens=NEW, eos_id=-1)
    one = beam.Beams(num_beams=1)
    got = decode.generate(tiny.T5, params, prompts(), sampler=one, **options)
    assert got == decode.generate(tiny.T5, params, prompts(), **options)


@pytest.mark.slow
def test_does_not_depend_on_batch_size_or_mesh():
    model, params = tiny.DECODER, tiny.hot(tiny.DECODER)
    options = dict(max_new_tokens=NEW, eos_id=5, sampler=beam.Beams(num_beams=2))
    want = decode.generate(model, params, prompts(), batch_size=2, **options)
    assert decode.generate(model, params, prompts(), batch_size=8, **options) == want
    two = mesh.make_mesh(fsdp=2, devices=mesh.jax.devices()[:2])
    placed = mesh.jax.device_put(params, rules.shardings(*model.abstract(), two))
    assert decode.generate(model, placed, prompts(), batch_size=8, mesh=two, **options) == want


def test_length_penalty_as_documented():
    beams = beam.Beams()
    np.testing.assert_allclose([beams.divisor(2), beams.divisor(7)], [1.097, 1.516], atol=5e-4)


def test_says_what_is_wrong():
    with pytest.raises(errors.ConfigError, match="num_beams = 0; Beams; use 1"):
        beam.Beams(num_beams=0)
    with pytest.raises(errors.ConfigError, match="length_penalty = nan"):
        beam.Beams(length_penalty=float("nan"))
    with pytest.raises(errors.ConfigError, match="num_samples = 3 is more than num_beams = 2"):
        decode.generate(
            tiny.T5, None, [[1]], max_new_tokens=1, eos_id=1, num_samples=3,
            sampler=beam.Beams(num_beams=2),
        )  # fmt: skip
