"""HumanEval: programs that a model wrote are run, if this is allowed, in a sandbox.

Chen et al. 2021 (arXiv:2107.03374). Data: HumanEval.jsonl(.gz) of github.com/openai/human-eval, as
`humaneval/` in T5SFT_DATA: task_id, prompt, entry_point, test.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import files
from t5sft.evaluate import sandbox
from t5sft.evaluate.answers import statistics

NAME = "humaneval"
_FIELDS = ("task_id", "prompt", "entry_point", "test")
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
# Where a completion has gone on to something else than the function's body.
_ENDS = re.compile(r"\n(?=class |def |#|if |print|@|```|assert )")


def refuse(is_allowed: bool) -> None:
    """Raises unless running programs is allowed and this machine has the sandbox.

    Raises:
      ConfigError: not allowed.
      SandboxError: no sandbox.
    """
    if not is_allowed:
        raise errors.ConfigError(
            "humaneval runs programs that a model wrote; evaluate; add --allow_code_execution if "
            "you want that (each runs in a sandbox)"
        )
    sandbox.check()


def questions(data: str | None) -> list[dict[str, Any]]:
    """Returns the problems, of a file or of a folder in place of T5SFT_DATA."""
    how = "fetch data/HumanEval.jsonl.gz of github.com/openai/human-eval"
    path = pathlib.Path(data).expanduser() if data else None
    if path is not None and path.is_file():
        found = [path]
    else:
        found = files.find(NAME, "HumanEval.jsonl*", how_to_get=how, root=path)
    out = []
    for where, row in files.read_rows(found):
        if not all(isinstance(row.get(field), str) for field in _FIELDS):
            raise errors.DataError(f"no {', '.join(_FIELDS)}; {where}; {how}")
        out.append(row)
    return out


def program(question: Mapping[str, Any], response: str) -> str:
    """Returns what is run: the answer's function, and the question's test of it.

    An answer is a block of Python that defines the function, the whole function without a block,
    or what follows the prompt, up to where it leaves the function.
    """
    defines = f"def {question['entry_point']}("
    blocks = [block for block in _FENCED.findall(response) if defines in block]
    if blocks:
        body = f"{_before(question)}{blocks[0]}"
    elif defines in response:
        body = f"{_before(question)}{response}"
    else:
        end = _ENDS.search(response)
        body = question["prompt"] + (response[: end.start()] if end else response)
    return f"{body}\n\n{question['test']}\n\ncheck({question['entry_point']})\n"


def _before(question: Mapping[str, Any]) -> str:
    """What the prompt has in front of its function: imports and helpers."""
    return question["prompt"].partition(f"def {question['entry_point']}(")[0]


def score(
    questions: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[str]]
) -> statistics.Scores:
    """Returns pass@1, and pass@10 and pass@100 where every question has as many answers.

    Args:
      responses: of each question, one or more.
    """
    fewest = min(len(answers) for answers in responses)
    columns: dict[str, list[float]] = {f"pass@{k}": [] for k in (1, 10, 100) if k <= fewest}
    verdicts = []
    for question, answers in zip(questions, responses, strict=True):
        ran = [sandbox.run(program(question, answer)) for answer in answers]
        passed = sum(one.outcome == "passed" for one in ran)
        for name, column in columns.items():
            k = int(name.removeprefix("pass@"))
            column.append(statistics.pass_at_k(len(ran), passed, k))
        verdicts.append(
            {
                "task_id": question["task_id"],
                "samples": len(ran),
                "passed": passed,
                "outcomes": [one.outcome for one in ran],
                "reasons": [one.reason for one in ran],
            }
        )
    return statistics.Scores(*statistics.means(columns), verdicts)


def score_recorded(rows: Sequence[tuple[str, Mapping[str, Any]]], data: str | None):
    """Scores recorded answers, several of a question where several have its index or prompt.

    Returns:
      The questions answered, their scores, and how many questions have no answer.
    """
    every = questions(data)
    places = {one["prompt"]: i for i, one in enumerate(every)}
    answers: dict[int, list[str]] = {}
    for where, row in rows:
        place = row.get("index", places.get(row.get("prompt", "")))
        if place is None or not 0 <= place < len(every):
            raise errors.DataError(f"no question of this index or prompt; {where}; mend the row")
        answers.setdefault(place, []).append(row["response"])
    asked = [every[i] for i in sorted(answers)]
    return asked, score(asked, [answers[i] for i in sorted(answers)]), len(every) - len(asked)
