"""Lengths and policies: what is cut, split or dropped, and that it is counted."""

import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.data import preprocess, records, templates, truncation, vocab

BYTES = vocab.load("bytes")
LINES = templates.get("lines")


def conversation(*texts, system=None, **options):
    turns = [("system", system)] if system is not None else []
    turns += zip(("user", "assistant") * len(texts), texts, strict=False)
    return records.Record(tuple(records.Message(r, t) for r, t in turns), "test", 7, **options)


def made(record, layout="decoder", template=LINES, **options):
    return preprocess.examples(
        record, BYTES, template, preprocess.Options(layout=layout, **options)
    )


def text(tokens, learnt=None):
    """The text of all tokens, or of those that weigh something."""
    pairs = zip(tokens.ids, tokens.weights, strict=True)
    return BYTES.decode([i for i, w in pairs if learnt is None or (w > 0) == learnt])


def test_counts_say_what_became_of_a_record():
    assert made(conversation("Hi?", "Yes.")).counts == {
        "kept": 1,
        "tokens": 10,  # bos, 4 of the prompt, 4 of the answer, eos
        "learnt_tokens": 5,
    }
    assert made(conversation("Hi?", "Yes."), decoder_length=8).counts == {
        "dropped": 1,
        "dropped: too long": 1,
    }
    cut = made(conversation("Hi?", "Yes."), decoder_length=7, too_long="cut_prompt")
    assert cut.counts == {
        "kept": 1,
        "truncated": 1,
        "truncated: cut_prompt": 1,
        "tokens": 8,
        "learnt_tokens": 5,
    }
    assert text(cut.units[0][0].targets, learnt=False) == "?\n"
    cut = made(conversation("Hi?", "Yes."), decoder_length=6, too_long="cut_response")
    assert cut.counts["truncated: cut_response"] == 1 and cut.counts["learnt_tokens"] == 2
    assert text(cut.units[0][0].targets, learnt=True) == "Ye"


@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
def test_unlearnt_is_dropped_or_an_error_and_never_a_batch_without_loss(layout):
    """Class 16: truncation that kills the target."""
    record = conversation("Hi?", "Yes.")
    silent = record._replace(messages=(record.messages[0], record.messages[1]._replace(weight=0)))
    assert made(silent, layout).counts == {"dropped": 1, "dropped: nothing to learn": 1}
    with pytest.raises(errors.DataError, match=r"no token of it learns; test\[7\]; give a mess"):
        made(silent, layout, unlearnt="error")
    gone = made(conversation("Hello?", "Yes."), decoder_length=5, too_long="cut_response")
    assert gone.counts == {"dropped": 1, "dropped: nothing to learn": 1}
    with pytest.raises(errors.DataError, match=r"test\[7\]: an example has 0 input and 10 target"):
        made(record, decoder_length=8, too_long="error")


def test_a_prompt_that_weighs_something_is_still_a_prompt():
    """Weights of a prompt once kept it from being cut, and hid an answer that was cut away."""
    options = {"decoder_length": 7, "prompt_weight": 0.25}
    cut = made(conversation("Hi?", "Yes."), too_long="cut_prompt", **options)
    tokens = cut.units[0][0].targets
    assert tokens.weights.tolist() == [0, 0.25, 0.25, 1, 1, 1, 1, 1]
    assert cut.counts["learnt_tokens"] == 7
    gone = made(conversation("Hi, you?", "Yes."), too_long="cut_response", **options)
    assert gone.counts == {"dropped": 1, "dropped: nothing to learn": 1}
    everything = made(conversation("Hi?", "Yes."), learn="everything").units[0][0].targets
    assert everything.weights.tolist() == [0] + [1] * 9


def test_weights_of_messages_always_scale():
    record = conversation("a", "b", "c", "d")
    pairs = zip(record.messages, (2, 3, 0.5, 4), strict=True)
    heavy = record._replace(messages=tuple(m._replace(weight=w) for m, w in pairs))
    found = made(heavy, prompt_weight=0.1).units[0][0].targets.weights
    assert [round(float(w), 3) for w in found] == [0, 0.2, 0.2, 3, 3, 0.05, 0.05, 4, 4]
    found = made(heavy, learn="last_assistant").units[0][0].targets.weights
    assert found.tolist() == [0, 0, 0, 0, 0, 0, 0, 4, 4]
    found = made(heavy, learn="everything").units[0][0].targets.weights
    assert found.tolist() == [0, 2, 2, 3, 3, 0.5, 0.5, 4, 4]


