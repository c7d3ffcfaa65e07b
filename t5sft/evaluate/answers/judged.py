"""What is judged: MT-bench's two turns, graded or compared, and pairs of answers to any prompt.

Data of MT-bench: question.jsonl, judge_prompts.jsonl and reference_answer_gpt4.jsonl of
github.com/lm-sys/FastChat (fastchat/llm_judge/data), as the folder mt_bench/ of T5SFT_DATA.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import files
from t5sft.evaluate.answers import judge, statistics

NAMES = ("mt_bench", "pairwise")
_FROM = "fetch fastchat/llm_judge/data of github.com/lm-sys/FastChat as mt_bench"
_WITH_REFERENCE = ("math", "reasoning", "coding")
# Of sampled answers, by category: FastChat's config of MT-bench.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
_SYSTEM = (
    "You compare two answers to the same request. Say in a few sentences which one serves the "
    "request better: is it right, complete, clear, and no longer than it need be? The order in "
    "which they stand means nothing. End with one line: [[A]] if answer A is better, [[B]] if "
    "answer B is better, [[C]] if neither is."
)
_PAIR = "Request:\n{question}\n\nAnswer A:\n{answer_a}\n\nAnswer B:\n{answer_b}"


def _find(file: str, data: str | None) -> pathlib.Path:
    """Returns a file of MT-bench; `data`: the folder, or its question file."""
    path = pathlib.Path(data).expanduser() if data else None
    root = path.parent if path and path.is_file() else path
    (found,) = files.find("mt_bench", file, how_to_get=_FROM, root=root)
    return found


def questions(data: str | None) -> list[dict[str, Any]]:
    """Returns MT-bench's questions: question_id, category, turns, reference (or None)."""
    asked, known = _find("question.jsonl", data), _find("reference_answer_gpt4.jsonl", data)
    references = {
        row["question_id"]: row["choices"][0]["turns"] for _, row in files.read_rows(known)
    }
    return [
        {**row, "reference": references.get(row["question_id"])}
        for _, row in files.read_rows(asked)
    ]


def prompts(data: str | None) -> dict[str, dict[str, Any]]:
    """Returns MT-bench's judge prompts by name."""
    return {row["name"]: row for _, row in files.read_rows(_find("judge_prompts.jsonl", data))}


def _chosen(known: Mapping[str, dict], kind: str, question: Mapping, turn: int) -> dict[str, Any]:
    name = f"{kind}-math-v1" if question["category"] in _WITH_REFERENCE else f"{kind}-v1"
    name = "pair-v2" if name == "pair-v1" else name
    name += "-multi-turn" if turn else ""
    if name not in known:
        raise errors.DataError(f"no judge prompt {name!r}; judge_prompts.jsonl; {_FROM}")
    return known[name]


def _fields(question: Mapping[str, Any]) -> dict[str, str]:
    """What MT-bench's prompts name, of the question and its reference."""
    first, second = question["turns"]
    named = {"question": first, "question_1": first, "question_2": second}
    for i, text in enumerate(question["reference"] or (), 1):
        named[f"ref_answer_{i}"] = text
    return named


def grade(
    asked: Sequence[Mapping[str, Any]],
    answers: Sequence[Sequence[str]],
    known: Mapping[str, dict],
    ask: judge.Judge,
) -> statistics.Scores:
    """Grades both turns of MT-bench answers from 1 to 10.

    Returns:
      score (over all turns), turn_1, turn_2, and each category's; a turn whose grade cannot be read
      is left out and counted in `unread`.
    """
    wanted = []
    for question, (one, two) in zip(asked, answers, strict=True):
        fields = _fields(question) | {"answer": one, "answer_1": one, "answer_2": two}
        for turn in (0, 1):
            prompt = _chosen(known, "single", question, turn)
            user = prompt["prompt_template"].format(**fields)
            wanted.append(judge.Ask(prompt["system_prompt"], user))
    said = ask(wanted)
    verdicts: list[dict[str, Any]] = []
    groups: dict[str, list[float]] = {}
    turns: tuple[list[float], list[float]] = ([], [])
    for i, question in enumerate(asked):
        mine = range(2 * i, 2 * i + 2)
        grades = [judge.rating(said[j]) for j in mine]
        judgements = [{"judge_prompt": wanted[j].user, "judgement": said[j]} for j in mine]
        verdicts.append({"grades": grades, "judgements": judgements})
        for turn, value in enumerate(grades):
            if value is not None:
                turns[turn].append(value)
                groups.setdefault(question["category"], []).append(value)
    pairs = [[x for x in one["grades"] if x is not None] for one in verdicts]
    values, found = {}, {}
    values["score"], found["score"] = statistics.clustered_mean([p for p in pairs if p])
    for name, column in (("turn_1", turns[0]), ("turn_2", turns[1])):
        values[name], found[name] = statistics.mean(column)
    values["unread"], found["unread"] = float(sum(2 - len(p) for p in pairs)), None
    by_category = {k: {"n": len(v), "score": sum(v) / len(v)} for k, v in sorted(groups.items())}
    return statistics.Scores(values, found, verdicts, by_category)


