"""Fields become a conversation; what has nothing to learn is dropped, what is unknown refused."""

import pytest

from t5sft import errors
from t5sft.data import records


def turns(features):
    record = records.from_features(features, source="task", number=7)
    assert (record.source, record.number) == ("task", 7)
    return [(m.role, m.content, m.context) for m in record.messages]


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize(
    "features, expected",
    [
        ({"text": "Once ä."}, [("text", "Once ä.", "")]),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            [("user", "Add.", "1 2"), ("assistant", "3", "")],
        ),
        (
            {"instruction": "Add.", "output": "3"},
            [("user", "Add.", ""), ("assistant", "3", "")],
        ),
        ({"inputs": "a", "targets": "b"}, [("user", "a", ""), ("assistant", "b", "")]),
        (
            {"inputs": "[1]", "targets": "[2]", "inputs_pretokenized": "a",
             "targets_pretokenized": "b"},
            [("user", "a", ""), ("assistant", "b", "")],
        ),
        ({"prompt": "a", "completion": "b"}, [("user", "a", ""), ("assistant", "b", "")]),
        ({"inputs": "", "targets": " b\n"}, [("user", "", ""), ("assistant", " b\n", "")]),
    ],
)  # fmt: skip
def test_known_formats(features, expected, as_bytes):
    if as_bytes:
        features = {name: text.encode() for name, text in features.items()}
    assert turns(features) == expected


def test_other_fields_do_not_matter():
    expected = [("user", "a", ""), ("assistant", "b", "")]
    assert turns({"inputs": "a", "targets": "b", "idx": 3, "source": b"web"}) == expected


def test_a_missing_value_is_empty_text():
    features = {"instruction": "a", "input": None, "output": "b"}
    assert turns(features) == [("user", "a", ""), ("assistant", "b", "")]


@pytest.mark.parametrize("empty", ["", " \n\t", None, b""])
@pytest.mark.parametrize(
    "features, reason",
    [
        ({"instruction": "a", "input": "b", "output": "?"}, "empty response"),
        ({"inputs": "a", "targets": "?"}, "empty response"),
        ({"prompt": "a", "completion": "?"}, "empty response"),
        ({"text": "?"}, "empty text"),
    ],
)
def test_without_answer_it_is_dropped(features, reason, empty):
    last = list(features)[-1]
    with pytest.raises(records.Dropped, match=reason):
        records.from_features(features | {last: empty})


@pytest.mark.parametrize("fields", [("question", "answer"), ("inputs",), ("output", "input"), ()])
def test_unknown_fields_are_named_with_the_row(fields):
    with pytest.raises(errors.DataError) as raised:
        records.from_features(dict.fromkeys(fields, "x"), source="task", number=7)
    assert str(sorted(fields)) in str(raised.value) and "task[7]" in str(raised.value)
    assert "inputs/targets" in str(raised.value)  # what to do


def test_a_record_survives_its_json():
    call = records.ToolCall("add", '{"a": 1}', "c1")
    record = records.Record(
        (
            records.Message("system", "Be brief."),
            records.Message("user", "1+1? \u2028 \U0001f600", context="sums"),
            records.Message("assistant", "", thinking="hm", weight=0.5, tool_calls=(call,)),
            records.Message("tool", "2", name="add"),
        ),
        tools='[{"name": "add"}]',
        candidates=(
            records.Candidate((records.Message("assistant", "2"),), 1.0),
            records.Candidate((records.Message("assistant", "3"),), 0.0),
        ),
        answer="2",
        metadata={"cluster": "sums"},
    )
    assert records.from_json(records.to_json(record)) == record
    read = records.from_features({"record": records.to_json(record).encode()}, source="t", number=7)
    assert read == record._replace(source="t", number=7)
    first, second = records.alternatives(record)
    assert [m.content for m in first.messages[-1:] + second.messages[-1:]] == ["2", "3"]
    assert first.candidates == () and first.answer == "2"


def test_why_a_row_gives_no_record_travels_too():
    text = records.to_json(records.Dropped("empty turn \u00e4"))
    with pytest.raises(records.Dropped, match="empty turn \u00e4"):
        records.from_features({"record": text.encode()})


@pytest.mark.parametrize("text", ["", "no json", "[]", "3", "{}", '{"messages": [{"x": 1}]}'])
def test_a_feature_record_of_someone_else_is_refused(text):
    with pytest.raises(errors.DataError, match=r"is not the JSON of a Record .*; task\[7\]; write"):
        records.from_features({"record": text}, source="task", number=7)