def test_targets_are_all_answers_to_the_last_question():
    call = records.ToolCall("f", "{}")
    record = conversation("a", "b", "c", "")
    messages = (
        *record.messages[:3],
        records.Message("assistant", "", tool_calls=(call,)),
        records.Message("tool", "1"),
        records.Message("assistant", "d"),
    )
    record, template = record._replace(messages=messages), templates.get("chatml:text")
    called = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for learn, want in (
        ("targets", called + "d"),
        ("last_assistant", "d"),
        ("all_assistant", "b" + called + "d"),
    ):
        (unit,) = made(record, template=template, learn=learn).units
        assert text(unit[0].targets, learnt=True) == want


def test_an_encoder_decoder_learns_every_answer_once():
    record = conversation("a", "b", "c", "d", "e", "f")
    units = made(record, "encoder_decoder").units
    assert [text(unit[0].targets) for unit in units] == ["b", "d", "f"]
    assert [text(unit[0].inputs) for unit in units] == ["a\n", "a\nbc\n", "a\nbc\nde\n"]
    units = made(record, "encoder_decoder", learn="last_assistant").units
    assert [text(unit[0].targets) for unit in units] == ["f"]


CHATML = templates.get("chatml:text")
SENTENCE = st.text(st.sampled_from("ab \n\u00e9"), max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    texts=st.lists(SENTENCE, min_size=1, max_size=7).map(lambda t: t * 2),
    system=st.one_of(st.none(), SENTENCE),
    length=st.integers(60, 400),
)
def test_split_turns_learns_every_answer_exactly_once(texts, system, length):
    # Numbered, so that answers can be told apart.
    texts = [f"{i}:{t}" for i, t in enumerate(texts)]
    record = conversation(*texts, system=system)
    got = made(record, template=CHATML, decoder_length=length, too_long="split_turns")
    answers = collections.Counter()
    for (example,) in got.units:
        tokens = example.targets
        assert len(tokens.ids) <= length + 1
        whole = text(tokens)
        if system is not None:
            assert whole.startswith(f"<|im_start|>system\n{system}<|im_end|>\n")
        assert whole.count("<|im_start|>system") == (system is not None)
        run = []
        for token, weight in zip(tokens.ids, tokens.weights, strict=True):
            if weight > 0:
                run.append(int(token))
                if token == BYTES.eos_id:
                    answers[BYTES.decode(run)] += 1
                    run = []
        assert not run and tokens.ids[-2] == BYTES.eos_id  # ends with an answer (and its "\n")
    assert all(count == 1 for count in answers.values())
    alone = [
        made(conversation(a, b, system=system), template=CHATML, decoder_length=length)
        for a, b in zip(texts[::2], texts[1::2], strict=True)
    ]
    fitting = [b for b, one in zip(texts[1::2], alone, strict=True) if one.units]
    assert sorted(answers) == sorted(fitting)
    lost = len(alone) - len(fitting)
    if got.units:
        assert got.counts.get("left out: turn too long", 0) == lost
    else:
        assert got.counts == {"dropped": 1, "dropped: turn too long": 1}


def test_parts_are_as_long_as_can_be():
    """Greedy from the start: every part, with the round after it, would be too long."""
    rounds = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    messages = conversation(*"ababababab").messages
    assert truncation.rounds(messages) == rounds
    for room in range(2, 12):
        parts, lost = truncation.split_turns(messages, lambda part, room=room: len(part) <= room)
        assert not lost and sum(parts, []) == list(range(10))
        for part, following in zip(parts, parts[1:], strict=False):
            assert len(part) <= room < len(part) + 2
            assert following[0] == part[-1] + 1


