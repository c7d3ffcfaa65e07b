"""What a benchmark's prompts are, to the character."""

import gzip
import json

import pytest

from t5sft import errors
from t5sft.evaluate import at_model, prompting
from t5sft.evaluate.answers import benchmarks
from t5sft.generate import stopping

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
    assert made.name == "few, 2 shots" and made.decoding.stop == ("Question:",)
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


@pytest.mark.parametrize(
    "task, flags",
    [
        ("rank", {"style": "direct"}),
        ("gsm8k", {"temperature": 0.7}),
        ("gsm8k", {"samples": 4}),
        ("humaneval", {"shots": 3}),
        ("pairwise", {"questions": "x"}),
        ("rank", {"template_split": "train"}),
    ],
)
def test_a_flag_that_the_benchmark_does_not_look_at_is_refused(task, flags):
    with pytest.raises(errors.ConfigError, match=f"--{next(iter(flags))} has no effect on {task}"):
        at_model.prepare(task, None, at_model.Options(**flags))


TASK = {
    "Definition": "Say a colour",
    "Instances": [{"input": "The sea", "output": ["blue"]}],
}
SHOWN = [{"input": "Grass", "output": "green"}, {"input": "Snow!", "output": "white."}]


@pytest.mark.parametrize("name", ["task.json", "task.json.gz"])
@pytest.mark.parametrize(
    "examples", [{"Positive Examples": SHOWN}, {"Examples": {"Positive Examples": [*SHOWN, "-"]}}]
)
def test_natural_instructions_are_asked_as_published(name, examples, tmp_path):
    """Both versions of the corpus; a full stop where a text has no end (Tk-Instruct)."""
    text = json.dumps(TASK | examples).encode()
    file = tmp_path / name
    file.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    _, (asked,) = prompts("natural_instructions", str(file))
    assert asked == (
        "Definition: Say a colour.\n\n"
        " Positive Example 1 -\nInput: Grass.\n Output: green.\n\n"
        " Positive Example 2 -\nInput: Snow!\n Output: white.\n\n"
        "Now complete the following example -\nInput: The sea.\nOutput:"
    )


def test_the_place_of_a_row_is_not_asked(tmp_path):
    """A row without a prompt was asked by the name of its file."""
    file = tmp_path / "q.jsonl"
    file.write_text('{"ask": "2+2?", "target": "4"}\n')
    with pytest.raises(errors.DataError, match="no prompt in some rows"):
        at_model.prepare("exact_match", None, at_model.Options(questions=str(file)))


def test_answers_end_before_a_next_question_also_without_line_breaks():
    """The vocabularies of T5 have no line break: stop strings that begin with one never came."""
    for task, style, text in [
        ("gsm8k", "few", "#### 4 Question: And 5+1? Answer: #### 6"),
        ("gsm8k", "few", "#### 4\n\nQuestion: And 5+1?"),
        ("bbh", "direct", "yes Q: no?"),
        ("bbh", "chain_of_thought", "So the answer is yes.\n\nQ: no?"),
    ]:
        stop = stopping.Stop(str, prompting.styles(task)[style].stop)
        assert "Q" not in stop.cut(text)


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
