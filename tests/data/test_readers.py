"""Every format becomes the record that its documentation says, or is refused by name."""

import itertools
import json
import pathlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.data import readers, records
from t5sft.data.readers import conversations
from t5sft.data.records import Candidate, Dropped, Message, Record, ToolCall


def user(content, context=""):
    return Message("user", content, context)


def answer(content, **more):
    return Message("assistant", content, **more)


QUESTION = (Message("user", "q"),)


def pair(*better, prompt=QUESTION, **more):
    good, bad = ((answer(x),) for x in better)
    return Record(prompt, candidates=(Candidate(good, 1.0), Candidate(bad, 0.0)), **more)


HUMAN = {"from": "human", "value": "q"}
GPT = {"from": "gpt", "value": "a"}
USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}
QA = Record((user("q"), answer("a")))

GOLDEN = [  # format, row, record
    ("alpaca", {"instruction": "q", "input": "", "output": "a"}, QA),
    ("alpaca", {"instruction": "q", "output": "a", "input": None}, QA),
    ("alpaca", {"instruction": "q", "input": "<noinput>", "output": "a"}, QA),
    ("alpaca", {"instruction": "q", "input": " No Input. ", "output": "a"}, QA),
    ("alpaca", {"instruction": "q", "input": "no inputs", "output": " a\n"},
     Record((user("q", "no inputs"), answer(" a\n")))),
    ("alpaca", {"instruction": "q", "context": "c", "response": "a", "category": "open_qa"},
     Record((user("q", "c"), answer("a")), metadata={"category": "open_qa"})),
    ("alpaca", {"instruction": "q", "output": "a", "system": "s", "history": [["u", "b"]]},
     Record((Message("system", "s"), user("u"), answer("b"), user("q"), answer("a")))),
    ("self_instruct", {"id": "t0", "instruction": "q", "instances": [{"input": "c",
     "output": "a"}]},
     Record((user("q", "c"), answer("a")), metadata={"id": "t0"})),
    ("inputs_targets", {"inputs": "q", "targets": "a"}, QA),
    ("inputs_targets", {"input": "q", "target": "a", "canary": "x"}, QA),
    ("inputs_targets", {"inputs": [3], "targets": [4], "inputs_pretokenized": "q",
                        "targets_pretokenized": "a"}, QA),
    ("prompt_completion", {"prompt": "q", "completion": "a"}, QA),
    ("prompt_completion", {"prompt": "q", "response": "a"}, QA),
    ("prompt_completion", {"prompt": [USER], "completion": [ASSISTANT]}, QA),
    ("p3", {"template": "rte_x", "prompt": "q\n", "completion": " a<|endoftext|>"},
     Record((user("q\n"), answer(" a")), metadata={"template": "rte_x"})),
    ("text", {"text": "Once."}, Record((Message("text", "Once."),))),
    ("gsm8k", {"question": "q", "answer": "so\n#### -1,234"},
     Record((user("q"), answer("so\n#### -1,234")), answer="-1234")),
    ("ifeval", {"key": 7, "prompt": "q", "instruction_id_list": ["a:b", "c"],
                "kwargs": [{"n": 1, "m": None}, {}]},
     Record((user("q"),), answer='[["a:b", {"n": 1}], ["c", {}]]', metadata={"key": "7"})),
    ("cot_tsv", {"inputs": "q\\n- x", "answer": "x", "rationale": "r\\ns"},
     Record((user("q\n- x"), answer("r\ns So the answer is x.")), answer="x",
            metadata={"rationale": "r\ns"})),
    ("mt_bench", {"question_id": 81, "turns": ["q", "then"], "reference": ["a", "b"]},
     Record((user("q"),), answer="a", metadata={
         "question_id": "81", "turns": '["q", "then"]', "references": '["a", "b"]'})),
    ("natural_instructions", {"Title": "T", "Definition": "d", "Things to Avoid": "-",
                              "Emphasis & Caution": "care", "input": "q", "output": ["a", "b"],
                              "Examples": {"Positive Examples": []}},
     Record((user("d\nEmphasis & Caution: care", "q"), answer("a")), answer="a",
            metadata={"Title": "T", "references": '["a", "b"]'})),
    ("natural_instructions", {"Definition": ["d", "e"], "Positive Examples": [], "input": "q",
                              "output": "a"},
     Record((user("d\ne", "q"), answer("a")), answer="a")),
    ("messages", {"messages": [USER, ASSISTANT], "source": "web"},
     QA._replace(metadata={"source": "web"})),
    ("messages", {"messages": [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
            {"id": "c2", "type": "function", "function": {"name": "sub", "arguments": {"ä": 2}}}]},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "tool", "name": "add", "content": ""},
        {"role": "assistant", "content": "a", "weight": 0.5, "reasoning_content": "hm"},
      ], "tools": [{"name": "add"}]},
     Record((Message("system", "s"), user("q!"),
             answer("", tool_calls=(ToolCall("add", '{"a": 1}', "c1"),
                                    ToolCall("sub", '{"ä": 2}', "c2"))),
             Message("tool", "2", name="sub"), Message("tool", "", name="add"),
             answer("a", weight=0.5, thinking="hm")), tools='[{"name": "add"}]')),
    ("sharegpt", {"id": "x_0", "conversations": [HUMAN, GPT]}, QA._replace(metadata={"id": "x_0"})),
    ("sharegpt", {"system": "s", "tools": "[]", "conversation": [HUMAN, GPT]},
     Record((Message("system", "s"), user("q"), answer("a")))),
    ("sharegpt", {"tools": '[{"name": "f"}]', "conversations": [
        HUMAN, {"from": "function_call", "value": '{"name": "f", "arguments": {"x": [1]}}'},
        {"from": "observation", "value": "r"}, GPT]},
     Record((user("q"), answer("", tool_calls=(ToolCall("f", '{"x": [1]}'),)),
             Message("tool", "r"), answer("a")), tools='[{"name": "f"}]')),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, pair("a", "b")),
    ("preference", {"instruction": "q", "input": "c", "chosen": "a", "rejected": "b"},
     pair("a", "b", prompt=(user("q", "c"),))),
    ("preference", {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
     pair("a", "b", prompt=(Message("system", "s"), user("q")))),
    ("preference", {"prompt": [USER], "chosen": [ASSISTANT],
                    "rejected": [{"role": "assistant", "content": "b"}]}, pair("a", "b")),
    ("preference", {"prompt": "q", "chosen": [USER, ASSISTANT], "messages": [USER, ASSISTANT],
                    "rejected": [USER, {"role": "assistant", "content": "b"}]}, pair("a", "b")),
    ("preference", {"chosen": [USER, ASSISTANT],
                    "rejected": [USER, {"role": "assistant", "content": "b"}]}, pair("a", "b")),
    ("preference_sharegpt", {"conversations": [HUMAN], "chosen": GPT,
                             "rejected": {"from": "gpt", "value": "b"}}, pair("a", "b")),
    ("hh", {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
     pair("a", "b")),
    ("hh", {"chosen": "\n\nHuman: x\n\nAssistant: y\n\nHuman: q \n\nAssistant: a",
            "rejected": "\n\nHuman: x\n\nAssistant: y\n\nHuman: q\n\nAssistant:  b\n"},
     pair("a", "b", prompt=(user("x"), answer("y"), user("q")))),
    ("kto", {"messages": [USER, ASSISTANT], "label": True},
     Record((user("q"),), candidates=(Candidate((answer("a"),), 1.0),))),
    ("kto", {"prompt": "q", "completion": "a", "label": False},
     Record((user("q"),), candidates=(Candidate((answer("a"),), 0.0),))),
    ("kto", {"instruction": "q", "input": "c", "output": "a", "kto_tag": True},
     Record((user("q", "c"),), candidates=(Candidate((answer("a"),), 1.0),))),
    ("ranked", {"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 0.5, -2]},
     Record((user("q"),), candidates=tuple(
         Candidate((answer(x),), y) for x, y in (("a", 1.0), ("b", 0.5), ("c", -2.0))))),
    ("ranked", {"prompt": "q", "answers": [{"answer": "a", "rank": 2.0}, {"answer": "b",
     "rank": 1}]},
     Record((user("q"),), candidates=(Candidate((answer("a"),), -2.0),
                                      Candidate((answer("b"),), -1.0)))),
    ("ranked", {"instruction": "q", "completions": [{"response": "a", "overall_score": 7.5},
                                                    {"response": "b", "overall_score": 3}]},
     Record((user("q"),), candidates=(Candidate((answer("a"),), 7.5),
                                      Candidate((answer("b"),), 3.0)))),
]  # fmt: skip


@pytest.mark.parametrize("format, row, expected", GOLDEN, ids=[f"{g[0]}-{n}" for n, g in enumerate(GOLDEN)])  # noqa: E501  # fmt: skip
def test_golden(format, row, expected):
    assert readers.read(row, format, where="x:1") == expected
    assert readers.detect(row, where="x:1") == format
    assert readers.read(row, where="x:1") == expected


def test_every_format_has_a_golden_record():
    assert {format for format, _, _ in GOLDEN} == set(readers.FORMATS)


@pytest.mark.parametrize(
    "row, fits",
    [
        ({"instruction": "q", "output": "a", "text": "t"}, "alpaca and text"),
        ({"inputs": "q", "targets": "a", "text": "t"}, "inputs_targets and text"),
        ({"messages": [USER], "conversations": [HUMAN]}, "messages and sharegpt"),
        ({"prompt": "q", "completion": "a", "messages": [USER, ASSISTANT]},
         "messages and prompt_completion"),
        ({"prompt": "q", "responses": ["a", "b"], "chosen": "a", "rejected": "b"},
         "preference and ranked"),
    ],
)  # fmt: skip
def test_what_fits_several_formats_is_refused(row, fits):
    with pytest.raises(errors.DataError, match=rf"fit {fits}; x:1; name one"):
        readers.read(row, where="x:1")


@pytest.mark.parametrize(
    "row",
    [
        {}, {"question": "q", "answer": "a"}, {"instruction": "q"}, {"output": "a"}, {"text": 3},
        {"chosen": "a", "rejected": "b"}, {"topic": "t", "chosen": "a", "rejected": "b"},
        {"label": True, "text_a": "x"}, {"prompt": None, "completion": "a"},
    ],
)  # fmt: skip
def test_what_fits_no_format_is_refused_with_its_fields(row):
    with pytest.raises(errors.DataError) as raised:
        readers.read(row, where="x:1")
    told = str(raised.value)
    assert "; x:1; name a format" in told and all(
        field in told for field, value in row.items() if value is not None
    )


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(errors.ConfigError, match="unknown format 'sharegtp'.*'sharegpt'"):
        readers.read({}, "sharegtp", where="x:1")


def read_all(row, *args):
    return list(readers.read_all(row, *args, where="x:1"))


def test_columns_are_renamed_and_others_left_out():
    row = {"topic": "q", "good": "a", "bad": "b", "text": "t", "prompt": "other"}
    columns = {"prompt": "topic", "chosen": "good", "rejected": "bad"}
    assert read_all(row, None, columns) == [pair("a", "b")]
    nested = {"choices": [{"turns": ["x", "y"]}], "a.b": "z"}
    assert read_all(nested, "text", {"text": "choices.0.turns.1"}) == [
        Record((Message("text", "y"),))
    ]
    assert read_all(nested, "text", {"text": "a.b"})[0].messages[0].content == "z"
    for missing in ("choices.1", "choices.x", "choice", "a.b.c", "choices.-1"):
        with pytest.raises(errors.DataError, match=f"no column '{missing}' for text; x:1; the row"):
            read_all(nested, "text", {"text": missing})


def test_a_row_of_several_instances_gives_several_records():
    row = {"instruction": "q", "instances": [{"input": "", "output": x} for x in ("a", "", "b")]}
    first, dropped, last = read_all(row)
    assert (first, last) == (QA, Record((user("q"), answer("b"))))
    assert isinstance(dropped, Dropped) and str(dropped) == "empty response"
    with pytest.raises(errors.DataError, match="3 instances in one row"):
        readers.read(row, where="x:1")
    task = {"Definition": "d", "Instances": [{"input": "q", "output": ["a"]}]}
    assert [record.messages[1].content for record in read_all(task)] == ["a"]


@pytest.mark.parametrize(
    "format, row, reason",
    [
        ("text", {"text": " \n"}, "empty text"),
        ("alpaca", {"instruction": "q", "output": " "}, "empty response"),
        ("inputs_targets", {"inputs": "q", "targets": ""}, "empty response"),
        ("p3", {"template": "t", "prompt": "q", "completion": "<|endoftext|>"}, "empty response"),
        ("prompt_completion", {"prompt": "q", "completion": ""}, "empty response"),
        ("natural_instructions", {"Definition": "d", "input": "q", "output": []}, "empty response"),
        ("cot_tsv", {"inputs": "q", "answer": "", "rationale": "r"}, "empty response"),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen equals rejected"),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": ""}, "empty response"),
        ("hh", {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant:"},
         "empty response"),
        ("hh", {"chosen": "\n\nHuman: q\n\nAssistant: a",
         "rejected": "\n\nHuman: p\n\nAssistant: a"},
         "the dialogues part before an answer"),
        ("hh", {"chosen": "\n\nHuman: q\n\nAssistant: a",
                "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: b"},
         "the dialogues part before an answer"),
        ("ranked", {"prompt": "q", "responses": ["a"], "scores": [1]}, "fewer than two answers"),
    ],
)  # fmt: skip
def test_what_has_nothing_to_learn_is_dropped_by_name(format, row, reason):
    with pytest.raises(Dropped) as raised:
        readers.read(row, format, where="x:1")
    assert str(raised.value) == reason
    assert [str(one) for one in read_all(row, format)] == [reason]


@pytest.mark.parametrize(
    "format, row, told",
    [
        ("text", {}, "no field 'text'"),
        ("text", {"text": ["a"]}, "field 'text' is a list, not text"),
        ("alpaca", {"instruction": 3, "output": "a"}, "'instruction' is a number, not text"),
        ("alpaca", {"instruction": "q"}, "no field 'output' or 'response'"),
        ("alpaca", {"instruction": "q", "output": "a", "response": "b"}, "output and response say"),
        ("alpaca", {"instruction": "q", "output": "a", "input": "", "context": "c"},
         "input and con"),
        ("alpaca", {"instruction": "q", "output": "a", "history": [["u"]]}, "is no pair"),
        ("alpaca", {"instruction": "q", "output": {"a": 1}}, "'output' is an object"),
        ("gsm8k", {"question": "q", "answer": "42"}, "without ####"),
        ("gsm8k", {"question": "q", "answer": "42 ####  "}, "without ####"),
        ("ifeval", {"prompt": "q", "instruction_id_list": ["a"], "kwargs": []},
         "1 instructions, but"),
        ("mt_bench", {"question_id": 1, "turns": []}, "no turns"),
        ("preference", {"chosen": "a", "rejected": "b"}, "without a prompt"),
        ("preference", {"prompt": "q", "chosen": "a"}, "'rejected' is a number"),
        ("preference", {"prompt": "q", "chosen": USER, "rejected": "b"}, "an answer is a user's"),
        ("preference", {"prompt": "other", "chosen": [USER, ASSISTANT],
                        "rejected": [USER, {"role": "assistant", "content": "b"}]}, "two prompts"),
        ("hh", {"chosen": "Human: q", "rejected": "Human: q"}, "does not begin with a blank line"),
        ("hh", {"chosen": "\n\nAssistant: q", "rejected": ""}, "x:1, chosen"),
        ("kto", {"prompt": "q", "completion": "a", "label": 2}, "'label' is 2"),
        ("kto", {"prompt": "q", "completion": "a", "label": "yes"}, "'label' is 'yes'"),
        ("kto", {"prompt": "q", "completion": "a"}, "no field 'label'"),
        ("ranked", {"prompt": "q", "responses": ["a", "b"], "scores": [1]},
         "2 answers, but 1 scores"),
        ("ranked", {"prompt": "q", "responses": ["a", "b"]}, "answers without scores"),
        ("ranked", {"prompt": "q", "responses": ["a", "b"], "scores": [1, "2"]}, "not a number"),
        ("ranked", {"prompt": "q", "responses": ["a", "b"], "scores": [1, True]}, "not a number"),
        ("ranked", {"prompt": "q", "answers": [{"text": "a", "rank": 1}, {"text": "b",
         "score": 1}]},
         "scores and answers with ranks"),
        ("natural_instructions", {"input": "q", "output": "a", "Definition": 3},
         "'Definition' is a n"),
        ("messages", {}, "no field 'messages'"),
        ("messages", {"messages": "hello"}, "'messages' is text, not a list"),
        ("messages", {"messages": ["hello"]}, "messages[0]"),
        ("messages", {"messages": [{"role": "narrator", "content": "x"}]},
         "unknown role 'narrator'"),
        ("messages", {"messages": [{"content": "x"}]}, "no field 'role' or 'from'"),
        ("messages", {"messages": [{"role": "user", "from": "gpt", "content": "x"}]},
         "role and from"),
        ("messages", {"messages": [USER, {"role": "assistant"}]}, "a turn without content"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "'image_url', not text"),
        ("messages", {"messages": [{**USER, "tool_calls": [{"name": "f"}]}]},
         "a user's turn has tool"),
        ("messages", {"messages": [{**USER, "thinking": "hm"}]}, "a user's turn has thinking"),
        ("messages", {"messages": [USER, {**ASSISTANT, "weight": -1}]}, "'weight' is -1"),
        ("messages", {"messages": [USER, {"role": "tool", "tool_call_id": "c", "content": "x"}]},
         "no earlier tool call 'c'"),
        ("messages", {"messages": [USER, {**ASSISTANT, "tool_calls": [{"function": {}}]}]},
         "no field 'name'"),
        ("messages", {"messages": [USER, ASSISTANT], "tools": "not json"}, "'tools' is no JSON"),
        ("sharegpt", {"conversations": [HUMAN, {"from": "function_call", "value": "f(1)"}]},
         "'a function call' is no JSON"),
        ("sharegpt", {"system": "s", "conversations": [{"from": "system", "value": "t"}, HUMAN,
         GPT]},
         "two system prompts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_by_field_and_place(format, row, told):
    with pytest.raises(errors.DataError) as raised:
        readers.read(row, format, where="x:1")
    message = str(raised.value)
    assert told in message and "x:1" in message and message.count("; ") >= 2


def conversation(text):
    """ "u:q a:x" -> ShareGPT turns."""
    roles = {"s": "system", "u": "human", "a": "gpt", "t": "tool", "c": "function_call"}
    turns = []
    for word in text.split():
        role, _, content = word.partition(":")
        if role == "c":
            content = json.dumps({"name": content, "arguments": {}})
        turns.append({"from": roles[role], "value": content})
    return {"conversations": turns}


def shown(record):
    words = []
    for one in record.messages:
        words.append(f"{one.role[0]}:{one.content}".replace("\n\n", "|"))
        words += [f"c:{call.name}" for call in one.tool_calls]
    return " ".join(words)


@pytest.mark.parametrize(
    "given, expected, mended",
    [
        ("u:q a:x", "u:q a:x", ""),
        ("s:s u:q a:x u:r a:y", "s:s u:q a:x u:r a:y", ""),
        ("s: u:q a:x", "u:q a:x", "empty system turn removed"),
        ("a:hi u:q a:x", "u:q a:x", "leading turns removed"),
        ("s:s a:hi t:r u:q a:x", "s:s u:q a:x", "leading turns removed"),
        ("u:q a:x u:r", "u:q a:x", "trailing turns removed"),
        ("u:q a:x c:f t:r", "u:q a:x c:f", "trailing turns removed, turns joined"),
        ("u:q u:r a:x a:y", "u:q|r a:x|y", "turns joined"),
        ("s:s s:t u:q a:x", "s:s|t u:q a:x", "turns joined"),
        ("u:q a:x c:f c:g t:r t:p a:y", "u:q a:x c:f c:g t:r t:p a:y", "turns joined"),
        ("u:q a:x s:t u:r a:y", "u:q a:x s:t u:r a:y", ""),
        ("u:q a:x t:r a:y", "u:q a:x t:r a:y", ""),
    ],
)
def test_a_conversation_out_of_order_is_mended_and_noted(given, expected, mended):
    record = readers.read(conversation(given), where="x:1")
    assert shown(record) == expected
    assert record.metadata.get("mended", "") == mended


@pytest.mark.parametrize(
    "given, reason",
    [
        ("", "no user turn"),
        ("s:s", "no user turn"),
        ("a:x", "no user turn"),
        ("u:q", "no answer"),
        ("u: a:x", "empty turn"),
        ("u:q a: u:r a:y", "empty turn"),
        ("u:q a:", "empty response"),
        ("u:q t:r a:y", "tool result without call"),
        ("u:q c:f a:y", "answer after a call without result"),
    ],
)
def test_a_conversation_that_cannot_be_mended_is_dropped_by_name(given, reason):
    with pytest.raises(Dropped) as raised:
        readers.read(conversation(given), where="x:1")
    assert str(raised.value) == reason


def test_turns_in_a_row_with_two_weights_are_not_joined():
    turns = [USER, {**ASSISTANT, "weight": 0}, ASSISTANT]
    with pytest.raises(Dropped, match="turns in a row with two weights"):
        readers.read({"messages": turns}, where="x:1")


@pytest.mark.parametrize(
    "spelling, role",
    [
        *((x, "user") for x in ("user", "human", "Human", "USER", "prompter")),
        *((x, "assistant") for x in ("assistant", "gpt", "GPT", "bot", "chatgpt", "model")),
        *((x, "system") for x in ("system", "System", "developer")),
        *((x, "tool") for x in ("tool", "function", "observation", "ipython", "tool-response")),
    ],
)
def test_all_spellings_of_a_role(spelling, role):
    before = [{"from": "gpt", "value": "x"}] if role == "tool" else []
    turns = [HUMAN, *before, {"from": spelling, "value": "m"}, GPT]
    found = readers.read({"conversations": turns}, where="x:1").messages
    joined = {"user": "user", "assistant": "assistant"}.get(role)
    assert any(one.role == (joined or role) and "m" in one.content for one in found)


def test_prompts_of_preferences_are_put_in_order_too():
    row = {"conversations": [GPT, HUMAN, HUMAN], "chosen": GPT, "rejected": {**GPT, "value": "b"}}
    record = readers.read(row, where="x:1")
    assert shown(record) == "u:q|q"
    assert record.metadata == {"mended": "leading turns removed, turns joined"}


TURNS = st.lists(
    st.builds(
        lambda role, content: {"from": role, "value": content},
        st.sampled_from(["system", "human", "gpt", "tool", "function_call"]),
        st.sampled_from(["", " ", '{"name": "f"}', '{"name": "g", "arguments": {}}']),
    ),
    max_size=7,
)


@settings(max_examples=300)
@given(TURNS)
def test_what_is_read_is_in_order_and_loses_only_what_it_says(turns):
    turns = [one for one in turns if one["from"] != "function_call" or one["value"].strip()]
    try:
        record = readers.read({"conversations": turns}, "sharegpt", where="x:1")
    except Dropped:
        return
    roles = [one.role for one in record.messages]
    assert roles[-1] == "assistant" and "user" in roles
    spoken = [role for role in roles if role != "system"]
    assert spoken[0] == "user"
    for first, second in itertools.pairwise(roles):
        assert first != second or first == "tool"
        assert second != "tool" or first in ("assistant", "tool")
    for one in record.messages:
        assert one.content.strip() or one.tool_calls or one.role == "tool"
    mended = record.metadata.get("mended", "")
    contents = [one["value"] for one in turns if one["from"] != "function_call"]
    if not mended:
        assert len(record.messages) == len(turns)
        kept = [one.content for one in record.messages if not one.tool_calls]
        assert kept == contents
    elif mended == "turns joined":
        kept = "\n\n".join(one.content for one in record.messages if one.content)
        assert kept == "\n\n".join(content for content in contents if content)
        calls = sum(len(one.tool_calls) for one in record.messages)
        assert calls == sum(one["from"] == "function_call" for one in turns)


def test_the_rows_that_are_documented_read_as_they_say():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| `(\{.*\})` \|$", text, flags=re.MULTILINE))
    assert set(listed) == set(readers.FORMATS)
    for format, row in listed.items():
        row = json.loads(row.replace("\\|", "|"))
        assert readers.detect(row, where="docs") == format
        record = readers.read(row, where="docs")
        said = " ".join(
            message.content
            for one in records.alternatives(record)
            for message in one.messages
            if message.role != "user"
        )
        assert "3" in said or "three" in said or format in ("ifeval", "mt_bench")


def test_a_result_is_named_by_any_earlier_call():
    def call(name):
        return {**ASSISTANT, "tool_calls": [{"id": f"id_{name}", "function": {"name": name}}]}

    result = {"role": "tool", "tool_call_id": "id_f", "content": "r"}
    turns = [USER, call("f"), {**result}, call("g"), {**result}, ASSISTANT]
    found = readers.read({"messages": turns}, where="x:1").messages
    assert [one.name for one in found if one.role == "tool"] == ["f", "f"]


def test_joined_turns_keep_what_they_refer_to():
    """The context of the second of two turns was lost."""
    turns = [Message("user", "a", "b"), Message("user", "c", "d"), Message("assistant", "e")]
    (joined, _), mended = conversations.tidy(turns)
    assert (joined.content, joined.context, mended) == ("a\n\nb\n\nc", "d", ["turns joined"])
