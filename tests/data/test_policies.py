"""What a record stands for: which candidates learn, which system prompt it begins with."""

import types

import pytest

from t5sft import errors
from t5sft.data import policies, preprocess, records, templates, vocab
from t5sft.train import inputs

BYTES = vocab.load("bytes")
QUESTION = records.Message("user", "q?")


def answers(*labelled, **more):
    return records.Record(
        (QUESTION,),
        "t",
        0,
        candidates=tuple(
            records.Candidate((records.Message("assistant", text),), label)
            for text, label in labelled
        ),
        **more,
    )


def made(record, template="lines", layout="decoder", **options):
    return preprocess.examples(
        record, BYTES, templates.get(template), policies.Options(layout, **options)
    )


def learnt(example):
    ids = [i for i, w in zip(example.targets.ids, example.targets.weights, strict=True) if w > 0]
    return BYTES.decode(ids)


@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
def test_all_candidates_or_the_best_are_learnt(layout):
    ranked = answers(("bad", -1.0), ("good", 2.0), ("also", 2.0))
    every = made(ranked, layout=layout)
    assert [learnt(one) for one in every.units[0]] == ["bad", "good", "also"]
    assert every.labels == [-1, 2, 2]
    best = made(ranked, layout=layout, candidates="best")
    plain = records.Record((QUESTION, records.Message("assistant", "good")))
    want = made(plain, layout=layout)
    assert best.labels is None and len(best.units) == 1 and len(best.units[0]) == 1
    for got, expected in zip(best.units[0][0], want.units[0][0], strict=True):
        assert [list(column) for column in got] == [list(column) for column in expected]


def test_an_unwanted_answer_is_dropped_and_counted():
    """Unpaired labels (KTO): supervised fine-tuning learnt what people disliked."""
    unwanted = made(answers(("bad", 0.0)), candidates="best")
    assert not unwanted.units and unwanted.counts == {"dropped": 1, "dropped: unwanted answer": 1}
    wanted = made(answers(("good", 1.0)), candidates="best")
    assert wanted.counts["kept"] == 1 and wanted.labels is None
    assert made(answers(("bad", 0.0))).labels == [0]
    rows = [answers(("bad", 0.0)), answers(("good", 1.0)), answers(("no", 0.0))]
    options = policies.Options("decoder", candidates="best")
    batch = preprocess.batch(rows, BYTES, templates.get("lines"), options)
    assert [len(one.units) for one in batch] == [0, 1, 0]


def test_training_refuses_labels_that_no_objective_reads():
    """The rejected answers of preferences were learnt as if they were good ones."""
    split = types.SimpleNamespace(tasks={"pairs": types.SimpleNamespace(labels=[1.0, 0.0])})
    with pytest.raises(errors.ConfigError, match="'pairs' holds answers with labels, train.*best"):
        inputs._refuse_labels("train", split)
    inputs._refuse_labels(
        "train", types.SimpleNamespace(tasks={"t": types.SimpleNamespace(labels=None)})
    )


@pytest.mark.parametrize("template", ["chatml:text", "llama2", "vicuna", "gemma:text"])
def test_a_system_prompt_is_written_where_there_is_none(template):
    plain = records.Record((QUESTION, records.Message("assistant", "a")), "t", 0)
    own = plain._replace(messages=(records.Message("system", "Mine."), *plain.messages))
    asked = plain._replace(messages=(records.Message("system", "Be brief."), *plain.messages))

    def ids(record, **options):
        return list(made(record, template, **options).units[0][0].targets.ids)

    assert ids(plain, system="Be brief.") == ids(asked) != ids(plain)
    assert ids(own, system="Be brief.") == ids(own)
    prompt = preprocess.prompt(
        plain, BYTES, templates.get(template), layout="decoder", system="Be brief."
    )
    assert ids(plain, system="Be brief.")[: len(prompt)] == prompt
    pair = answers(("a", 1.0), ("b", 0.0))
    both = made(pair, template, system="Be brief.").units[0]
    assert [learnt(one).strip() for one in both] == ["a", "b"]
    assert all("Be brief." in BYTES.decode(one.targets.ids) for one in both)


def test_a_template_without_system_prompts_refuses_one_before_data_is_read():
    with pytest.raises(
        errors.DataError, match=r"'lines' cannot write a 'system' turn; Data\.system"
    ):
        preprocess.check(templates.get("lines"), BYTES, "Be brief.")
    preprocess.check(templates.get("chatml:text"), BYTES, "Be brief.")
    preprocess.check(templates.get("lines"), BYTES, None)


def test_a_prompt_without_an_answer_is_dropped_and_counted():
    """One such row among thousands stopped a run, and on_bad_record could not help."""
    asked = records.Record((QUESTION,), "t", 0, answer="checked otherwise")
    for layout in ("decoder", "encoder_decoder"):
        assert made(asked, layout=layout).counts == {"dropped": 1, "dropped: no answer": 1}
    rows = [asked, records.Record((QUESTION, records.Message("assistant", "a")))]
    batch = preprocess.batch(rows, BYTES, templates.get("lines"), policies.Options("decoder"))
    assert [len(one.units) for one in batch] == [0, 1]


def test_a_plain_text_needs_another_objective():
    text = records.Record((records.Message("text", "Once upon a time."),), "t", 3)
    with pytest.raises(errors.DataError, match=r"plain text.*t\[3\]; set Data.objective"):
        made(text)
    assert made(text, objective="language_model").counts["kept"] == 1
