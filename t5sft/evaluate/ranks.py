"""Rank classification of a file of questions, and MMLU: which option a model finds likeliest.

Wei et al. 2022 (arXiv:2109.01652), section 2.4; Hendrycks et al. 2021 (arXiv:2009.03300). SeqIO
tasks are ranked by `scores.tile`, `scores.option` and `scores.rank_classification`.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import files, records
from t5sft.evaluate import answering, results, scores, suites, uncertainty
from t5sft.evaluate.answers import benchmarks, calibration, ranking, statistics

NAMES = ("rank", "mmlu")
_LETTERS = "ABCD"
_COLUMNS = ("question", *_LETTERS, "answer")
_MMLU_FROM = "fetch and unpack the data of github.com/hendrycks/test as mmlu/dev and mmlu/test"


def prepare(name: str, ready: answering.Ready, options: Any) -> suites.Measure:
    """Reads questions with options, and writes each option behind its prompt, once.

    Args:
      options: `at_model.Options`: questions, num_examples, shots, output.
    """
    if name == "mmlu":
        shots = 5 if options.shots is None else options.shots
        questions = _mmlu(options.questions, shots)
        protocol = f"letters, {shots} shots"
    else:
        questions, protocol = _rows(options.questions), "options as they are"
    questions = results.first(questions, options.num_examples)
    rows = [
        answering.continuation(ready, records.Record((*_asked(one), _answer(text))))
        for one in questions
        for text in one["options"]
    ]

    def run(loaded: answering.Ready) -> Mapping[str, Any]:
        found = iter(answering.log_likelihoods(loaded, rows))
        sizes = iter(len(row.weights) for row in rows)
        return {
            "ranked": [
                ranking.Question(
                    f"{one['template']}\n{one['key']}",
                    one["options"],
                    [next(found) for _ in one["options"]],
                    [next(sizes) for _ in one["options"]],
                    one["right"],
                )
                for one in questions
            ]
        }

    def lines(made):
        ranked = made["ranked"]
        chosen = [ranking.choose(one.logprobs) for one in ranked]
        results.write_rows(
            options.output,
            [
                {
                    **one,
                    "log_likelihoods": list(got.logprobs),
                    "chosen": i,
                    "is_right": i in got.right,
                }
                for one, got, i in zip(questions, ranked, chosen, strict=True)
            ],
        )
        values, found_errors, by_task = _figures(questions, ranked)
        return [
            results.of_benchmark(
                name,
                questions,
                values,
                found_errors,
                protocol=protocol,
                end_token_scored=True,
                versions=results.versions("jax", "numpy"),
                reliability=_reliability(ranked),
                **({"by_task": by_task} if by_task else {}),
            )
        ]

    return suites.of_benchmark(name, questions, {"protocol": protocol}, run, lines)


def _asked(question: Mapping[str, Any]) -> tuple[records.Message, ...]:
    return (records.Message("user", question["prompt"]),)


def _answer(text: str) -> records.Message:
    return records.Message("assistant", text)


def _figures(questions, ranked: Sequence[ranking.Question]):
    """The metrics, their standard errors, and of several tasks the accuracy of each."""
    values = scores.ranked(ranked, [one["template"] for one in questions])
    options, likelihoods = [], []
    for one, got in zip(questions, ranked, strict=True):
        for i, text in enumerate(got.candidates):
            options.append(
                scores.Option(one["key"], one["template"], text, i in got.right, got.num_tokens[i])
            )
            likelihoods.append(got.logprobs[i])
    found = uncertainty.standard_errors(
        [scores.rank_classification], {"targets": options, "score": likelihoods}, values
    )
    groups: dict[str, list[bool]] = {}
    for one, got in zip(questions, ranked, strict=True):
        groups.setdefault(one.get("task", ""), []).append(ranking.choose(got.logprobs) in got.right)
    if len(groups) < 2:
        return values, found, {}
    figures = {task: statistics.mean(right) for task, right in groups.items()}
    values["accuracy_over_tasks"] = sum(value for value, _ in figures.values()) / len(figures)
    found["accuracy_over_tasks"] = statistics.error_of_mean([e for _, e in figures.values()])
    by_task = {t: {"n": len(groups[t]), "accuracy": figures[t][0]} for t in sorted(groups)}
    return values, found, by_task


def _reliability(ranked: Sequence[ranking.Question]) -> list[dict[str, Any]]:
    """The points of the reliability diagram: those bins that hold answers."""
    forecasts = [calibration.probabilities(one.logprobs) for one in ranked]
    bins = calibration.metrics(forecasts, [one.right for one in ranked])[1]
    return [one._asdict() for one in bins if one.n]


def _rows(path: str | None) -> list[dict[str, Any]]:
    """Reads rows of a prompt, its options, and which are right: `answer`, by place or text."""
    if path is None:
        raise errors.ConfigError("rank has no questions of its own; evaluate; add --questions FILE")
    out = []
    for where, row in files.read_rows(files.expand(path)):
        prompt = next((row[n] for n in ("prompt", "inputs", "question") if n in row), None)
        options = row.get("options")
        is_list = isinstance(options, list) and all(isinstance(one, str) for one in options)
        if not isinstance(prompt, str) or not is_list or not options:
            raise errors.DataError(
                f"no prompt with options among the fields {sorted(row)}; {where}; give prompt, "
                "options (texts) and answer (the place of the right one, from 0, its text, or a "
                "list of these)"
            )
        out.append(
            {
                "key": str(row.get("key", where)),
                "template": str(row.get("template", "")),
                "prompt": prompt,
                "options": options,
                "right": _right(row, options, where),
                **({"task": row["task"]} if "task" in row else {}),
            }
        )
    return out


def _right(row: Mapping[str, Any], options: Sequence[str], where: str) -> list[int]:
    named = next((row[n] for n in ("answer", "answers", "target", "label") if n in row), None)
    found = []
    for one in named if isinstance(named, list) and named else [named]:
        if isinstance(one, str) and one in options:
            found += [i for i, text in enumerate(options) if text == one]
        elif isinstance(one, int) and not isinstance(one, bool) and 0 <= one < len(options):
            found.append(one)
        else:
            raise errors.DataError(
                f"the answer {one!r} is none of the {len(options)} options; {where}; name it by "
                "its place, from 0, or its text"
            )
    return sorted(set(found))


def _mmlu(folder: str | None, shots: int) -> list[dict[str, Any]]:
    """MMLU: letters behind the question, `shots` worked examples of the subject before it.

    The heading and the layout are those of the published evaluation, so that figures compare.
    """
    with benchmarks.corpora_in(folder):
        tests = files.find("mmlu", "test/*_test.csv", how_to_get=_MMLU_FROM)
    out = []
    for path in tests:
        subject = path.name.removesuffix("_test.csv")
        before = f"The following are multiple choice questions (with answers) about {subject}."
        before = before.replace("_", " ") + "\n\n"
        dev = path.parent.parent / "dev" / f"{subject}_dev.csv"
        known = list(_csv(dev)) if shots else []
        if len(known) < shots:
            raise errors.ConfigError(
                f"only {len(known)} examples; --shots {shots}, {dev}; ask fewer"
            )
        for _, row in known[:shots]:
            before += f"{_written(row)} {row['answer']}\n\n"
        for where, row in _csv(path):
            out.append(
                {
                    "key": where,
                    "template": "",
                    "task": subject,
                    "prompt": before + _written(row),
                    "options": list(_LETTERS),
                    "right": [_LETTERS.index(row["answer"])],
                }
            )
    return out


def _csv(path: pathlib.Path):
    for where, row in files.read_rows(path, header=_COLUMNS):
        if row["answer"] not in set(_LETTERS):
            raise errors.DataError(f"the answer is {row['answer']!r}; {where}; {_MMLU_FROM}")
        yield where, row


def _written(row: Mapping[str, str]) -> str:
    return "\n".join([row["question"], *(f"{x}. {row[x]}" for x in _LETTERS), "Answer:"])
