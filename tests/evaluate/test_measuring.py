"""What a real (tiny, random) model is measured by: scores, aux values, ranks, in any batch."""

import dataclasses
import json

import numpy as np
import pytest
from oracles import tiny

from t5sft import errors
from t5sft.data import define, prepare, records, sources, templates, vocab
from t5sft.evaluate import answering, at_model, evaluator, ranks, scores, suites
from t5sft.evaluate.answers import mmlu, ranking

BYTES = vocab.load("bytes")
DATA = prepare.Data(task="toy", vocabulary="bytes", modules=("toy_task",), template="lines")
MODELS = {
    "decoder": dataclasses.replace(tiny.DECODER, vocab_size=BYTES.size + 4, num_layers=1),
    "encoder_decoder": dataclasses.replace(
        tiny.T5, vocab_size=BYTES.size + 4, num_encoder_layers=1, num_decoder_layers=1
    ),
}
HOW = answering.Decoding(max_new_tokens=5)


def ready(layout, batch_size=4):
    import jax

    from t5sft.parallel import mesh

    model = MODELS[layout]
    one = mesh.make_mesh(devices=jax.devices()[:1])
    template = templates.get("lines")
    return answering.Ready(
        model, tiny.hot(model), BYTES, template, None, BYTES.pad_id, batch_size, mesh=one
    )


LENGTH = 96  # of all rows of the oracle: one compilation


def side(name, ids):
    """One row, padded."""
    real = np.arange(LENGTH) < len(ids)
    tokens = np.zeros((1, LENGTH), np.int32)
    tokens[0, : len(ids)] = ids
    return {
        f"{name}_input_tokens": tokens,
        f"{name}_segment_ids": real[None].astype(np.int32),
        f"{name}_positions": np.where(real, np.arange(LENGTH), 0)[None],
    }


def likelihood(loaded, given, wanted):
    """The definition: the logits of the whole row, one token at a time, in float64."""
    if loaded.model.layout == "decoder":
        batch, first = side("decoder", [*given, *wanted]), len(given) - 1
    else:
        batch, first = side("encoder", given), 0
        batch |= side("decoder", [loaded.start_id, *wanted[:-1]])
    logits = np.asarray(tiny.logits_of(loaded.model)(loaded.params, batch), np.float64)[0]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(log_p[first + i, token] for i, token in enumerate(wanted))


def test_the_tokens_scored_are_those_that_learn():
    """T5's sums hold the end token; so does a decoder's, whose template learns one."""
    record = records.Record((records.Message("user", "ab"), records.Message("assistant", "cd")))
    for layout in MODELS:
        row = answering.continuation(ready(layout), record)
        assert row.ids.targets == [*BYTES.encode("cd"), BYTES.eos_id]
        assert row.weights == [1.0, 1.0, 1.0]
        assert row.ids.inputs == answering.prompt(ready(layout), record.messages[:1])


@pytest.mark.parametrize("layout", MODELS)
def test_log_likelihoods_are_those_of_the_definition_in_any_batch(layout):
    texts = [("ab", "c"), ("x" * 30, "yes, it is"), ("k", "n" * 9), ("q", "")]
    asked = [
        answering.continuation(
            ready(layout),
            records.Record((records.Message("user", a), records.Message("assistant", b))),
        )
        for a, b in texts
    ]
    got = answering.log_likelihoods(ready(layout, 4), asked)
    for value, row in zip(got[:2], asked, strict=False):
        np.testing.assert_allclose(value, likelihood(ready(layout), *row.ids), rtol=1e-5)
    backwards = answering.log_likelihoods(ready(layout, 1), asked[::-1])
    np.testing.assert_allclose(backwards[::-1], got, rtol=1e-5)


def register(name, rows, metric_fns, postprocess_fn=None, fields=("inputs", "targets")):
    define.add_task(
        name, sources.rows(lambda split: rows, ("validation",)), fields=fields,
        metric_fns=metric_fns, postprocess_fn=postprocess_fn, replace=True,
    )  # fmt: skip


