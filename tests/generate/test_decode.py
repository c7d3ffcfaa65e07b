"""Cached generation writes what the whole model, run again for every token, would write."""

import jax
import numpy as np
import pytest
from oracles import tiny

from t5sft import errors
from t5sft.generate import decode, sampling, stopping
from t5sft.parallel import mesh, rules

NEW, EOS = 8, 5
BOTH = pytest.mark.parametrize("model", [tiny.T5, tiny.DECODER], ids=["t5", "decoder"])


def prompts():
    """Seven prompts of 1 to 16 tokens: three batches of 3, the last one with two idle rows."""
    rng = np.random.default_rng(3)
    return [rng.integers(6, tiny.V, n).tolist() for n in (7, 1, 15, 13, 2, 16, 4)]


def slow_generate(model, params, prompt):
    """Greedy, one token at a time, through the uncached model."""
    logits_of, answer = tiny.logits_of(model), []
    for _ in range(NEW):
        if model.layout == "decoder":
            target = [*prompt, *answer]
        else:
            target = [0, *answer]
        logits = logits_of(params, tiny.pack([(prompt, target)]))
        token = int(logits[0, len(target) - 1].argmax())
        if token == EOS:
            return decode.Generated(answer, True)
        answer.append(token)
    return decode.Generated(answer, False)


def generate(model, params, texts, **changes):
    settings = dict(max_new_tokens=NEW, eos_id=EOS, batch_size=3)
    return decode.generate(model, params, texts, **(settings | changes))


@pytest.mark.parametrize(
    "model",
    [tiny.T5, tiny.DECODER, pytest.param(tiny.GEMMA, marks=pytest.mark.slow)],
    ids=["t5", "decoder", "gemma"],
)
def test_agrees_with_the_uncached_model(model):
    """Gemma's has windows of 3, shorter than the prompts and the answers."""
    params = tiny.hot(model)
    want = [slow_generate(model, params, prompt) for prompt in prompts()]
    assert generate(model, params, prompts(), batch_size=8) == want
    # Rows that end make room one by one: none is disturbed by its new neighbour.
    ends = sorted({one.tokens[n] for n, one in enumerate(want) if len(one.tokens) > n})[:4]
    want = generate(model, params, prompts(), eos_id=ends)
    assert len({len(one.tokens) for one in want}) > 1
    assert generate(model, params, prompts(), eos_id=ends, refill=1, buckets=[16]) == want


def slow_sample(model, params, prompt, sampler, key):
    """Draws one token at a time, by a whole uncached forward pass for each."""
    logits_of, answer = tiny.logits_of(model), []
    for step in range(NEW):
        target = [*prompt, *answer] if model.layout == "decoder" else [0, *answer]
        logits = logits_of(params, tiny.pack([(prompt, target)]))[:1, len(target) - 1]
        seen = np.zeros((1, tiny.V), bool)
        seen[0, target] = True
        penalised = seen if sampler.repetition_penalty != 1 else None
        keys = jax.random.fold_in(key, step)[None]
        answer.append(int(sampler(logits, keys, penalised)[0]))
        if answer[-1] == EOS:
            return decode.Generated(answer[:-1], True)
    return decode.Generated(answer, False)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        dict(temperature=1.0, top_k=20, top_p=0.95, min_p=0.01, repetition_penalty=1.3),
        dict(repetition_penalty=1.5),
    ],
    ids=["all", "greedy"],
)
def test_sampling_agrees_with_the_uncached_model(model, settings):
    params, sampler = tiny.initial(model), sampling.Sampler(**settings)
    got = generate(model, params, prompts(), sampler=sampler, seed=4, num_samples=2)
    for i, prompt in enumerate(prompts()[:4]):
        for n in range(2):
            key = jax.random.key(4)
            for part in (i, n):
                key = jax.random.fold_in(key, part)
            assert got[2 * i + n] == slow_sample(model, params, prompt, sampler, key)


@pytest.mark.slow
@BOTH
def test_short_caches_answer_almost_alike(model):
    params = tiny.initial(model)
    want = [one.tokens for one in generate(model, params, prompts())]
    for dtype, share in (("float32", 1.0), ("bfloat16", 0.7), ("int8", 0.7)):
        got = [one.tokens for one in generate(model, params, prompts(), cache_dtype=dtype)]
        same = np.mean([a == b for a, b in zip(sum(got, []), sum(want, []), strict=False)])
        assert same >= share
    with pytest.raises(errors.ConfigError, match="cache_dtype = 'int4'"):
        generate(model, params, prompts(), cache_dtype="int4")


@pytest.mark.slow
def test_stop_strings_end_an_answer_wherever_tokens_end():
    model, params = tiny.DECODER, tiny.initial(tiny.DECODER)
    text = lambda tokens: "".join(f"<{token}>" for token in tokens)  # noqa: E731
    plain = generate(model, params, prompts(), max_new_tokens=40, eos_id=-1)
    wanted = f"{plain[0].tokens[5]}><{plain[0].tokens[6]}>"  # from inside one token into the next
    stop = stopping.Stop(text, (wanted, f"<{plain[3].tokens[0]}>"))
    seen = []
    got = generate(
        model, params, prompts(), max_new_tokens=40, eos_id=-1, stop=stop,
        watch=lambda i, tokens: seen.append((i, len(tokens))),
    )  # fmt: skip
    for before, after in zip(plain, got, strict=True):
        whole = text(before.tokens)
        cut = stop.cut(whole)
        assert stop.cut(text(after.tokens)) == cut
        assert after.finished == (cut != whole)
        if after.finished:  # no token more than it takes
            assert stop.find(after.tokens[:-1]) is None
    assert got[0].finished and got[3].tokens == plain[3].tokens[:1]
    assert max(n for _, n in seen) <= 40 and {i for i, _ in seen} == set(range(7))


