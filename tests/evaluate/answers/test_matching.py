"""Every answer is accounted for: matched, missing, unmatched, duplicate, shared, empty."""

import json

import pytest

from t5sft import errors
from t5sft.evaluate.answers import matching

PROMPTS = ["one?", "two?", "two?", "three?"]


def rows(*found):
    return [(f"f:{i}", row) for i, row in enumerate(found)]


def by_prompt(prompt, response):
    return {"prompt": prompt, "response": response}


def test_by_prompt_in_any_order():
    found = matching.match(
        PROMPTS,
        rows(by_prompt("three?", "3"), by_prompt("two?", "2"), by_prompt("two?", "II")),
    )
    assert found.responses == [None, "2", "II", "3"]
    assert found.account == {
        "answers": 3,
        "matched": 3,
        "by": {"prompt": 3},
        "missing": {"count": 1, "first": [0]},
        "unmatched": {"count": 0, "first": []},
        "duplicate": {"count": 0, "first": []},
        "shared": 0,
        "empty": 0,
    }


def test_by_index_and_everything_that_does_not_come_out_even():
    found = matching.match(
        PROMPTS,
        rows(
            {"index": 0, "response": "first"},
            {"index": 0, "response": " "},
            {"index": 4, "response": "beyond"},
            {"index": -1, "response": "before"},
            by_prompt("four?", "4"),
            by_prompt("two?", "2"),
        ),
    )
    assert found.responses == [" ", "2", "2", None]
    assert found.account["missing"] == {"count": 1, "first": [3]}
    assert found.account["unmatched"] == {"count": 3, "first": ["f:2", "f:3", "f:4"]}
    assert found.account["duplicate"] == {"count": 1, "first": ["f:1"]}
    assert (found.account["shared"], found.account["empty"]) == (1, 1)
    assert len(matching.warnings(found.account)) == 5


def test_the_question_may_stand_last_in_a_template():
    prompts = [
        "Q: zero?\nA: 0\n\nQ: one?\nA:",
        "Question: two?\nAnswer:",
        "\nQ:  three?\nA: Let's think step by step.",
    ]
    found = matching.match(
        ["one?", "two?", "three?"], rows(*(by_prompt(p, str(i)) for i, p in enumerate(prompts)))
    )
    assert found.responses == ["0", "1", "2"]
    assert found.account["by"] == {"prompt_in_template": 3}


def test_the_question_may_stand_in_a_chat():
    prompts = ["How many are two apples?", "How many are two apples? Say it in French.", "Is it?"]
    asked = [f"<user>\n{prompt}\nThink first.\n<assistant>" for prompt in prompts]
    asked.append(f"<user>{prompts[1]}<assistant>deux<user>{prompts[0]}<assistant>")
    found = matching.match(prompts, rows(*(by_prompt(p, str(i)) for i, p in enumerate(asked))))
    # Too short a question is not looked for; of two in one prompt the last is meant.
    assert found.responses == ["3", "1", None]
    assert found.account["unmatched"]["first"] == ["f:2"]
    assert found.account["duplicate"]["first"] == ["f:3"]


def test_a_question_may_name_itself_one():
    row = by_prompt("Q: x\nA: y\n\nQ: Question: one?\nA:", "1")
    assert matching.match(["Question: one?"], rows(row)).responses == ["1"]


def test_a_prompt_that_may_mean_two_questions_means_none():
    found = matching.match(
        ["one?", "Q: one?"], rows(by_prompt("Q: one?\nA:", "?"), by_prompt("one?", "1"))
    )
    assert found.responses == ["1", None]
    assert found.account["unmatched"] == {"count": 1, "first": ["f:0"]}


def test_an_index_that_contradicts_its_prompt_is_refused():
    row = {"index": 0, "prompt": "three?", "response": "3"}
    with pytest.raises(errors.DataError, match="index 0 is another question.*f:0"):
        matching.match(PROMPTS, rows(row))
    agreed = matching.match(PROMPTS, rows({**row, "index": 3}))
    assert agreed.responses == [None, None, None, "3"]


def test_answers_to_other_questions_are_refused():
    with pytest.raises(errors.DataError, match="no answer belongs to a question"):
        matching.match(PROMPTS, rows(by_prompt("four?", "4")))


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "one?"}, "no text `response`"),
        ({"prompt": "one?", "response": 1}, "no text `response`"),
        ({"response": "1"}, "no text `prompt` and no whole number `index`"),
        ({"index": True, "response": "1"}, "no whole number `index`"),
        ({"index": "first", "response": "1"}, "no whole number `index`"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_place(tmp_path, row, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"index": 0, "response": ""}) + "\n" + json.dumps(row))
    with pytest.raises(errors.DataError, match=f"{message}.*answers.jsonl:2"):
        matching.read(path)


def test_half_an_emoji_and_nul_are_no_fault_but_broken_json_is(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"index": 0, "response": "a\\ud83d"}\n{"index": 1, "response": "\\u0000"}\n')
    assert [row["response"] for _, row in matching.read(path)] == ["a\ufffd", "\0"]
    path.write_text('{"index": 0, "response": "a"}\n{"index": 1, "response": "b\n')
    with pytest.raises(errors.DataError, match=r"answers.jsonl:2:\d+; mend the row$"):
        matching.read(path)


def test_no_file_and_no_rows(tmp_path):
    with pytest.raises(errors.ConfigError, match="no file"):
        matching.read(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(errors.DataError, match="no answers"):
        matching.read(tmp_path / "empty.jsonl")


def test_answers_may_come_through_a_pipe(tmp_path):
    """What <(zcat FILE) gives: no regular file, no kind in its name, readable once."""
    import os
    import threading

    def through_a_pipe(text):
        pipe = tmp_path / "63"
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_text, args=(text,), daemon=True).start()
        return matching.read(str(pipe))

    rows = through_a_pipe('{"index": 0, "response": "a"}\n{"prompt": "q", "response": "b"}\n')
    assert [row["response"] for _, row in rows] == ["a", "b"]
    assert rows[1][0].endswith("63:2")
    with pytest.raises(errors.DataError, match=r"63:1"):
        through_a_pipe('{"index": 0, "response": "a", "index": 1}\n')


@pytest.mark.parametrize(
    "name, text, row",
    [
        ("a.jsonl", '{"index": 0, "response": null}', {"index": 0, "response": ""}),
        ("a.jsonl", '{"index": 0, "response": ["x"]}', {"index": 0, "response": "x"}),
        ("a.jsonl", '\ufeff{"index": 0, "response": "x"}', {"index": 0, "response": "x"}),
        ("a.csv", 'index,response\n0,"x, y"', {"index": 0, "response": "x, y"}),
        ("a.jsonl", '{"prompt": "q", "response": "x", "score": NaN}\r\n', {"response": "x"}),
    ],
)
def test_answers_written_a_little_differently_are_read(name, text, row, tmp_path):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    ((_, found),) = matching.read(path)
    assert row.items() <= found.items()


@pytest.mark.parametrize(
    "text",
    [
        '{"index": 0, "response": ["x", "y"]}',
        '{"index": 0, "response": 3}',
        '{"index": 0.5, "response": "x"}',
        '\ufeff{"index": 0, "response": }',
    ],
)
def test_answers_that_mean_nothing_are_refused_with_their_place(text, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(errors.DataError, match="a.jsonl:1"):
        matching.read(path)
