"""HumanEval: what is run of an answer, and that nothing runs unless it is allowed."""

import json

import pytest

from t5sft import errors
from t5sft.evaluate import sandbox
from t5sft.evaluate.answers import predictions, programs

QUESTION = {
    "task_id": "toy/0",
    "prompt": 'import math\n\n\ndef area(r):\n    """Area of a circle."""\n',
    "entry_point": "area",
    "test": "def check(f):\n    assert abs(f(1) - 3.14159) < 1e-4\n    assert f(0) == 0\n",
}
RIGHT = {
    "completion": "    return math.pi * r * r\n",
    "completion that goes on": "    return math.pi * r * r\n\nprint(area('x'))\n",
    "block": "Sure:\n```python\ndef area(r):\n    return math.pi * r ** 2\n```\nDone.",
    "block among others": "```\nx()\n```\n```py\ndef area(r):\n    return math.pi * r ** 2\n```",
    "whole function": "def area(r):\n    return math.pi * r ** 2",
}
WRONG = {
    "wrong": "    return 3 * r * r\n",
    "nothing": "",
    "syntax": "    return (",
    "exit": "    import os\n    os._exit(0)\n",
    "prose": "I cannot do that.",
}


@pytest.mark.parametrize("name", RIGHT)
def test_every_form_of_an_answer_is_found(name):
    scope = {}
    exec(programs.program(QUESTION, RIGHT[name]), scope)  # our own text


def test_a_wrong_answer_is_told_from_those():
    with pytest.raises(AssertionError):
        exec(programs.program(QUESTION, WRONG["wrong"]), {})


def test_nothing_runs_without_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "_run", lambda *_: pytest.fail("something ran"))
    (tmp_path / "a.jsonl").write_text('{"index": 0, "response": "x"}\n')
    with pytest.raises(errors.ConfigError, match="add --allow_code_execution"):
        predictions.score(predictions=str(tmp_path / "a.jsonl"), task="humaneval")


def test_samples_give_pass_at_k(tmp_path):
    try:
        sandbox.check()
    except errors.SandboxError:
        pytest.skip("this machine has no user name spaces")
    (tmp_path / "q.jsonl").write_text(json.dumps(QUESTION) + "\n")
    answers = [*RIGHT.values(), *WRONG.values()]
    rows = [{"index": 0, "response": text} for text in answers]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = predictions.score(
        predictions=str(tmp_path / "a.jsonl"), task="humaneval", data=str(tmp_path / "q.jsonl"),
        output=str(tmp_path / "out.jsonl"), allow_code_execution=True,
    )  # fmt: skip
    assert got["metrics"] == {"pass@1": 0.5, "pass@10": 1.0} and got["n"] == got["asked"] == 1
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["outcomes"] == ["passed"] * 5 + ["failed"] * 5
