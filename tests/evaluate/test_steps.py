"""Steps are found as they are committed, each evaluated once, and the watch ends."""

import pytest

from t5sft import errors
from t5sft.evaluate import answering, results, steps, suites


def commit(run, step, sealed=True):
    path = run / "checkpoints" / str(step)
    path.mkdir(parents=True)
    if sealed:
        (path / "manifest.json").write_text("{}")


def test_only_whole_steps_that_stay_are_there(tmp_path):
    assert steps.present(tmp_path) == []
    for step in (400, 20, 100):
        commit(tmp_path, step)
    commit(tmp_path, 500, sealed=False)
    (tmp_path / "checkpoints" / "100.retired").touch()
    (tmp_path / "checkpoints" / "600.orbax-checkpoint-tmp-1").mkdir()
    assert steps.present(tmp_path) == [20, 400]
    assert steps.chosen(tmp_path, "all") == [20, 400]
    assert steps.chosen(tmp_path, "400,20") == [20, 400]
    with pytest.raises(errors.CheckpointError, match=r"step 100 \(steps: 20, 400\)"):
        steps.chosen(tmp_path, "20,100")
    with pytest.raises(errors.ConfigError, match="'last'; evaluate; give numbers"):
        steps.chosen(tmp_path, "last")


def test_a_watch_yields_every_step_once_and_ends_with_the_last(tmp_path):
    arrivals = iter([[10], [], [20, 30], [], [40]])

    def sleep(seconds):
        for step in next(arrivals):
            commit(tmp_path, step)

    got = list(steps.watch(tmp_path, last_step=40, done=[20], sleep=sleep))
    assert got == [10, 30, 40]


def test_a_watch_that_waits_in_vain_ends_and_says_so(tmp_path):
    commit(tmp_path, 10)
    said, slept = [], []
    options = {"wait_seconds": 5.0, "say": said.append, "sleep": slept.append}
    assert list(steps.watch(tmp_path, last_step=None, **options)) == [10]
    assert sum(slept) >= 5 and "no checkpoint for" in said[0]


def test_results_of_bare_weights_do_not_lie_among_them(tmp_path, monkeypatch):
    (tmp_path / "weights" / "params").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "5" / "params").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "5" / "manifest.json").write_text("{}")
    assert steps.home(tmp_path / "run", None) == tmp_path / "run"
    assert steps.home(tmp_path / "run" / "checkpoints" / "5", None) == tmp_path / "run"
    assert str(steps.home(tmp_path / "weights", None)) == "evaluations/weights"
    assert steps.home(tmp_path / "weights", str(tmp_path / "x")) == tmp_path / "x"
    with pytest.raises(errors.ConfigError, match="a bucket"):  # not a folder gs:/ here
        steps.home("gs://b/run", None)
    # A run that has begun and saved nothing was taken for weights of others.
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    for name in ("begun", "not_begun"):
        assert steps.home(tmp_path / name, None) == tmp_path / name


def line(step, value, task="t", template="plain"):
    return results.record(
        suite="s", task=task, task_sha256="0", split="validation", step=step, n=4,
        metrics={"exact_match": value}, standard_errors={"exact_match": 0.25},
        about={"template": template},
    )  # fmt: skip


def test_results_are_appended_read_back_and_drawn(tmp_path):
    results.write(tmp_path, [line(10, 0.5)])
    path = results.write(tmp_path, [line(20, 1.0), line(20, float("nan"), task="u")])
    with path.open("a") as file:
        file.write('{"half": ')
    found = results.read(tmp_path)
    assert [one["step"] for one in found] == [10, 20, 20]
    assert found[2]["metrics"]["exact_match"] is None
    t, u = ("s", "t", "validation"), ("s", "u", "validation")
    assert results.done(tmp_path, {t: {"template": "plain"}, u: {"template": "plain"}}) == {20}
    assert results.done(tmp_path, {t: {"template": "plain"}}) == {10, 20}
    assert results.done(tmp_path, {t: {"template": "chatml"}}) == set()
    results.write(tmp_path, [line(30, 1.0)])  # was lost behind the half line
    assert [one["step"] for one in results.read(tmp_path)] == [10, 20, 20, 30]
    assert any((tmp_path / "evaluation" / "tensorboard").iterdir())
    assert results.table(found[:2]).split("\n") == [
        "task  split       metric       n     step 10   step 20",
        "s/t   validation  exact_match  4  0.5 \u00b1 0.25  1 \u00b1 0.25",
    ]


def test_results_got_otherwise_do_not_count_as_done(tmp_path):
    """A watch passed over steps that had been evaluated with fewer questions, or of another run."""
    key = ("b", "b", None)
    how = {"protocol": "few, 5 shots", "decode": answering.Decoding(8, ("Q:",))._asdict()}
    known = suites.of_benchmark("b", [{"q": 1}], how, print).known[key]
    about = {"checkpoint": str(tmp_path / "run" / "checkpoints" / "5")}
    one = results.of_benchmark("b", [{"q": 1}], {"accuracy": 1.0}, {}, **how)
    results.write(tmp_path, [results.record(**one, step=5, about=about)])
    assert results.done(tmp_path, {key: known}) == {5}
    assert results.done(tmp_path, {key: known}, str(tmp_path / "run")) == {5}
    assert results.done(tmp_path, {key: known}, str(tmp_path / "other")) == set()
    for other in ({"protocol": "zero"}, {"decode": answering.Decoding(9)._asdict()}):
        assert results.done(tmp_path, {key: known | other}) == set()
    more = suites.of_benchmark("b", [{"q": 1}, {"q": 2}], how, print).known
    assert results.done(tmp_path, more) == set()
