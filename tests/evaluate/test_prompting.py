"""What a benchmark's prompts are, to the character."""

import json

import pytest

from t5sft import errors
from t5sft.evaluate import at_model, prompting
from t5sft.evaluate.answers import benchmarks

SHOTS = [{"question": f"{i}+1?", "answer": f"One more.\n#### {i + 1}"} for i in range(3)]
BBH = """a canary
-----
Tell it.

Q: 1 is odd?
Options:
- yes
- no
A: Let's think step by step.
It is. So the answer is yes.

Q: 2 is odd?
A: Let's think step by step.
It is not. So the answer is no.
"""


@pytest.fixture
def folder(tmp_path):
    for name, text in {
        "gsm8k/train.jsonl": "".join(json.dumps(row) + "\n" for row in SHOTS),
        "gsm8k/test.jsonl": json.dumps({"question": "9+1?", "answer": "#### 10"}) + "\n",
        "bbh/cot_prompts/navigate.txt": BBH,
        "bbh/tasks/navigate.json": json.dumps({"examples": [{"input": "3?", "target": "Yes"}]}),
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(tmp_path)


def prompts(task, folder, **options):
    questions = benchmarks.get(task).load(folder, [])
    made = prompting.build(task, questions, folder=folder, **options)
    return made, [messages[0].content for messages in made.conversations]


def test_gsm8k(folder):
    made, (text,) = prompts("gsm8k", folder, shots=2)
    assert text == (
        "Question: 0+1?\nAnswer: One more.\n#### 1\n\nQuestion: 1+1?\nAnswer: One more.\n#### 2"
        "\n\nQuestion: 9+1?\nAnswer:"
    )
    assert made.name == "few, 2 shots" and made.decoding.stop == ("\nQuestion:",)
    assert prompts("gsm8k", folder, style="zero")[1] == ["9+1?"]
    by_file = prompts("gsm8k", f"{folder}/gsm8k/test.jsonl", shots=2)[1]
    assert by_file == [text]
    with pytest.raises(errors.ConfigError, match="only 3 examples; --shots 5"):
        prompts("gsm8k", folder)


def test_bbh_with_and_without_reasoning(folder):
    _, (text,) = prompts("bbh_navigate", folder, shots=2)
    examples = BBH.partition("-----\n")[2].strip()
    assert text == f"{examples}\n\nQ: 3?\nA: Let's think step by step."
    _, (direct,) = prompts("bbh_navigate", folder, style="direct", shots=2)
    assert direct == (
        "Tell it.\n\nQ: 1 is odd?\nOptions:\n- yes\n- no\nA: yes\n\nQ: 2 is odd?\nA: no\n\n"
        "Q: 3?\nA:"
    )


def test_mistakes_are_told(folder):
    with pytest.raises(errors.ConfigError, match="no style 'chain'.*use one of few, zero"):
        prompts("gsm8k", folder, style="chain")
    with pytest.raises(errors.ConfigError, match="'zero' has no shots"):
        prompts("gsm8k", folder, style="zero", shots=1)
    with pytest.raises(errors.ConfigError, match="squad has no questions of its own"):
        at_model.prepare("squad", None, at_model.Options())
    with pytest.raises(errors.ConfigError, match="--shots has no effect on the SeqIO task 'toy'"):
        at_model.refuse_unused(at_model.Options(shots=3), "toy")


def test_a_name_that_both_have_is_the_runs_task():
    class Data:
        task = "gsm8k"

    assert at_model.benchmark_of("gsm8k", Data, ()) is None
    assert at_model.benchmark_of("benchmark:gsm8k", Data, ()) == "gsm8k"
    assert at_model.benchmark_of("ifeval", Data, ()) == "ifeval"
    assert at_model.benchmark_of("toy_copy", Data, ()) is None
    assert at_model.benchmark_of(None, Data, ()) is None
    with pytest.raises(errors.ConfigError, match="no benchmark 'gms8k'"):
        at_model.benchmark_of("benchmark:gms8k", Data, ())