def test_seqio_asks_for_scores_and_for_aux_values():
    """Metric functions say by their arguments what they need; only that is computed."""
    prepare.register(DATA)
    loaded = ready("encoder_decoder")
    rows = [{"inputs": f"say {i}", "targets": "yes" * (i + 1)} for i in range(3)]
    seen = {}

    def total(targets, scores):
        seen.setdefault("scores", dict(zip(targets, scores, strict=True)))  # later: of parts
        return {"total": float(sum(scores))}

    def aux(targets, predictions, aux_values):
        seen.setdefault("aux", list(aux_values["scores"]))
        seen.setdefault("predictions", list(predictions))
        return {"mean_score": float(np.mean(aux_values["scores"]))}

    register("measured_scores", rows, [total])
    register("measured_aux", rows, [aux])
    options = at_model.Options()
    measure = suites.prepare(
        {"a": "measured_scores", "b": "measured_aux"}, DATA, "validation", loaded, HOW, options
    )
    made = measure.run(loaded)
    assert not made["a"]["measured_scores"].predictions  # nothing was generated for it
    asked = measure.asked["a"][0]
    want = {text: likelihood(loaded, *row.ids) for text, row in zip(asked.answers, asked.rows,
                                                                   strict=True)}  # fmt: skip
    assert seen["scores"] == pytest.approx(want, rel=1e-5)
    replies = answering.reply(loaded, asked.prompts, HOW)
    assert seen["predictions"] == [one.text for one in replies]
    ends = [one.tokens + [BYTES.eos_id] * one.finished for one in replies]
    own = [likelihood(loaded, p, e) for p, e in zip(asked.prompts, ends, strict=True)]
    np.testing.assert_allclose(seen["aux"], own, rtol=1e-5)
    first, second = measure.lines(made)
    assert first["metrics"]["total"] == pytest.approx(sum(want.values()), rel=1e-5)
    assert first["decode"] is None and second["decode"]["max_new_tokens"] == 5
    assert first["n"] == 3 and first["task_sha256"] == second["task_sha256"]
    # A mean of scores has the usual standard error.
    error = np.std(own, ddof=1) / np.sqrt(3)
    assert second["standard_errors"]["mean_score"] == pytest.approx(error, rel=1e-4)
    # Other batches, the same figures.
    again = measure.run(loaded._replace(batch_size=2))
    for suite, task in (("a", "measured_scores"), ("b", "measured_aux")):
        assert again[suite][task].metrics == pytest.approx(made[suite][task].metrics, rel=1e-5)


QUESTIONS = [
    ("Is it?", ["ja", "\u306f\u3044\u3002", "certainly"], [0]),
    ("Is it not?", ["no", "never", "certainly not"], [1, 2]),
    ("What?", ["x" * 9, "y", "z"], [2]),
]


def test_ranks_by_seqio_are_ranks_by_hand_and_do_not_depend_on_the_order():
    prepare.register(DATA)
    loaded = ready("decoder")

    def rank(order):
        def made(split):
            for template in ("a", "b"):
                for i, (text, options, right) in enumerate(QUESTIONS):
                    message = (records.Message("user", f"{template} {text}"),)
                    told = {"template": template, "question": str(i)}
                    record = records.Record((*message, records.Message("assistant", "")),
                                            metadata=told)  # fmt: skip
                    yield record, [options[j] for j in order], [order.index(j) for j in right]

        source = sources.from_records(
            lambda split: scores.tile(made(split)), lambda split: [], ("validation",)
        )
        define.add_task(
            "ranked", source, fields=("record",), metric_fns=[scores.rank_classification],
            postprocess_fn=scores.option, replace=True,
        )  # fmt: skip
        asked = evaluator.questions(DATA, loaded, "ranked", "validation")
        functions = suites._functions(loaded, HOW)
        return evaluator.answer(functions, asked, BYTES, "validation")["ranked"], asked[0]

    got, asked = rank([0, 1, 2])
    turned, _ = rank([2, 0, 1])
    assert turned.metrics == pytest.approx(got.metrics, abs=1e-6)
    by_hand = []
    for q in range(6):
        rows = asked.rows[3 * q : 3 * q + 3]
        text, options, right = QUESTIONS[q % 3]
        values = [likelihood(loaded, *row.ids) for row in rows]
        by_hand.append(ranking.Question(q, options, values, [len(r.weights) for r in rows], right))
    want = ranking.accuracy(by_hand).values
    assert {name: got.metrics[name] for name in want} == want
    per = [ranking.accuracy(by_hand[i : i + 3]).values["accuracy_sum"] for i in (0, 3)]
    assert [got.metrics[f"accuracy_sum/template_{t}"] for t in "ab"] == per
    assert got.metrics["template_mean"] == pytest.approx(np.mean(per))
    assert got.metrics["template_spread"] == pytest.approx(max(per) - min(per))
    best = suites.best_template(got, {f"accuracy_sum/template_{t}": v for t, v in
                                      zip("ab", (0.0, 1.0), strict=True)})  # fmt: skip
    assert best.metrics["best_validation_template"] == per[1]


