"""The adapter answers lm-evaluation-harness's three requests as the definition says."""

import abc
import types

import numpy as np
import pytest
from evaluate.test_measuring import MODELS, likelihood, ready

from t5sft import errors
from t5sft.evaluate import answering, harness


class LM(abc.ABC):
    """The part of lm_eval.api.model.LM that an adapter must have."""

    def __init__(self):
        self.cache_hook = None

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def loglikelihood_rolling(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...


def requests(*arguments):
    return [types.SimpleNamespace(args=one) for one in arguments]


@pytest.mark.parametrize("layout", MODELS)
def test_continuations_are_scored_without_an_end_token(layout):
    loaded = ready(layout)
    lm = harness.adapt(LM, loaded, 64)
    known = loaded.vocabulary
    got = lm.loglikelihood(requests(("the sky is", " blue"), ("the sky is ", "blue"), ("", "x")))
    if layout == "decoder":
        given = [known.bos_id, *known.encode("the sky is")]
        assert got[1] == got[0]  # white space at the end counts to the continuation
    else:
        given = [*known.encode("the sky is"), known.eos_id]
    want = likelihood(loaded, given, known.encode(" blue"))
    assert got[0][0] == pytest.approx(want, rel=1e-5) and not got[0][1]
    assert np.isfinite(got[2][0])


@pytest.mark.slow
@pytest.mark.parametrize("layout", MODELS)
def test_what_is_generated_greedily_is_greedy(layout):
    loaded = ready(layout)
    lm = harness.adapt(LM, loaded, 64)
    context = "abc"
    (text,) = lm.generate_until(requests((context, {"until": [], "max_gen_toks": 4})))
    tokens = loaded.vocabulary.encode(text)
    if text and loaded.vocabulary.decode(tokens) == text and text.isascii():
        assert lm.loglikelihood(requests((context, text)))[0][1] is True
    if text:
        stop = {"until": [text[0]], "max_gen_toks": 4}
        assert lm.generate_until(requests((context, stop))) == [""]
    different = requests(
        (context, {"max_gen_toks": 1}), (context, {"max_gen_toks": 4, "until": []})
    )
    assert lm.generate_until(different)[1] == text


def test_rolling_windows_predict_every_token_once_with_as_much_before_it_as_fits():
    loaded = ready("decoder")
    rows = harness.rolling(loaded, "0123456789", 4)
    ids = loaded.vocabulary.encode("0123456789")
    assert [row.targets for row in rows] == [ids[:4], ids[4:8], ids[8:]]
    assert [row.inputs for row in rows] == [[loaded.vocabulary.bos_id], ids[3:4], ids[5:8]]
    assert all(len(row.inputs) + len(row.targets) - 1 <= 4 for row in rows)
    lm = harness.adapt(LM, loaded, 4)
    want = sum(likelihood(loaded, *row) for row in rows)
    assert lm.loglikelihood_rolling(requests(("0123456789",)))[0] == pytest.approx(want, rel=1e-5)


def test_a_long_context_loses_its_beginning_never_the_continuation():
    loaded = ready("decoder")
    row = harness.pair(loaded, "x" * 50 + "end", "yes", 8)
    known = loaded.vocabulary
    assert row.targets == known.encode("yes")
    assert row.inputs == [known.bos_id, *known.encode("xxend")]
    assert len(row.inputs) + len(row.targets) - 1 == 8
    other = harness.pair(ready("encoder_decoder"), "x" * 50 + "end", "yes", 8)
    assert other.inputs == [*known.encode("xxxxend"), known.eos_id]


@pytest.mark.parametrize("new", [4, 8, 256])
def test_what_is_generated_takes_no_place_in_the_row_of_an_encoder(new, monkeypatch):
    loaded, seen = ready("encoder_decoder"), []

    def reply(loaded, prompts, how):
        seen.extend(prompts)
        return [answering.Reply([], "", True) for _ in prompts]

    monkeypatch.setattr(answering, "reply", reply)
    lm = harness.adapt(LM, loaded, 8)
    lm.generate_until(requests(("x" * 50 + "end", {"max_gen_toks": new}), ("a", {})))
    known = loaded.vocabulary
    assert seen == [[*known.encode("xxxxend"), known.eos_id], [*known.encode("a"), known.eos_id]]


def test_a_decoder_without_a_place_for_the_context_is_told():
    lm = harness.adapt(LM, ready("decoder"), 8)
    with pytest.raises(errors.ConfigError, match="8 new tokens leave no place"):
        lm.generate_until(requests(("a", {"max_gen_toks": 8})))


def test_without_the_harness_it_is_told(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(errors.ConfigError, match="lm_eval"):
        harness.open_model("nowhere")