def test_stop_cuts_as_documented():
    stop = stopping.Stop(lambda tokens: "".join("abcdef"[t] for t in tokens), ("cd", "e"))
    assert stop.find([0, 1, 2, 3, 4]) == 4 and stop.cut("abcde") == "ab"
    assert stop.find([0, 4, 2, 3]) == 2 and stop.find([0, 1, 2]) is None
    assert stopping.Stop(str, ()).find([1]) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [tiny.DECODER, tiny.T5, tiny.GEMMA], ids=["decoder", "t5", "gemma"]
)
def test_agrees_with_one_device_on_a_mesh(model):
    two_by_two = mesh.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    params = tiny.hot(model)
    placed = jax.device_put(params, rules.shardings(*model.abstract(), two_by_two))
    got = generate(model, placed, prompts(), batch_size=8, mesh=two_by_two)
    assert got == generate(model, params, prompts(), batch_size=8)


@pytest.mark.slow
def test_padding_does_not_matter():
    params = tiny.hot(tiny.DECODER)
    padded = generate(tiny.DECODER, params, prompts(), buckets=[30])
    assert padded == generate(tiny.DECODER, params, prompts())


@BOTH
def test_decode_step_gives_the_logits_of_the_whole_row(model):
    """Ragged prompts: each row continues at its own position."""
    params, examples = tiny.hot(model), tiny.examples()
    batch = tiny.pack(*([example] for example in examples))
    want = np.asarray(tiny.logits_of(model)(params, batch))
    known = np.zeros(8, int)
    if model.layout == "decoder":
        known[:3] = [len(target) - 2 for _, target in examples]
    read = np.arange(24)[None, :] < known[:, None]
    prompt = {name: x if name[0] == "e" else np.where(read, x, 0) for name, x in batch.items()}
    _, cache = tiny.jit(model.prefill, static_argnums=2)(params, prompt, 24)
    step = tiny.jit(model.decode_step)
    rows = np.arange(8)
    for position in (known, known + 1):
        tokens = batch["decoder_input_tokens"][rows, position]
        logits, cache = step(params, cache, tokens, position)
        error = np.abs(logits - want[rows, position])[:3].max() / want[:3].std()
        assert error <= 2e-5


def test_prefill_gives_the_hidden_states_of_the_prompt():
    model, params = tiny.DECODER, tiny.hot(tiny.DECODER)
    batch = tiny.pack(*([example] for example in tiny.examples()))
    hidden, cache = tiny.jit(model.prefill, static_argnums=2)(params, batch, 40)
    want = tiny.jit(model.hidden)(params, batch)
    real = batch["decoder_segment_ids"] > 0
    np.testing.assert_allclose(hidden[real], want[real], atol=1e-4)
    assert cache["kv"].key.shape == cache["kv"].value.shape == (2, 8, 2, 40, 8)


@pytest.mark.slow
def test_sampling_does_not_depend_on_the_batch():
    model, params = tiny.DECODER, tiny.initial(tiny.DECODER)
    sampler = sampling.Sampler(temperature=1.0, top_k=50)
    want = generate(model, params, prompts(), sampler=sampler, seed=1)
    assert generate(model, params, prompts(), sampler=sampler, seed=1, batch_size=8) == want
    assert generate(model, params, prompts(), sampler=sampler, seed=2) != want
    last = generate(model, params, prompts()[-1:], sampler=sampler, seed=1, row_seeds=[6])
    assert last == want[-1:]
    same = generate(model, params, prompts()[:1] * 2, sampler=sampler, seed=1)
    assert same[0] != same[1]


def test_stops_at_eos_and_says_so():
    model, params = tiny.DECODER, tiny.hot(tiny.DECODER)
    answer = generate(model, params, prompts()[:1])[0].tokens
    eos = answer[3]
    first = answer.index(eos)
    cut = generate(model, params, prompts()[:1], eos_id=eos)
    assert cut == [decode.Generated(answer[:first], True)]
    # Several ends (of a turn, of a text): the first that comes.
    assert generate(model, params, prompts()[:1], eos_id=[EOS, eos]) == cut
    assert generate(model, params, prompts()[:1], eos_id=[answer[0], eos])[0].tokens == []
    assert generate(model, params, prompts()[:1], max_new_tokens=2) == [
        decode.Generated(answer[:2], False)
    ]


def test_no_prompts_no_answers():
    assert generate(tiny.DECODER, None, []) == []


@pytest.mark.parametrize(
    "length, buckets, padded",
    [(1, None, 16), (17, None, 24), (25, None, 32), (33, None, 48), (1000, None, 1024),
     (17, [20, 100], 20), (20, [100, 20], 20)],
)  # fmt: skip
def test_padded_length(length, buckets, padded):
    assert decode.padded_length(length, buckets) == padded


def test_says_what_is_wrong():
    model = tiny.DECODER
    with pytest.raises(errors.DataError, match="prompt 1 is empty"):
        generate(model, None, [[3], []])
    with pytest.raises(errors.DataError, match="prompt 0 has 20 tokens.*beyond 16"):
        generate(model, None, [[3] * 20], buckets=[16])
    with pytest.raises(errors.ConfigError, match="num_samples = 0; generate; use 1"):
        generate(model, None, [[3]], num_samples=0)
    with pytest.raises(errors.ConfigError, match="batch_size = 0; generate; use 1"):
        generate(model, None, [[3]], batch_size=0)
    with pytest.raises(errors.ConfigError, match="batch_size = 3 does not divide over 8.*use 8"):
        generate(model, None, [[3]], mesh=mesh.make_mesh())
