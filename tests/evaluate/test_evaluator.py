"""What SeqIO's evaluator says of answers is what scoring them directly says."""

import dataclasses
import json

import pytest

from t5sft import errors
from t5sft.data import define, prepare, preprocess, sources, templates, vocab
from t5sft.data.preparing import parts
from t5sft.evaluate import answering, evaluator, run, scores
from t5sft.generate import decode
from t5sft.models import decoder, t5

BYTES = vocab.load("bytes")
DATA = prepare.Data(task="toy", vocabulary="bytes", modules=("toy_task",), template="lines")
SIZES = dict(vocab_size=292, emb_dim=16, mlp_dim=16, num_heads=2, head_dim=8)
T5 = t5.T5(num_encoder_layers=1, num_decoder_layers=1, **SIZES)
DECODER = decoder.Decoder(num_layers=1, num_kv_heads=1, **SIZES)


@pytest.fixture(scope="module", autouse=True)
def tasks():
    prepare.register(DATA)


def ready(layout="decoder", batch_size=4):
    model = DECODER if layout == "decoder" else T5
    template = templates.get(DATA.template)
    return answering.Ready(model, None, BYTES, template, batch_size=batch_size)


def questions(layout, task, **options):
    return evaluator.questions(DATA, ready(layout), task, "validation", **options)


@pytest.fixture(scope="module")
def asked(tasks):
    return questions("decoder", "toy")


def replying(texts, finished=True):
    return [answering.Reply(BYTES.encode_with_offsets(t)[0], t, finished) for t in texts]


def answering_by(asked, texts, finished=True):
    """Functions of a model that looks the prompt up; `texts`: [text of task 0, text 1, ...]."""
    prompts = [tuple(prompt) for task in asked for prompt in task.prompts]
    known = dict(zip(prompts, texts, strict=True))
    assert len(known) == len(prompts)

    def generate(prompts):
        return replying([known[tuple(prompt)] for prompt in prompts], finished)

    return evaluator.Functions(generate, None, None)


def expected(asked):
    return [answer for task in asked for answer in task.answers]


@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
def test_questions_are_the_prompts_of_training_in_order(layout):
    asked = questions(layout, "toy")
    assert [task.task for task in asked] == ["toy_copy", "toy_reverse"]
    for task in asked:
        read = [record for _, record in define.read_records(task.task, "validation")]
        assert task.answers == [record.messages[-1].content for record in read]
        assert task.texts == [record.messages[0].content for record in read]
        for prompt, record in zip(task.prompts, read, strict=True):
            template = templates.get(DATA.template)
            options = parts.options(DATA, layout)
            made = preprocess.examples(record, vocab.load(DATA.vocabulary), template, options)
            example = made.units[0][0]
            trained = example.inputs if layout == "encoder_decoder" else example.targets
            assert prompt == list(trained.ids[: len(prompt)])
            assert not any(trained.weights[: len(prompt)])


def test_at_most_so_many_questions_are_asked():
    asked = questions("decoder", "toy", num_examples=2)
    assert [len(task.prompts) for task in asked] == [2, 2]


WAYS = {
    "perfect": lambda i, text: text,
    "wrong": lambda i, text: text + "!",
    "half right": lambda i, text: text if i % 2 else text[:-1],
    "empty": lambda i, text: "",
    "padded with blanks": lambda i, text: f" {text}\n",
    "one right, long": lambda i, text: text if i == 3 else "\u00e4" * 40,
}


@pytest.mark.parametrize("way", WAYS)
def test_scores_equal_direct_scoring(asked, way):
    texts = [WAYS[way](i, text) for i, text in enumerate(expected(asked))]
    got = evaluator.answer(answering_by(asked, texts), asked, BYTES, "validation")
    assert list(got) == ["toy_copy", "toy_reverse"]
    first = 0
    for task in asked:
        mine = texts[first : first + len(task.answers)]
        first += len(mine)
        assert got[task.task].predictions == mine
        assert got[task.task].metrics == scores.exact_match(task.answers, mine)
        assert got[task.task].num_unfinished == 0
    if way in ("perfect", "half right"):
        share = {"perfect": 1.0, "half right": 0.5}[way]
        assert got["toy_copy"].metrics == {"exact_match": share}


def test_unfinished_answers_are_counted(asked):
    generate = answering_by(asked, expected(asked), finished=False)
    got = evaluator.answer(generate, asked, BYTES, "validation")
    assert [one.num_unfinished for one in got.values()] == [6, 6]


