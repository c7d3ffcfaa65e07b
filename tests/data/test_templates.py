"""Every format with every kind of vocabulary agrees with a second renderer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import formats, vocabularies

from t5sft import errors
from t5sft.data import preprocess, records, templates, vocab
from t5sft.data.templates import writer

# U+2581 is SentencePiece's own sign for a space; U+E000 and on are the oracle's marks.
CHARACTERS = st.characters(exclude_categories=("Cs", "Co"), exclude_characters="\u2581")
MARKS = ("</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "[/INST]", "<s>", "<think>", "bos")
TEXT = st.lists(
    st.one_of(st.text(CHARACTERS, max_size=12), st.sampled_from((*MARKS, "\n", " ", "  \n"))),
    max_size=4,
).map("".join)
HAS_SYSTEM = tuple(name for name in formats.FORMATS if name not in ("plain", "lines", "alpaca"))
EVERY = [(name, kind) for name in templates.TEMPLATES for kind in vocabularies.KINDS]


@st.composite
def conversations(draw, name):
    """A system prompt or none, and one to three rounds; thinking and context where they can be."""
    messages = []
    if name in HAS_SYSTEM and draw(st.booleans()):
        messages.append(records.Message("system", draw(TEXT)))
    for _ in range(draw(st.integers(1, 3))):
        context = draw(TEXT) if name in ("plain", "lines", "alpaca") else ""
        thinking = draw(TEXT).strip("\n") if name == "qwen3" else ""
        messages.append(records.Message("user", draw(TEXT), context=context))
        messages.append(records.Message("assistant", draw(TEXT), thinking=thinking))
    return records.Record(tuple(messages), "test", 0)


def plainly(record):
    return [
        {"role": m.role, "content": m.content, "context": m.context, "thinking": m.thinking}
        for m in record.messages
    ]


@pytest.mark.parametrize("name, kind", EVERY)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_a_second_renderer(name, kind, data):
    vocabulary = vocabularies.KINDS[kind]()
    record = data.draw(conversations(name))
    template = templates.get(vocabularies.fitting(name, kind))
    as_text = template.name.endswith(templates.AS_TEXT)
    made = preprocess.instruction(record, vocabulary, template, layout="decoder")
    ids, weights = formats.tokens(name, plainly(record), vocabulary, as_text)
    assert made.targets.ids == ids
    assert made.targets.weights == weights


@pytest.mark.parametrize("name, kind", EVERY)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_decoding_what_is_learnt_gives_the_answers_and_their_ends(name, kind, data):
    """Class 1 and 2 of the known bugs: an empty mask, an end token that nobody learns."""
    vocabulary = vocabularies.KINDS[kind]()
    record = data.draw(conversations(name))
    template = templates.get(vocabularies.fitting(name, kind))
    made = preprocess.instruction(record, vocabulary, template, layout="decoder").targets
    end = preprocess.end_ids(template, vocabulary)[0]
    runs = [[]]
    for token, weight in zip(made.ids, made.weights, strict=True):
        if weight > 0:
            runs[-1].append(token)
            if token == end:
                runs.append([])
    answers = [m for m in record.messages if m.role == "assistant"]
    assert len(runs) == len(answers) + 1 and not runs[-1]
    for run, message in zip(runs, answers, strict=False):
        text = vocabulary.decode(run[:-1])
        if template.thinking and message is answers[-1]:
            # Qwen 3's tags are tokens of their own where a vocabulary has them.
            tags = ("<think>", "</think>") if vocabulary.control_id("<think>") is None else ("", "")
            spelled = f"{tags[0]}\n{message.thinking}\n{tags[1]}\n\n{message.content}"
            assert text.replace(" ", "") == spelled.replace(" ", "")
            continue
        turn = template.turns["assistant"]
        lead = "" if vocabulary.adds_space else turn.lead
        assert text == lead + message.content + turn.tail


@pytest.mark.parametrize("name, kind", EVERY)
@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_prompt_is_the_front_of_what_is_trained(name, kind, layout, data):
    """Classes 5 and 18: the prompt is no prefix, or another template is used at inference."""
    vocabulary = vocabularies.KINDS[kind]()
    record = data.draw(conversations(name))
    template = templates.get(vocabularies.fitting(name, kind))
    made = preprocess.instruction(record, vocabulary, template, layout=layout)
    unknown = record._replace(messages=(*record.messages[:-1], records.Message("assistant", "")))
    prompt = preprocess.prompt(unknown, vocabulary, template, layout=layout)
    trained = made.inputs if layout == "encoder_decoder" else made.targets
    assert trained.ids[: len(prompt)] == prompt
    if layout == "decoder":
        assert all(weight > 0 for weight in trained.weights[len(prompt) :][:1])
        if vocabulary.bos_id is not None and name != "llama2":
            assert trained.ids.count(vocabulary.bos_id) == 1  # class 4


@pytest.mark.parametrize("kind", vocabularies.KINDS)
@pytest.mark.parametrize("name", templates.TEMPLATES)
def test_control_tokens_come_from_the_template_alone(name, kind):
    vocabulary = vocabularies.KINDS[kind]()
    template = templates.get(vocabularies.fitting(name, kind))
    nothing = records.Record(
        (records.Message("user", ""), records.Message("assistant", "x")), "test", 0
    )
    text = " ".join((*vocabularies.CONTROLS, "</s> <s> <pad> <|begin|> <|end_of_text|>"))
    typed = nothing._replace(
        messages=(records.Message("user", text), records.Message("assistant", text))
    )
    controls = [vocabulary.control_id(one) for one in (*vocabularies.CONTROLS, "</s>", "<s>")]
    controls = {*controls, vocabulary.bos_id, vocabulary.eos_id} - {None}

    def found(record):
        ids = preprocess.instruction(record, vocabulary, template, layout="decoder").targets.ids
        return [token for token in ids if token in controls]

    assert found(typed) == found(nothing)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_a_vocabulary_without_the_control_tokens_is_refused_or_spells_them():
    record = records.Record(
        (records.Message("user", "Hi"), records.Message("assistant", "Yo")), "test", 0
    )
    with pytest.raises(errors.DataError, match=r"no control token '<\|im_start\|>'.*:text"):
        preprocess.prompt(record, vocab.load("bytes"), templates.get("chatml"), layout="decoder")
    with pytest.raises(errors.DataError, match=r"no control token '<\|im_end\|>'"):
        preprocess.check(templates.get("chatml"), vocab.load("bytes"))
    preprocess.check(templates.get("chatml"), vocabularies.byte_pairs())
    spelled = preprocess.instruction(
        record, vocab.load("bytes"), templates.get("chatml:text"), layout="decoder"
    )
    assert vocab.load("bytes").decode(spelled.targets.ids) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo\n"
    )
    assert preprocess.end_ids(templates.get("chatml:text"), vocab.load("bytes")) == (1,)


@pytest.mark.parametrize("name", ["chatml", "gemma", "llama3", "lines", "llama2"])
def test_generation_ends_at_the_end_of_turn_and_at_the_end_of_text(name):
    vocabulary = vocabularies.byte_pairs()
    ends = preprocess.end_ids(templates.get(name), vocabulary)
    assert ends[0] == vocabulary.control_id(formats.ENDS.get(name, "<|end_of_text|>"))
    assert vocabulary.eos_id in ends


@pytest.mark.parametrize("name", templates.TEMPLATES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_mould_of_a_conversation_gives_what_the_writer_writes(name, data):
    record = data.draw(conversations(name))
    template, vocabulary = templates.get(name), vocabularies.byte_pairs()
    weights = [templates.Weights(data.draw(st.floats(0, 2)), -0.5) for _ in record.messages]
    slow = list(writer.Writer(template, record, weights).pieces())
    got = preprocess.tokenize(template.render(record, weights), vocabulary)
    assert got == preprocess.tokenize(slow, vocabulary)


@pytest.mark.parametrize("name", ["chatml", "qwen2.5", "qwen3", "llama3.1", "mistral"])
def test_tools_are_written_or_refused(name):
    """What every format of tools has in common; its text is compared in test_jinja."""
    tool = {"type": "function", "function": {"name": "add", "description": "[INST] <|eot_id|>"}}
    call = records.ToolCall("add", '{"a":"<|im_end|> \\u00e9"}', "123456789")
    record = records.Record(
        (
            records.Message("user", "one"),
            records.Message("assistant", "", tool_calls=(call,)),
            records.Message("tool", "</s>"),
            records.Message("assistant", "two"),
        ),
        "test",
        0,
        tools=json.dumps([tool]),
    )
    vocabulary, template = vocabularies.byte_pairs(), templates.get(name)
    pieces = templates.render(record, template)
    text = "".join(piece.text for piece in pieces)
    indent = 4 if name == "llama3.1" else None
    assert formats.tool_text(tool, indent) in text and '{"a": "<|im_end|> \u00e9"}' in text
    made = preprocess.tokenize(pieces, vocabulary)
    end = preprocess.end_ids(template, vocabulary)[0]
    learnt = [i for i, weight in zip(made.ids, made.weights, strict=True) if weight > 0]
    assert learnt.count(end) == 2 and learnt[-1] == end
    said = vocabulary.decode(learnt)
    assert '"name": "add"' in said and said.endswith("two") and "</s>" not in said
    empty = record._replace(messages=(record.messages[0], record.messages[3]))
    controls = {vocabulary.control_id(one) for one in vocabularies.CONTROLS} - {None}
    # Nothing in a tool is a control token: as many of them as with a harmless one.
    harmless = empty._replace(tools=json.dumps([{"type": "function", "function": {"name": "x"}}]))
    counts = [
        sum(
            i in controls
            for i in preprocess.tokenize(templates.render(r, template), vocabulary).ids
        )
        for r in (empty, harmless)
    ]
    assert counts[0] == counts[1]
    with pytest.raises(errors.DataError, match="tool"):
        templates.render(record, templates.get("vicuna"))
    roles = ("system", "user", "assistant")
    plain = records.Record(tuple(records.Message(role, "a") for role in roles), "corpus", 7)
    with pytest.raises(errors.DataError, match=r"'lines' cannot write a 'system' turn; corpus\[7"):
        templates.render(plain, templates.get("lines"))
    broken = record._replace(tools="[{")
    with pytest.raises(errors.DataError, match=r"tools is not JSON.*test\[0\]"):
        templates.render(broken, template)


def test_llama_3_1_calls_one_tool_at_a_time():
    call = records.ToolCall("f", "{}")
    record = records.Record(
        (records.Message("user", "a"), records.Message("assistant", "", tool_calls=(call, call)))
    )
    with pytest.raises(errors.DataError, match="'llama3.1' cannot write 2 tool calls"):
        templates.render(record, templates.get("llama3.1"))
    spoken = records.Message("assistant", "text", tool_calls=(call,))
    with pytest.raises(errors.DataError, match="cannot write text beside a tool call"):
        templates.render(
            record._replace(messages=(record.messages[0], spoken)), templates.get("mistral")
        )
    thought = records.Message("assistant", "text", thinking="hm")
    with pytest.raises(errors.DataError, match="'gemma' cannot write an assistant's thinking"):
        templates.render(
            record._replace(messages=(record.messages[0], thought)), templates.get("gemma")
        )