def test_a_file_of_options_is_ranked_as_the_task(tmp_path):
    loaded = ready("decoder")
    path = tmp_path / "options.jsonl"
    rows = [
        {"prompt": text, "options": options, "answer": [options[i] for i in right], "task": str(i)}
        for i, (text, options, right) in enumerate(QUESTIONS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    options = at_model.Options(questions=str(path), output=str(out))
    measure = at_model.prepare("rank", loaded, options)
    (line,) = measure.lines(measure.run(loaded))
    written = [json.loads(row) for row in out.read_text().splitlines()]
    for row, (text, candidates, right) in zip(written, QUESTIONS, strict=True):
        asked = answering.prompt(loaded, [records.Message("user", text)])
        values = [likelihood(loaded, asked, [*BYTES.encode(c), BYTES.eos_id]) for c in candidates]
        np.testing.assert_allclose(row["log_likelihoods"], values, rtol=1e-5)
        assert row["is_right"] == (int(np.argmax(values)) in right)
    right = [row["is_right"] for row in written]
    assert line["metrics"]["accuracy_sum"] == pytest.approx(np.mean(right))
    assert line["metrics"]["accuracy_over_tasks"] == pytest.approx(np.mean(right))
    assert sum(one["n"] for one in line["reliability"]) == 3


def test_mmlu_is_asked_as_published(tmp_path):
    for part, rows in (("dev", ["1+1?,1,2,3,4,B"]), ("test", ["2+2?,1,2,3,4,D", "3?,1,2,3,4,C"])):
        folder = tmp_path / "mmlu" / part
        folder.mkdir(parents=True)
        (folder / f"high_school_sums_{part}.csv").write_text("\n".join(rows) + "\n")
    asked = (
        "The following are multiple choice questions (with answers) about{}high school sums.\n\n"
        "1+1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        "2+2?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    # hendrycks/test, evaluate.py: format_subject begins with a space, behind that of the line.
    found = mmlu.questions(str(tmp_path), 1, "published")
    assert found[0]["prompt"] == asked.format("  ")
    assert mmlu.questions(str(tmp_path), 1, "harness")[0]["prompt"] == asked.format(" ")
    assert [one["right"] for one in found] == [[3], [2]]
    again = tmp_path / "mmlu" / "test" / "high_school_sums_test.csv"
    again.write_text(
        "question,choice0,choice1,choice2,choice3,answer\n2+2?,1,2,3,4,3\n3?,1,2,3,4,2\n"
    )
    without_place = [{**one, "key": ""} for one in found]
    assert [{**one, "key": ""} for one in mmlu.questions(str(tmp_path), 1, "published")] == (
        without_place
    )


@pytest.mark.parametrize(
    "template, layout, scored",
    [("plain", "decoder", " B"), ("lines", "decoder", "B"), ("plain", "encoder_decoder", "B")],
)
def test_a_letter_of_mmlu_is_scored_alone_and_stands_as_in_the_shots(template, layout, scored):
    loaded = ready(layout)._replace(template=templates.get(template))
    row = ranks._letter(loaded, {"prompt": "2+2?\nAnswer:"}, "B")
    assert BYTES.decode(row.ids.targets) == scored
    assert len(row.weights) == len(row.ids.targets)
    border = "\n" if template == "lines" else ""
    assert BYTES.decode(row.ids.inputs).removeprefix("\0") == f"2+2?\nAnswer:{border}"


def test_postprocessing_sees_the_other_features_of_an_example():
    import tensorflow as tf

    prepare.register(DATA)
    seqio = sources.load_seqio()

    def dataset(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices(
            {
                "inputs_pretokenized": ["a", "b"],
                "targets_pretokenized": ["1", "2"],
                "idx": [[7, 0], [7, 1]],
                "name": ["x", "y"],
                "inputs": [[1], [2]],
                "targets": [[3], [4]],
            }  # fmt: skip
        )

    def last(targets, scores):
        return {"last": float(scores[targets.index((7, 1, "y", "2"))])}

    feature = seqio.Feature(seqio.PassThroughVocabulary(size=300), add_eos=False)
    seqio.TaskRegistry.remove("own_features") if "own_features" in seqio.TaskRegistry.names() else 0
    seqio.TaskRegistry.add(
        "own_features",
        source=seqio.FunctionDataSource(dataset, splits=["validation"]),
        preprocessors=[],
        output_features={"inputs": feature, "targets": feature},
        postprocess_fn=lambda text, example, is_target: (
            (*example["idx"], example["name"].decode(), text) if is_target else text
        ),
        metric_fns=[
            lambda targets, scores: {"last": float(scores[targets.index((7, 1, "y", "2"))])}
        ],
    )
    loaded = ready("encoder_decoder")
    asked = evaluator.questions(DATA, loaded, "own_features", "validation")
    functions = suites._functions(loaded, HOW)
    got = evaluator.answer(functions, asked, BYTES, "validation")["own_features"]
    assert got.metrics["last"] == pytest.approx(likelihood(loaded, *asked[0].rows[1].ids), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("num_examples", 0), ("shots", -1), ("answer_tokens", 0), ("samples", 0)]
)
def test_refuses_too_few_of_anything(name, value):
    """No example ended in an IndexError; -1 shots were all but the last."""
    with pytest.raises(errors.ConfigError, match=f"{name} = {value}; evaluate; use"):
        at_model.Options(**{name: value})