def compare(pairs: Sequence[judge.Pair], ask: judge.Judge) -> statistics.Scores:
    """Compares answers with a baseline's, each pair in both orders.

    Returns:
      win_rate (a tie counts half), wins, losses, ties; consistency: how often both orders agree;
      first_shown_wins: .5 where the judge does not mind the order. Pairs of which a verdict cannot
      be read are left out and counted in `unread`.
    """
    wanted = []
    for pair in pairs:
        for a, b in ((pair.first, pair.second), (pair.second, pair.first)):
            user = _PAIR.format(question=pair.question, answer_a=a, answer_b=b)
            wanted.append(judge.Ask(_SYSTEM, user))
    return _compared(wanted, ask(wanted))


def compare_mt_bench(
    asked: Sequence[Mapping[str, Any]],
    answers: Sequence[Sequence[str]],
    baseline: Sequence[Sequence[str]],
    known: Mapping[str, dict],
    ask: judge.Judge,
) -> statistics.Scores:
    """Compares both turns of MT-bench answers with a baseline's, each in both orders."""
    wanted = []
    for question, ours, theirs in zip(asked, answers, baseline, strict=True):
        for turn in (0, 1):
            prompt = _chosen(known, "pair", question, turn)
            for a, b in ((ours, theirs), (theirs, ours)):
                fields = _fields(question) | {"answer_a": a[0], "answer_b": b[0]}
                fields |= {f"answer_{x}_{i + 1}": s[i] for x, s in zip("ab", (a, b), strict=True)
                           for i in (0, 1)}  # fmt: skip
                user = prompt["prompt_template"].format(**fields)
                wanted.append(judge.Ask(prompt["system_prompt"], user))
    return _compared(wanted, ask(wanted))


def _compared(wanted: Sequence[judge.Ask], said: Sequence[str]) -> statistics.Scores:
    verdicts, joined = [], []
    for i in range(0, len(wanted), 2):
        one = judge.combine(judge.verdict(said[i]), judge.verdict(said[i + 1]))
        judgements = [{"judge_prompt": wanted[j].user, "judgement": said[j]} for j in (i, i + 1)]
        joined.append(one)
        verdicts.append({**one._asdict(), "judgements": judgements})
    read = [one for one in joined if one.score is not None]
    columns: dict[str, list[float]] = {
        "win_rate": [one.score for one in read],  # type: ignore[misc]
        "wins": [one.score == 1.0 for one in read],
        "losses": [one.score == 0.0 for one in read],
        "ties": [one.score == 0.5 for one in read],
        "consistency": [one.is_consistent for one in read],
        "first_shown_wins": [one.first_shown_wins for one in read],
    }
    values, found = statistics.means(columns)
    values["unread"], found["unread"] = float(len(joined) - len(read)), None
    return statistics.Scores(values, found, verdicts)


def recorded_turns(
    rows: Sequence[tuple[str, Mapping]], asked: Sequence[Mapping]
) -> list[list[str]]:
    """Returns both answers to each MT-bench question, of rows by question_id or index.

    Rows as FastChat writes them (choices[0].turns), or with `responses`, a list of two.
    """
    places = {one["question_id"]: i for i, one in enumerate(asked)}
    out: list[list[str]] = [[] for _ in asked]
    for where, row in rows:
        place = places.get(row.get("question_id"), row.get("index"))
        choices = row.get("choices") or [{}]
        turns = row.get("responses", choices[0].get("turns"))
        right = isinstance(turns, list) and len(turns) == 2
        if not isinstance(place, int) or not 0 <= place < len(asked) or not right:
            raise errors.DataError(
                f"no two answers to a question of MT-bench; {where}; give question_id (or index) "
                "and responses, a list of two texts"
            )
        out[place] = [str(text) for text in turns]
    absent = [one["question_id"] for one, turns in zip(asked, out, strict=True) if not turns]
    if absent:
        raise errors.DataError(
            f"{len(absent)} questions of MT-bench have no answer, {absent[0]} first; answers; "
            "give all of them"
        )
    return out
