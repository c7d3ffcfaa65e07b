"""Both styles of beam search, each against its definition written out over whole sequences."""

import functools

import numpy as np
import pytest

from t5sft import errors
from t5sft.generate import beam, decode, sampling
from t5sft.generate import settings as settings_lib

V, NEW, STATES = 12, 6, 97


class Automaton:
    """A "model" whose logits depend on everything before: a row of a table, by a hash of it all.

    Its cache is the hash, so that a beam that went on with another beam's cache would be seen.
    """

    layout, vocab_size = "encoder_decoder", V

    def prefill(self, params, batch, length, cache_dtype):
        return None, {"kv": batch["encoder_input_tokens"][None, :, 0]}

    def apart(self, params, cache):
        return params, cache

    def decode_step(self, table, cache, tokens, positions):
        hashed = (cache["kv"][0] * 31 + tokens * 7 + 3) % STATES
        return table[hashed], {"kv": hashed[None]}


MODEL = Automaton()


def table(seed, heat):
    return np.random.default_rng(seed).normal(0, heat, (STATES, V)).astype(np.float32)


def log_p(table, prompt, tokens):
    """[V], float64: of what follows."""
    state = prompt
    for token in (0, *tokens):
        state = (state * 31 + token * 7 + 3) % STATES
    logits = table[state].astype(np.float64)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def options(table, prompt, live, ends, step, least):
    found = []
    for total, tokens in live:
        following = log_p(table, prompt, tokens)
        for token in range(V):
            if token not in ends or step >= least:
                found.append((total + following[token], [*tokens, token]))
    return sorted(found, key=lambda one: -one[0])


def t5x(table, prompt, k, alpha, ends, least):
    """(score, tokens), best first: without stopping early, which must not matter."""
    live, finished = [(0.0, [])], []
    for step in range(NEW):
        best = options(table, prompt, live, ends, step, least)[: k * (1 + len(ends))]
        divisor = ((5 + step + 1) / 6) ** alpha
        finished += [(total / divisor, tokens) for total, tokens in best if tokens[-1] in ends]
        finished = sorted(finished, key=lambda one: -one[0])[:k]
        live = [one for one in best if one[1][-1] not in ends][:k]
    return (finished + live)[:k]


def transformers(table, prompt, k, alpha, ends, least):
    """The same as transformers 5.23 does it (`GenerationMixin._beam_search`)."""
    live, finished = [(0.0, [])], []
    for step in range(NEW):
        best = options(table, prompt, live, ends, step, least)[: k * max(2, 1 + len(ends))]
        length = step + 1
        for total, tokens in best[:k]:
            if tokens[-1] in ends or length == NEW:
                finished.append((total / length**alpha, tokens))
        finished = sorted(finished, key=lambda one: -one[0])[:k]
        live = [one for one in best if one[1][-1] not in ends][:k]
        if len(finished) == k and not live[0][0] / length**alpha > finished[-1][0]:
            break
    return finished


ORACLES = {"t5x": t5x, "transformers": transformers}


CASES = [  # style, alpha, beams, ends, min_new_tokens
    ("transformers", None, 4, 1, 0),
    ("t5x", None, 3, 2, 3),
    pytest.param("transformers", 2.0, 3, 2, 3, marks=pytest.mark.slow),
    pytest.param("transformers", -0.7, 4, 1, 0, marks=pytest.mark.slow),
    pytest.param("transformers", 0.0, 1, 1, 0, marks=pytest.mark.slow),
    pytest.param("t5x", 2.0, 4, 1, 0, marks=pytest.mark.slow),
    pytest.param("t5x", -0.7, 3, 2, 0, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("style, alpha, k, num_ends, least", CASES)
def test_agrees_with_the_definition(style, alpha, k, num_ends, least):
    ends = tuple(range(1, 1 + num_ends))
    beams = beam.Beams(num_beams=k, length_penalty=alpha, style=style)
    num_finished = 0
    for seed in range(12):  # of one compiled program
        made, prompts = table(seed, (0.5, 2.0)[seed % 2]), [[5], [60], [17]]
        got = decode.generate(
            MODEL, made, prompts, max_new_tokens=NEW, min_new_tokens=least, eos_id=ends,
            batch_size=2 * k, sampler=beams, num_samples=k,
        )  # fmt: skip
        for i, (prompt,) in enumerate(prompts):
            want = ORACLES[style](made, prompt, k, beams.alpha, ends, least)
            for mine, (_, tokens) in zip(got[i * k : (i + 1) * k], want, strict=True):
                is_finished = tokens[-1] in ends
                num_finished += is_finished
                tokens = tokens[:-1] if is_finished else tokens
                assert mine == decode.Generated(tokens, is_finished)
    assert num_finished > 5


def test_the_styles_differ():
    """Else the test above would compare one thing twice."""
    made = table(3, 2.0)
    found = {
        style: [t for _, t in oracle(made, 5, 3, beam.STYLES[style], (1,), 0)]
        for style, oracle in ORACLES.items()
    }
    assert found["t5x"] != found["transformers"]


def test_no_end_token_before_the_least_number_of_tokens():
    made = table(0, 1.0)
    made[:, 1] += 6.0  # the end is the likeliest by far
    ask = functools.partial(
        decode.generate, MODEL, made, [[5]] * 4, max_new_tokens=NEW, eos_id=1, batch_size=2
    )
    assert ask() == [decode.Generated([], True)] * 4
    for sampler in (sampling.Sampler(), sampling.Sampler(temperature=0.7, top_k=5)):
        got = ask(min_new_tokens=3, sampler=sampler)
        assert all(len(one.tokens) == 3 and one.finished for one in got)
    assert not any(one.finished for one in ask(min_new_tokens=NEW))
    # Without an end token (eos_id -1) no token is ruled out, the last of the vocabulary neither.
    made[:, V - 1] += 20.0
    assert ask(min_new_tokens=3, eos_id=-1)[0].tokens == [V - 1] * NEW


def test_settings_are_checked():
    def complaint(**changes):
        with pytest.raises(errors.ConfigError) as raised:
            settings_lib.Settings(**changes)
        return str(raised.value)

    assert "beam_style = 'hf' is unknown" in complaint(num_beams=2, beam_style="hf")
    assert "beam_style = transformers has no effect" in complaint(beam_style="transformers")
    assert "length_penalty = 1.0 has no effect" in complaint(length_penalty=1.0)
    assert "min_new_tokens = 65" in complaint(min_new_tokens=65)
    how = settings_lib.Settings(num_beams=2, beam_style="transformers")
    assert how.sampler.alpha == 1.0 and settings_lib.Settings(num_beams=2).sampler.alpha == 0.6
