"""Rank classification of a file of questions, and MMLU: which option a model finds likeliest.

Wei et al. 2022 (arXiv:2109.01652), section 2.4; Hendrycks et al. 2021 (arXiv:2009.03300). SeqIO
tasks are ranked by `scores.tile`, `scores.option` and `scores.rank_classification`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import files, preprocess, records, templates
from t5sft.evaluate import answering, results, scores, suites, uncertainty
from t5sft.evaluate.answers import calibration, mmlu, ranking, statistics

NAMES = ("rank", "mmlu")
_NOTHING = records.Message("assistant", "")


def prepare(name: str, ready: answering.Ready, options: Any) -> suites.Measure:
    """Reads questions with options, and writes each option behind its prompt, once.

    Args:
      options: `at_model.Options`: questions, num_examples, shots, output.
    """
    if name == "mmlu":
        shots = 5 if options.shots is None else options.shots
        heading = options.style or next(iter(mmlu.HEADINGS))
        if heading not in mmlu.HEADINGS:
            raise errors.ConfigError(
                f"no style {heading!r}; --style of mmlu; use one of {', '.join(mmlu.HEADINGS)}"
            )
        questions = mmlu.questions(options.questions, shots, heading)
        protocol = f"letters, {heading}, {shots} shots"
    else:
        questions, protocol = _rows(options.questions), "options as they are"
    questions = results.first(questions, options.num_examples)
    follow = _letter if name == "mmlu" else _option
    rows = [follow(ready, one, text) for one in questions for text in one["options"]]

    over = mmlu.over_subjects if name == "mmlu" else statistics.over_tasks

    def run(loaded: answering.Ready) -> suites.Scored:
        found = iter(answering.log_likelihoods(loaded, rows))
        sizes = iter(len(row.weights) for row in rows)
        ranked = [
            ranking.Question(
                f"{one['template']}\n{one['key']}",
                one["options"],
                [next(found) for _ in one["options"]],
                [next(sizes) for _ in one["options"]],
                one["right"],
            )
            for one in questions
        ]
        more = {"end_token_scored": name != "mmlu", "reliability": _reliability(ranked)}
        return suites.Scored(_figures(questions, ranked, over), questions, more)

    known, output = {"protocol": protocol}, options.output
    return suites.of_benchmark(name, questions, known, run, output=output, groups="by_task")


def _option(ready: answering.Ready, question: Mapping, text: str) -> answering.Continuation:
    asked, answer = records.Message("user", question["prompt"]), records.Message("assistant", text)
    return answering.continuation(ready, records.Record((asked, answer)))


def _letter(ready: answering.Ready, question: Mapping, text: str) -> answering.Continuation:
    """A letter behind "Answer:" as the published evaluation scores it: without an end token.

    Where no text of the template stands between the two, a space does, as in the worked examples.
    """
    asked = records.Record((records.Message("user", question["prompt"]), _NOTHING))
    given = "".join(piece.text for piece in templates.render_prompt(asked, ready.template))
    is_bare = ready.model.layout == "decoder" and given.endswith(question["prompt"])
    ids, weights = _option(ready, question, f" {text}" if is_bare else text)
    ends = set(preprocess.end_ids(ready.template, ready.vocabulary))
    kept = next((i for i, token in enumerate(ids.targets) if token in ends), len(ids.targets))
    return answering.Continuation(ids._replace(targets=ids.targets[:kept]), weights[:kept])


def _figures(
    questions, ranked: Sequence[ranking.Question], over_tasks: Callable
) -> statistics.Scores:
    """The metrics, and of several tasks the accuracy of each."""
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
    chosen = [ranking.choose(got.logprobs) for got in ranked]
    right = [i in got.right for got, i in zip(ranked, chosen, strict=True)]
    verdicts = [
        {"log_likelihoods": list(got.logprobs), "chosen": i, "is_right": one}
        for got, i, one in zip(ranked, chosen, right, strict=True)
    ]
    whole = statistics.Scores(values, found, verdicts)
    tasks = [one.get("task", "") for one in questions]
    return statistics.with_tasks(whole, over_tasks(tasks, right)) if len(set(tasks)) > 1 else whole


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