def test_all_tasks_are_answered_in_one_go(asked):
    calls = []
    model = answering_by(asked, expected(asked))
    counting = model._replace(generate=lambda p: calls.append(len(p)) or model.generate(p))
    evaluator.answer(counting, asked, BYTES, "validation")
    assert calls == [12]


def test_a_task_keeps_its_own_metric_and_postprocessing():
    rows = [{"inputs": f"{i}+1", "targets": f"the sum is {i + 1}"} for i in range(4)]

    def mean_error(targets, predictions):
        pairs = zip(targets, predictions, strict=True)
        return {"mean_error": sum(abs(a - b) for a, b in pairs) / len(targets)}

    define.add_task(
        "toy_sum",
        sources.rows(lambda split: rows, ("validation",)),
        metric_fns=[mean_error],
        postprocess_fn=lambda text, **_: int(text.split()[-1]),
        replace=True,
    )
    asked = questions("decoder", "toy_sum")
    texts = ["1", "it is 2", "the sum is 3", "6"]
    got = evaluator.answer(answering_by(asked, texts), asked, BYTES, "validation")
    assert got["toy_sum"].metrics == {"mean_error": 0.5}


def test_records_without_answer_are_not_asked(tmp_path):
    rows = [{"inputs": "a", "targets": "b"}, {"inputs": "c", "targets": " "}]
    file = tmp_path / "rows.json"

    def ask(rows):
        file.write_text(json.dumps([{**row, "split": "validation"} for row in rows]))
        data = dataclasses.replace(DATA, task="toy_file", data=str(file))
        prepare.register(data)
        return evaluator.questions(data, ready(), "toy_file", "validation")

    assert ask(rows)[0].answers == ["b"]
    with pytest.raises(errors.DataError, match="no example to evaluate; task 'toy_file'"):
        ask(rows[1:])


@pytest.fixture
def fake(monkeypatch):
    """A model whose parameters say what it answers: "copy" repeats the word it was given."""
    calls = []

    def generate(model, params, prompts, *, max_new_tokens, eos_id, start_id, batch_size, **where):
        calls.append((params, len(prompts), max_new_tokens))
        out = []
        for ids in prompts:
            assert (ids[0] == BYTES.bos_id) == (model.layout == "decoder")
            word = BYTES.decode(ids).split()[-1] if params == "copy" else "?"
            tokens = BYTES.encode_with_offsets(word)[0]
            out.append(decode.Generated(tokens[:max_new_tokens], len(tokens) <= max_new_tokens))
        return out

    monkeypatch.setattr(decode, "generate", generate)
    monkeypatch.setattr(run.start, "load", lambda path, *_: str(path))
    monkeypatch.setattr(run.opening.layouts, "laid_out", lambda _, params: params)
    monkeypatch.setattr(run.start, "find", lambda *_: None)
    return calls


def test_suites_are_averaged_over_their_tasks_before_and_after(fake, tmp_path, monkeypatch):
    """Copying is right for toy_copy, and for toy_reverse where a word reads the same backwards."""
    monkeypatch.chdir(tmp_path)  # the "path" of the parameters is what the model does
    result = run.evaluate(
        model=T5,
        data=DATA,
        model_dir="copy",
        init_from="guess",
        compare=True,
        suites=[("both", "toy"), ("single", "toy_copy")],
        num_examples=5,
        max_new_tokens=30,
    )
    assert result["after"] == {"both": 0.5, "single": 1.0}
    assert result["before"] == {"both": 0.0, "single": 0.0}
    assert result["tasks"]["toy_copy"]["both"] == {
        "before": 0.0, "after": 1.0, "n": 5, "unfinished": 0,
    }  # fmt: skip
    assert result["tasks"]["toy_reverse"]["both"]["after"] == 0.0
    assert sorted(fake) == [
        ("copy", 5, 30), ("copy", 10, 30), ("guess", 5, 30), ("guess", 10, 30),
    ]  # fmt: skip
    assert json.loads((tmp_path / "copy" / "result.json").read_text()) == result


def test_unfinished_answers_are_in_the_result(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run.evaluate(
        model=DECODER, data=DATA, model_dir="copy", task="toy_copy", max_new_tokens=3
    )
    lengths = [len(a) for a in questions("decoder", "toy_copy")[0].answers]
    assert result["tasks"]["toy_copy"]["toy_copy"]["unfinished"] == sum(n > 3 for n in lengths)