def test_an_encoder_decoder_forgets_its_oldest_rounds():
    record = conversation("question 1", "b", "question 2", "d", "e", "f")
    options = {"encoder_length": 20, "too_long": "split_turns"}
    got = made(record, "encoder_decoder", **options)
    inputs = [text(unit[0].inputs) for unit in got.units]
    assert inputs == ["question 1\n", "question 2\n", "question 2\nde\n"]
    assert [text(unit[0].targets) for unit in got.units] == ["b", "d", "f"]
    assert got.counts["truncated: split_turns"] == 2


def test_what_learns_in_its_last_round_keeps_what_it_can_of_the_others():
    record = conversation("question 1", "b", "question 2", "d", "e", "f")
    options = {"decoder_length": 20, "too_long": "split_turns"}
    got = made(record, learn="last_assistant", **options)
    assert [text(unit[0].targets) for unit in got.units] == ["question 2\nde\nf"]
    assert got.counts["truncated: split_turns"] == got.counts["kept"] == 1
    labelled = record._replace(
        messages=record.messages[:-1],
        candidates=(records.Candidate((records.Message("assistant", "f"),), 1.0),),
    )
    got = made(labelled, **options)
    assert [text(unit[0].targets) for unit in got.units] == ["question 2\nde\nf"]
    assert got.labels == [1.0] and "left out: nothing to learn" not in got.counts


def pair(chosen="good", rejected="bad", prompt="Hi?"):
    record = conversation(prompt)
    candidates = tuple(
        records.Candidate((records.Message("assistant", words),), label)
        for words, label in ((chosen, 1.0), (rejected, 0.0))
    )
    return record._replace(candidates=candidates)


@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
def test_a_preference_is_one_unit_with_labels(layout):
    got = made(pair(), layout)
    assert [len(unit) for unit in got.units] == [2] and got.labels == [1.0, 0.0]
    assert [text(one.targets, learnt=True) for one in got.units[0]] == ["good", "bad"]
    asked = [one.inputs.ids if layout != "decoder" else one.targets.ids[:5] for one in got.units[0]]
    assert asked[0].tolist() == asked[1].tolist()


def test_only_the_candidates_of_a_preference_learn():
    record = pair()._replace(messages=conversation("a", "b", "c").messages)
    for learn in ("all_assistant", "last_assistant", "targets"):
        (unit,) = made(record, learn=learn).units
        assert [text(one.targets, learnt=True) for one in unit] == ["good", "bad"]


def test_a_unit_fits_one_row_together():
    # Places: 9 - 1 + 8 - 1 = bos, "Hi?\n", answer, eos, less one each.
    whole = made(pair(), decoder_length=17)
    assert [len(one.targets.ids) for one in whole.units[0]] == [10, 9]
    assert made(pair(), decoder_length=16).counts == {"dropped": 1, "dropped: too long": 1}
    cut = made(pair(), decoder_length=14, too_long="cut_prompt")
    assert [text(one.targets) for one in cut.units[0]] == ["?\ngood", "?\nbad"]  # 2 tokens each
    cut = made(pair("very good", "bad"), decoder_length=18, too_long="cut_response")
    assert [text(one.targets) for one in cut.units[0]] == ["Hi?\nvery g", "Hi?\nbad"]
    assert cut.counts["truncated: cut_response"] == 1
    gone = made(pair("very good", ""), decoder_length=4, too_long="cut_response")
    assert gone.counts == {"dropped": 1, "dropped: nothing to learn": 1}


def test_many_records_at_once_are_each_of_them():
    rows = [conversation("a", "b"), pair(), conversation("c" * 30, "d", "e", "f"), pair("x" * 40)]
    options = preprocess.Options("decoder", decoder_length=20, too_long="split_turns")
    together = preprocess.batch(rows, BYTES, LINES, options)
    for row, got in zip(rows, together, strict=True):
        want = preprocess.examples(row, BYTES, LINES, options)
        assert got.counts == want.counts and got.labels == want.labels
        for one, other in zip(sum(got.units, []), sum(want.units, []), strict=True):
            assert [c.tolist() for c in one.targets] == [c.tolist() for c in other.targets]
