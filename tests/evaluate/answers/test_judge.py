"""Judges: both orders, ties, grades; a server of OpenAI's kind, and recorded judgements."""

import http.server
import json
import threading

import pytest

from t5sft import errors
from t5sft.evaluate.answers import judge, judged, predictions

FIRST, LONGEST = "whatever is first", "the longer one"


def verdict_of(kind, text):
    """What a judge of this kind says of a prompt of `judged`."""
    a, b = text.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
    if kind == FIRST:
        return "[[A]]"
    return "[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]"


@pytest.fixture
def server():
    """A server of OpenAI's kind on this machine; `kind` decides, `broken` answers 503 first."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state["requests"].append((self.path, dict(self.headers), asked))
            if state["broken"]:
                state["broken"] -= 1
                self.send_error(state["code"], "busy")
                return
            said = state["answer"](asked["messages"][-1]["content"])
            body = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    state = {"requests": [], "broken": 0, "code": 503, "answer": lambda text: "[[A]]"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        state["address"] = f"http://127.0.0.1:{one.server_port}/v1"
        yield state
        one.shutdown()


@pytest.mark.parametrize(
    "straight, swapped, score, consistent",
    [("A", "B", 1.0, True), ("B", "A", 0.0, True), ("tie", "tie", 0.5, True),
     ("A", "A", 0.5, False), ("B", "B", 0.5, False), ("A", "tie", 0.5, False),
     ("tie", "A", 0.5, False), (None, "A", None, False), ("B", None, None, False)],
)  # fmt: skip
def test_only_a_verdict_that_stands_in_both_orders_counts(straight, swapped, score, consistent):
    got = judge.combine(straight, swapped)
    assert (got.score, got.is_consistent) == (score, consistent)


@pytest.mark.parametrize(
    "text, grade, said",
    [("Rating: [[8.5]]", 8.5, None), ("[7]", 7.0, None), ("[[12]]", None, None),
     ("good", None, None), ("not [[A]] but [[B]]", None, "B"), ("[[C]]", None, "tie")],
)  # fmt: skip
def test_grades_and_verdicts_are_read(text, grade, said):
    assert judge.rating(text) == grade and judge.verdict(text) == said


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_pairs_are_judged_by_a_server_and_again_by_its_record(server, tmp_path, monkeypatch):
    monkeypatch.setenv(judge.KEY, "secret")
    server["answer"] = lambda text: verdict_of(LONGEST, text)
    ours = [{"prompt": p, "response": r} for p, r in [("p", "long {x}"), ("q", "a"), ("r", "bb")]]
    theirs = [{"prompt": p, "response": r} for p, r in [("r", "cc"), ("q", "aaa"), ("p", "b")]]
    files = {
        "predictions": write(tmp_path / "ours.jsonl", ours),
        "baseline": write(tmp_path / "theirs.jsonl", theirs),
    }
    out = str(tmp_path / "out.jsonl")
    options = {"task": "pairwise", "judge_model": "j", **files}
    got = predictions.score(judge=server["address"], output=out, **options)
    assert got["metrics"] == {
        "win_rate": 0.5, "wins": 1 / 3, "losses": 1 / 3, "ties": 1 / 3, "consistency": 1.0,
        "first_shown_wins": pytest.approx(1 / 3), "unread": 0.0,
    }  # fmt: skip
    path, headers, asked = server["requests"][0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert asked["model"] == "j" and asked["temperature"] == 0.0 and len(server["requests"]) == 6
    again = predictions.score(judge=out, **options)
    assert again["metrics"] == got["metrics"] and len(server["requests"]) == 6
    server["answer"] = lambda text: verdict_of(FIRST, text)
    biased = predictions.score(judge=server["address"], **options)["metrics"]
    assert biased["win_rate"] == 0.5 and biased["consistency"] == 0
    assert biased["first_shown_wins"] == 1.0


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(server):
    slept = []
    ask = judge.Ask("", "x")
    server["broken"] = 2
    assert judge._ask(server["address"], "j", ask, sleep=slept.append) == "[[A]]"
    assert slept == [2, 4]
    server.update(broken=1, code=401)
    with pytest.raises(errors.ConfigError, match="HTTP 401.*check the address"):
        judge._ask(server["address"], "j", ask, sleep=slept.append)
    with pytest.raises(errors.ConfigError, match="does not answer"):
        judge._ask("http://127.0.0.1:9/v1", "j", ask, sleep=slept.append)


QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["w1", "w2"]},
    {"question_id": 101, "category": "math", "turns": ["m1", "m2"]},
]
TEMPLATES = {
    "single-v1": "{question} | {answer}",
    "single-v1-multi-turn": "{question_1} {answer_1} {question_2} {answer_2}",
    "single-math-v1": "{question} {ref_answer_1} | {answer}",
    "single-math-v1-multi-turn": "{question_2} {ref_answer_2} {answer_2}",
    "pair-v2": "{question} {answer_a} or {answer_b}",
    "pair-v2-multi-turn": "{question_2} {answer_a_1} {answer_a_2} or {answer_b_2}",
    "pair-math-v1": "{question} {ref_answer_1} {answer_a} or {answer_b}",
    "pair-math-v1-multi-turn": "{ref_answer_2} {answer_a_2} or {answer_b_2}",
}


@pytest.fixture
def mt_bench(tmp_path):
    folder = tmp_path / "mt_bench"
    folder.mkdir()
    write(folder / "question.jsonl", QUESTIONS)
    reference = {"question_id": 101, "choices": [{"turns": ["R1", "R2"]}]}
    write(folder / "reference_answer_gpt4.jsonl", [reference])
    prompts = [
        {"name": n, "system_prompt": f"system {n}", "prompt_template": t}
        for n, t in TEMPLATES.items()
    ]
    write(folder / "judge_prompts.jsonl", prompts)
    return str(tmp_path)


ANSWERS = [["a", "b"], ["c", "d"]]


def test_mt_bench_grades_two_turns_with_references_where_there_are(mt_bench):
    seen = []

    def ask(asks):
        seen.extend(asks)
        return ["[[8]]", "Rating: [[6]]", "no idea", "[[10]]"]

    asked = judged.questions(mt_bench)
    got = judged.grade(asked, ANSWERS, judged.prompts(mt_bench), ask)
    assert [one.user for one in seen] == ["w1 | a", "w1 a w2 b", "m1 R1 | c", "m2 R2 d"]
    assert seen[3].system == "system single-math-v1-multi-turn"
    assert got.values == {"score": 8.0, "turn_1": 8.0, "turn_2": 8.0, "unread": 1.0}
    assert got.by_group == {"math": {"n": 1, "score": 10.0}, "writing": {"n": 2, "score": 7.0}}


def test_mt_bench_compares_both_turns_in_both_orders(mt_bench):
    seen = []

    def ask(asks):
        seen.extend(one.user for one in asks)
        return ["[[A]]", "[[B]]", "[[A]]", "[[A]]", "[[C]]", "[[C]]", "[[B]]", "[[A]]"]

    asked = judged.questions(mt_bench)
    got = judged.compare_mt_bench(
        asked, ANSWERS, [["x", "y"], ["z", "t"]], judged.prompts(mt_bench), ask
    )
    assert seen[:4] == ["w1 a or x", "w1 x or a", "w2 a b or y", "w2 x y or b"]
    assert seen[6:] == ["R2 d or t", "R2 t or d"]
    assert got.values["win_rate"] == (1 + 0.5 + 0.5 + 0) / 4
    assert got.values["consistency"] == 3 / 4


def test_recorded_answers_of_fastchat_are_read(mt_bench, tmp_path):
    rows = [{"question_id": q["question_id"], "choices": [{"turns": a}]}
            for q, a in zip(QUESTIONS, ANSWERS, strict=True)]  # fmt: skip
    said = [{"user_prompt": text, "judgment": "[[5]]"} for text in
            ("w1 | a", "w1 a w2 b", "m1 R1 | c", "m2 R2 d")]  # fmt: skip
    options = {"task": "mt_bench", "data": mt_bench}
    got = predictions.score(
        predictions=write(tmp_path / "a.jsonl", rows), judge=write(tmp_path / "j.jsonl", said),
        **options,
    )  # fmt: skip
    assert got["metrics"]["score"] == 5.0
    with pytest.raises(errors.DataError, match="1 questions of MT-bench have no answer, 101"):
        predictions.score(
            predictions=write(tmp_path / "a.jsonl", rows[:1]), judge=str(tmp_path / "j.jsonl"),
            **options,
        )  # fmt: skip
    with pytest.raises(errors.ConfigError, match="mt_bench needs a judge"):
        predictions.score(predictions=str(tmp_path / "a.jsonl"), **options)
