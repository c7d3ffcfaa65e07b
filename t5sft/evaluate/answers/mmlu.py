"""MMLU: four options a question, 57 subjects (Hendrycks et al. 2021, arXiv:2009.03300).

Data: data.tar of github.com/hendrycks/test as mmlu/dev and mmlu/test of T5SFT_DATA.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import files
from t5sft.evaluate.answers import extraction, statistics

NAME = "mmlu"
LETTERS = "ABCD"
# How the heading names a subject. The published script (evaluate.py) writes two spaces before it,
# lm-evaluation-harness and HELM one; vocabularies of T5 read both alike.
HEADINGS = {"published": " {}", "harness": "{}"}
_COLUMNS = ("question", *LETTERS, "answer")
_FROM = "fetch and unpack the data of github.com/hendrycks/test as mmlu/dev and mmlu/test"
_CATEGORIES = {  # of the published table; the words by which subjects are told apart
    "humanities": "formal_logic high_school_european_history high_school_us_history "
    "high_school_world_history international_law jurisprudence logical_fallacies moral_disputes "
    "moral_scenarios philosophy prehistory professional_law world_religions",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "other": "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging "
    "management marketing medical_genetics miscellaneous nutrition professional_accounting "
    "professional_medicine virology",
    "stem": "abstract_algebra astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics "
    "electrical_engineering elementary_mathematics high_school_biology high_school_chemistry "
    "high_school_computer_science high_school_mathematics high_school_physics "
    "high_school_statistics machine_learning",
}
_CATEGORY_OF = {
    subject: category for category, names in _CATEGORIES.items() for subject in names.split()
}


def questions(
    folder: str | None, shots: int = 0, heading: str | None = None
) -> list[dict[str, Any]]:
    """Returns the questions with their letters, `shots` worked examples of the subject before each.

    Args:
      folder: in place of T5SFT_DATA.
      heading: of `HEADINGS`; None: no line above the question, which needs `shots` 0.
    """
    out = []
    for path in files.find(NAME, "test/*_test.csv", how_to_get=_FROM, root=folder):
        subject = path.name.removesuffix("_test.csv")
        before = ""
        if heading is not None:
            named = HEADINGS[heading].format(subject.replace("_", " "))
            before = f"The following are multiple choice questions (with answers) about {named}."
            before += "\n\n"
        dev = path.parent.parent / "dev" / f"{subject}_dev.csv"
        known = list(_rows(dev)) if shots else []
        if len(known) < shots:
            raise errors.ConfigError(
                f"only {len(known)} examples; --shots {shots}, {dev}; ask fewer"
            )
        for _, row in known[:shots]:
            before += f"{_written(row)} {row['answer']}\n\n"
        for where, row in _rows(path):
            out.append(
                {
                    "key": where,
                    "template": "",
                    "task": subject,
                    "prompt": before + _written(row),
                    "options": list(LETTERS),
                    "right": [LETTERS.index(row["answer"])],
                }
            )
    return out


def _rows(path: pathlib.Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The published rows; or those of Hugging Face's cais/mmlu: a heading, answers from 0 to 3."""
    for number, (where, row) in enumerate(files.read_rows(path, header=_COLUMNS)):
        if number == 0 and row["answer"] == "answer":
            continue
        letter = dict(zip("0123", LETTERS, strict=True)).get(row["answer"], row["answer"])
        if letter not in set(LETTERS):
            raise errors.DataError(f"the answer is {letter!r}; {where}; {_FROM}")
        yield where, {**row, "answer": letter}


def _written(row: Mapping[str, str]) -> str:
    return "\n".join([row["question"], *(f"{x}. {row[x]}" for x in LETTERS), "Answer:"])


def over_subjects(subjects: Sequence[str], is_right: Sequence[bool]) -> statistics.OverTasks:
    """Returns the mean over subjects, and the figures of each subject and category."""
    found = statistics.over_tasks(subjects, is_right)
    wide = statistics.over_tasks([_CATEGORY_OF.get(name, "other") for name in subjects], is_right)
    categories = {f"category_{name}": figures for name, figures in wide.by_task.items()}
    return found._replace(by_task={**categories, **found.by_task})


def score(
    asked: Sequence[Mapping[str, Any]], responses: Sequence[str], rule: str | None
) -> statistics.Scores:
    """Scores recorded responses: the letter that one names, "B", "(B) 4" or "the answer is B".

    Returns:
      accuracy over all questions, accuracy_over_tasks: the mean over subjects, and accuracy by each
      rule of `extraction.BBH`.
    """
    rule = rule or "auto"
    verdicts = []
    for question, response in zip(asked, responses, strict=True):
        found = {name: extract(response) for name, extract in extraction.BBH.items()}
        chosen = {name: extraction.option(text or "") for name, text in found.items()}
        target = f"({LETTERS[question['right'][0]]})"
        right = {name: letter == target for name, letter in chosen.items()}
        verdicts.append({"target": target, "extracted": chosen[rule], "right": right})
    scores = statistics.by_rule(verdicts, rule, extraction.BBH)
    subjects, right = [one["task"] for one in asked], [one["is_right"] for one in scores.verdicts]
    return statistics.with_tasks(scores, over_subjects(subjects, right))
