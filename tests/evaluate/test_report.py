import json
import math
from typing import NamedTuple

import pytest

from t5sft import errors
from t5sft.evaluate import report
from t5sft.train import metrics

CLUSTERS = {
    "sorting": ("sort_names", "sort_numbers"),
    "arithmetic": ("sum",),
    "inference": ("nli",),
}


class Questions(NamedTuple):
    """As evaluator.Questions, without what that module imports."""

    task: str
    prompts: list
    texts: list
    answers: list


class Answered(NamedTuple):
    metrics: dict
    predictions: list
    num_unfinished: int


def questions(task, n=4):
    return Questions(task, [[1]] * n, [f"Prompt of\n{task}"] * n, ["one\ntwo"] * n)


def answered(score, text="one\ntwo", name="exact_match"):
    return Answered({name: score}, [text] * 4, 1)


ASKED = {
    "seen_templates": [questions("v_sort_names"), questions("v_sort_numbers"), questions("v_sum")],
    "held_out_wordings": [questions("v_sort_names.held_out"), questions("v_sum.held_out")],
    "held_out_cluster": [questions("v_nli")],
}
ANSWERS = {
    ("before", "seen_templates"): {
        "v_sort_names": answered(0.0, ""),
        "v_sort_numbers": answered(0.25),
        "v_sum": answered(0.5),
    },
    ("after", "seen_templates"): {
        "v_sort_names": answered(1.0),
        "v_sort_numbers": answered(0.75),
        "v_sum": answered(0.5),
    },
    ("before", "held_out_wordings"): {
        "v_sort_names.held_out": answered(0.25),
        "v_sum.held_out": answered(0.75),
    },
    ("after", "held_out_wordings"): {
        "v_sort_names.held_out": answered(0.75),
        "v_sum.held_out": answered(0.5),
    },
    ("before", "held_out_cluster"): {"v_nli": answered(0.0)},
    ("after", "held_out_cluster"): {"v_nli": answered(0.25, "\x1b[2J one")},
}


def write(directory, answers=ANSWERS, **changed):
    given = {"asked": ASKED, "answers": answers, "clusters": CLUSTERS, "seconds": 2.0} | changed
    return report.write_result(directory, **given)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    with metrics.MetricWriter(directory, tensorboard=False) as writer:
        for step in (10, 20, 30):
            writer.write(step, "train", {"loss": 1 / step, "accuracy": 0.5})
        writer.write(30, "validation", {"loss": 0.5, "accuracy": math.nan})
    return write(directory)


def test_averages_over_tasks(result):
    assert result["before"] == {
        "seen_templates": 0.25,
        "held_out_wordings": 0.5,
        "held_out_cluster": 0.0,
    }
    assert result["after"] == {
        "seen_templates": 0.75,
        "held_out_wordings": 0.625,
        "held_out_cluster": 0.25,
    }


def test_variants_of_a_task_share_its_row(result):
    assert result["tasks"]["v_sum"] == {
        "cluster": "arithmetic",
        "seen_templates": {"before": 0.5, "after": 0.5, "n": 4, "unfinished": 1},
        "held_out_wordings": {"before": 0.75, "after": 0.5, "n": 4, "unfinished": 1},
    }
    assert list(result["tasks"]) == ["v_nli", "v_sort_names", "v_sort_numbers", "v_sum"]


def test_the_file_holds_what_is_returned(result):
    with open(result["paths"]["result"]) as file:
        assert json.load(file) == result


def test_the_table_is_for_people(result):
    expected = """\
exact match, % of 4             seen templates   held out wordings
                               before -> after     before -> after
arithmetic
  sum                            50.0 ->  50.0       75.0 ->  50.0
sorting
  sort_names                      0.0 -> 100.0       25.0 ->  75.0
  sort_numbers                   25.0 ->  75.0          - ->     -
average of 3 tasks               25.0 ->  75.0       50.0 ->  62.5
"""
    text = report.table(result, color=False)
    assert text.startswith(expected), text
    assert all(len(line) <= 100 for line in text.splitlines() if "/" not in line)


def test_the_held_out_cluster_has_its_own_block(result):
    assert """
exact match, % of 4           held out cluster
                               before -> after
inference
  nli                             0.0 ->  25.0
average of 1 task                 0.0 ->  25.0
""" in report.table(result, color=False)


def test_shows_answers_beside_the_expected_ones(result):
    text = report.table(result, color=False)
    assert (
        """\
  seen templates: sort_names
    prompt    Prompt of v_sort_names
    expected  one\\ntwo
    before    (nothing)
    after     one\\ntwo
"""
        in text
    )
    assert "\x1b" not in text and "after     \\x1b[2J one" in text
    for name in ("result.json", "metrics.jsonl", "plots/loss.png", "plots/exact_match.png"):
        assert name in text


def test_ends_with_the_averages_and_the_places(result):
    last = report.table(result, color=False).partition("exact match, average")[2].splitlines()
    assert last[:6] == [
        ", %" + " " * 24 + "before -> after",
        "  seen templates (3 tasks)                       25.0 ->  75.0",
        "  held out wordings (2 tasks)                    50.0 ->  62.5",
        "  held out cluster (1 task)                       0.0 ->  25.0",
        "",
        "Where it is",
    ]


def test_color_only_on_a_terminal_that_wants_it(result, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in report.table(result)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    colored = report.table(result)
    assert "\x1b[32m        0.0 -> 100.0\x1b[0m" in colored
    assert "\x1b[31m       75.0 ->  50.0\x1b[0m" in colored  # worse than before
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in report.table(result)


def test_draws_what_there_is(result, tmp_path):
    names = [path.rsplit("/", 1)[1] for path in result["paths"]["plots"]]
    assert names == ["loss.png", "accuracy.png", "exact_match.png"]
    for path in result["paths"]["plots"]:
        with open(path, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert report.plot(result["paths"]["model_dir"]) == result["paths"]["plots"]
    assert report.plot(tmp_path) == []


def test_bears_that_before_is_not_known(tmp_path):
    after = {key: value for key, value in ANSWERS.items() if key[0] == "after"}
    result = write(tmp_path, after)
    assert result["before"] == {}
    assert result["tasks"]["v_nli"]["held_out_cluster"]["before"] is None
    assert "  nli                               - ->  25.0" in report.table(result, color=False)


def test_other_metrics_are_shown_as_they_are(tmp_path):
    asked = {"one": [questions("a_task")]}
    result = write(
        tmp_path, {("after", "one"): {"a_task": answered(31.5, name="bleu")}}, asked=asked
    )
    assert result["metric"] == "bleu" and result["after"] == {"one": 31.5}
    assert "- -> 31.500" in report.table(result, color=False)
    assert result["paths"]["plots"] == []


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageError, match="cannot write"):
        write(tmp_path / "file")
