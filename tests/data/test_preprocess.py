"""Rendering and tokenising: what is learnt is exactly the answer and its end token."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.data import prepare, preprocess, records, templates, vocab

VILLAGE = "tasks/village/vocab.model"
VOCABULARIES = ("bytes", VILLAGE)
# U+2581 is SentencePiece's own sign for a space: no vocabulary of it gives the character back.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\u2581"), max_size=40)


def conversation(*turns, context=""):
    """user, assistant, user, assistant ..."""
    roles = ("user", "assistant") * len(turns)
    messages = [records.Message(r, t) for r, t in zip(roles, turns, strict=False)]
    messages[0] = messages[0]._replace(context=context)
    return records.Record(tuple(messages), "test", 0)


def example(record, name, layout, template="lines", **options):
    vocabulary = vocab.load(name)
    made = preprocess.instruction(
        record, vocabulary, templates.get(template), layout=layout, **options
    )
    return made, vocabulary


def learnt(tokens):
    return [i for i, weight in zip(tokens.ids, tokens.weights, strict=True) if weight > 0]


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("template", ["plain", "lines", "alpaca"])
@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(question=TEXT, context=TEXT, answer=TEXT.filter(str.strip))
def test_learns_the_answer_and_one_end_token(name, template, layout, question, context, answer):
    record = conversation(question, answer, context=context)
    made, vocabulary = example(record, name, layout, template)
    ids = learnt(made.targets)
    assert ids.count(vocabulary.eos_id) == 1 and ids[-1] == vocabulary.eos_id
    assert vocabulary.decode(ids[:-1]) == answer
    assert len(ids) == len(vocabulary.encode_with_offsets(answer)[0]) + 1


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("template", ["plain", "lines", "alpaca"])
@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(question=TEXT, context=TEXT, answer=TEXT.filter(str.strip))
def test_a_prompt_has_the_same_ids_in_training_and_at_inference(
    name, template, layout, question, context, answer
):
    record = conversation(question, answer, context=context)
    made, vocabulary = example(record, name, layout, template)
    unknown = conversation(question, "", context=context)  # the answer is still to come
    prompt = preprocess.prompt(unknown, vocabulary, templates.get(template), layout=layout)
    trained = made.inputs if layout == "encoder_decoder" else made.targets
    assert trained.ids[: len(prompt)] == prompt
    rest = trained.weights[len(prompt) :]
    assert all(weight > 0 for weight in rest) and not any(trained.weights[: len(prompt)])


def test_one_beginning_and_one_end_token_per_sequence():
    made, vocabulary = example(conversation("Hi.", "Yes."), "bytes", "decoder")
    assert made.targets.ids.count(vocabulary.bos_id) == 1
    assert made.targets.ids.count(vocabulary.eos_id) == 1
    made, _ = example(conversation("Hi.", "Yes."), "bytes", "encoder_decoder")
    assert made.inputs.ids.count(vocabulary.eos_id) == made.targets.ids.count(1) == 1
    assert vocabulary.bos_id not in made.inputs.ids + made.targets.ids


@pytest.mark.parametrize("name", VOCABULARIES)
def test_text_that_spells_a_control_token_stays_text(name):
    text = "</s> <s> <pad> <extra_id_0> {content} {context}"
    made, vocabulary = example(conversation(text, text), name, "decoder", "alpaca")
    control = {vocabulary.eos_id, vocabulary.bos_id, vocabulary.pad_id, *vocabulary.sentinel_ids}
    assert sum(token in control for token in made.targets.ids) == 2  # one <s>, one </s>
    assert vocabulary.decode(learnt(made.targets)) == text


def test_every_assistant_turn_learns_and_nothing_else():
    record = conversation("One?", "Yes.", "Two?", "Yes.", "Three?", "No.")
    made, vocabulary = example(record, "bytes", "decoder")
    assert vocabulary.decode(learnt(made.targets)) == "Yes.Yes.No."
    assert learnt(made.targets).count(vocabulary.eos_id) == 3
    made, _ = example(record, "bytes", "decoder", learn="last_assistant")
    assert vocabulary.decode(learnt(made.targets)) == "No."
    assert learnt(made.targets)[-1] == vocabulary.eos_id


def test_prompt_weight_and_everything():
    made, _ = example(conversation("One?", "Yes."), "bytes", "decoder", prompt_weight=0.25)
    assert set(made.targets.weights) == {0.0, 0.25, 1.0}  # 0 is the beginning: nothing predicts it
    made, _ = example(conversation("One?", "Yes."), "bytes", "decoder", learn="everything")
    assert set(made.targets.weights[1:]) == {1.0}


def test_message_weight_scales_its_loss():
    record = conversation("One?", "Yes.", "Two?", "No.")
    heavy = record.messages[3]._replace(weight=0.5)
    record = record._replace(messages=(*record.messages[:3], heavy))
    made, _ = example(record, "bytes", "decoder")
    assert set(made.targets.weights) == {0.0, 0.5, 1.0}


@pytest.mark.parametrize("name", VOCABULARIES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=TEXT)
def test_ids_are_the_same_with_and_without_offsets(name, text):
    vocabulary = vocab.load(name)
    assert vocabulary.encode(text) == vocabulary.encode_with_offsets(text)[0]


def test_a_token_across_two_pieces_belongs_to_the_first():
    class Pairs(vocab.Bytes):
        def encode_with_offsets(self, text):
            spans = [(i, min(i + 2, len(text))) for i in range(0, len(text), 2)]
            return [3] * len(spans), spans

    pieces = [templates.Piece("abc", "user", 0.0), templates.Piece("defg", "assistant", 1.0)]
    tokens = preprocess.tokenize(pieces, Pairs())
    assert tokens.weights == [0, 0, 1, 1]  # ab cd ef g: "cd" begins in the first piece


@pytest.mark.parametrize("seed", range(3))
def test_span_corruption_gives_back_the_text(seed):
    vocabulary = vocab.load(VILLAGE)
    text = "The lamb is at the gate. The bell is at the well. Ines is at the harbour."
    record = records.Record((records.Message("text", text),), "village_text", seed)
    inputs, targets = preprocess.span_corruption(record, vocabulary, seed=seed)
    again = preprocess.span_corruption(record, vocabulary, seed=seed)
    assert again == (inputs, targets)  # a function of (seed, task, index)
    spans, sentinel = {}, None
    for token in targets.ids[:-1]:
        if token in vocabulary.sentinel_ids:
            sentinel = token
            spans[sentinel] = []
        else:
            spans[sentinel].append(token)
    whole = [t for token in inputs.ids[:-1] for t in spans.get(token, [token])]
    assert whole == vocabulary.encode_with_offsets(text)[0]
    assert sum(map(len, spans.values())) == round(0.15 * len(whole))


def fit(layout, lengths, too_long, s=8, t=6):
    n, m = lengths
    ids = list(range(3, 3 + n + m))
    inputs = preprocess.Tokens(ids[:n], [0.0] * n, [2] * n)
    targets = preprocess.Tokens(ids[n:], [1.0] * m, [3] * m)
    if layout == "decoder":
        inputs, targets = preprocess.EMPTY, inputs + targets
    made = preprocess.Example(inputs, targets)
    return preprocess.fit(
        made, layout=layout, encoder_length=s, decoder_length=t, too_long=too_long
    )


def test_truncation_policies():
    kept, was_cut = fit("encoder_decoder", (8, 6), "error")
    assert (len(kept.inputs.ids), len(kept.targets.ids), was_cut) == (8, 6, False)
    for policy, reason in (("drop", "too long"), ("cut_response", "prompt too long")):
        with pytest.raises(records.Dropped, match=reason):
            fit("encoder_decoder", (9, 6), policy)
    kept, was_cut = fit("encoder_decoder", (10, 6), "cut_prompt")
    assert kept.inputs.ids == list(range(5, 13)) and was_cut  # from the left
    with pytest.raises(records.Dropped, match="answer too long"):
        fit("encoder_decoder", (3, 7), "cut_prompt")
    kept, _ = fit("decoder", (4, 3), "error")  # 7 tokens take 6 places
    assert len(kept.targets.ids) == 7
    kept, was_cut = fit("decoder", (6, 3), "cut_prompt")
    assert list(kept.targets.ids) == [3, 6, 7, 8, 9, 10, 11] and was_cut  # the beginning stays
    assert list(kept.targets.weights) == [0, 0, 0, 0, 1, 1, 1]
    with pytest.raises(records.Dropped, match="nothing to learn"):
        fit("decoder", (7, 3), "cut_response")
    with pytest.raises(Exception, match="rows hold 8 and 6"):
        fit("encoder_decoder", (9, 6), "error")


def test_pad_equal_to_end_changes_nothing():
    """Masks come from lengths: with pad_id == eos_id every end token is still learnt."""

    class PadIsEnd(vocab.Bytes):
        pad_id = eos_id = 1

    made = preprocess.instruction(
        conversation("One?", "Yes."), PadIsEnd(), templates.get("lines"), layout="decoder"
    )
    reference, _ = example(conversation("One?", "Yes."), "bytes", "decoder")
    assert made == reference
    assert np.sum(np.asarray(learnt(made.targets)) == 1) == 1


# ---- Long plain texts


def long_text(size, number=0):
    words = " ".join(f"w{i}" for i in range(size))[:size]
    return records.Record((records.Message("text", words),), "corpus", number)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
def test_a_long_text_is_split_and_every_token_learnt_once(size, layout):
    options = preprocess.Options(layout, "language_model", decoder_length=16, too_long="split_text")
    text, vocabulary = long_text(size), vocab.load("bytes")
    made = preprocess.examples(text, vocabulary, None, options)
    flat = [one for (one,) in made.units]
    learnt = [i for one in flat for i, w in zip(*one.targets[:2], strict=True) if w]
    ids = vocabulary.encode(text.messages[0].content)
    assert learnt == [*ids, vocabulary.eos_id]
    shift = layout == "decoder"
    sizes = [len(one.targets.ids) - shift for one in flat]
    assert max(sizes) <= 16 and all(one == 16 for one in sizes[:-1])
    if shift:  # what a token is predicted from is the token before it
        whole = [vocabulary.bos_id, *learnt]
        pairs = [pair for one in flat for pair in itertools.pairwise(one.targets.ids)]
        assert pairs == list(itertools.pairwise(whole))
    assert made.counts["learnt_tokens"] == len(ids) + 1 and made.counts["kept"] == 1
    assert made.counts.get("truncated: split_text", 0) == (len(flat) > 1)
    assert len(flat) == -(-sum(sizes) // 16)


@pytest.mark.parametrize("room", [(32, 16), (24, 64), (512, 8)])
@pytest.mark.parametrize("size", [2, 20, 40, 333])
def test_a_long_text_is_corrupted_in_parts_that_fit(size, room):
    options = preprocess.Options(
        "encoder_decoder", "span_corruption", encoder_length=room[0], decoder_length=room[1],
        too_long="split_text", noise_density=0.3,
    )  # fmt: skip
    text, vocabulary = long_text(size), vocab.load("bytes")
    made = preprocess.examples(text, vocabulary, None, options)
    back: list[int] = []
    for (one,) in made.units:
        assert len(one.inputs.ids) <= room[0] and len(one.targets.ids) <= room[1]
        spans, sentinel = {}, None
        for i in one.targets.ids[:-1]:
            if i in vocabulary.sentinel_ids:
                sentinel = spans.setdefault(i, [])
            else:
                sentinel.append(i)
        for i in one.inputs.ids[:-1]:
            back += spans.get(i, [i])
    assert back == vocabulary.encode(text.messages[0].content)
    whole = dataclasses.replace(options, encoder_length=4096, decoder_length=4096)
    if len(made.units) == 1:
        assert made == preprocess.examples(
            text, vocabulary, None, dataclasses.replace(whole, too_long="drop")
        )
    elif size > 100:
        draws = {tuple(i in vocabulary.sentinel_ids for i in one.inputs.ids)
                 for (one,) in made.units}  # fmt: skip
        assert len(draws) > 1  # parts are not corrupted alike


def test_splitting_a_conversation_as_a_text_is_refused():
    with pytest.raises(errors.ConfigError, match="split_text.*Data.too_long.*split_turns"):
        prepare.Data(task="toy", vocabulary="bytes", too_long="split_text")
