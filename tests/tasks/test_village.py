import collections
import hashlib
import importlib.util
import json
import pathlib
import re

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft.tasks import village_templates, village_words, village_world

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tasks" / "village" / "vocab.model"
TEMPLATES = village_templates.TEMPLATES
HELD_OUT = village_templates.HELD_OUT_TEMPLATES
TASKS = [task for tasks in village_world.CLUSTERS.values() for task in tasks]
TRAINED = [t for t in TASKS if t not in village_world.CLUSTERS[village_world.HELD_OUT_CLUSTER]]
# Of the first 50 train examples of every task: a change here changes every measured figure.
EXAMPLES_SHA256 = "79d7357a24e22f841c4d62a9fb97ca63f67b30570d2868351057ab5a80656446"
PLAIN_SHA256 = "09fa7bae80af1e66f9661637751ca8690a73efcdeb48abbc3463b06d6e0b6230"


@pytest.fixture(scope="module")
def vocabulary():
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


@pytest.fixture(scope="module")
def splits():
    """The promised number of examples of every task and split."""
    return {
        task: {
            "train": village_world.examples(task, "train", 2_000),
            "validation": village_world.examples(task, "validation", 100),
        }
        for task in TASKS
    }


@pytest.fixture(scope="module")
def documents():
    return village_world.plain_text(1_500, seed=0)


def rendered(task, drawn):
    """Renders example i with wording i modulo 10."""
    templates = TEMPLATES[task]
    for index, fields in enumerate(drawn):
        inputs, targets = templates[index % len(templates)]
        yield (
            village_templates.render(inputs, fields),
            village_templates.render(targets, fields),
        )


def sha256(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


# ---- tasks and wordings


def test_has_the_promised_clusters_and_tasks():
    assert len(TASKS) == len(set(TASKS))
    assert len(TRAINED) >= 18
    assert len(village_world.CLUSTERS) - 1 >= 6
    assert len(village_world.CLUSTERS[village_world.HELD_OUT_CLUSTER]) == 2


def test_every_task_has_ten_different_wordings():
    assert set(TEMPLATES) == set(TASKS)
    assert HELD_OUT == 2
    assert all(len(templates) == 10 for templates in TEMPLATES.values())
    wordings = [plainly(inputs) for templates in TEMPLATES.values() for inputs, _ in templates]
    assert not [w for w, n in collections.Counter(wordings).items() if n > 1]


def plainly(pattern):
    """Lower-cases a wording and takes out punctuation; names of fields stay."""
    return " ".join(re.findall(r"[a-z0-9_+=]+", pattern.lower()))


def test_held_out_wordings_are_made_of_words_of_trained_wordings():
    def words_of(patterns):
        text = " ".join(re.sub(r"\{[a-z_]+\}", " ", pattern) for pattern, _ in patterns)
        return set(re.findall(r"[a-z]+", text.lower()))

    trained = set().union(*(words_of(TEMPLATES[task][:-HELD_OUT]) for task in TRAINED))
    for task in TRAINED:
        assert words_of(TEMPLATES[task][-HELD_OUT:]) <= trained, task


def test_every_field_of_a_wording_is_given_and_every_field_given_is_used(splits):
    for task in TASKS:
        given_fields = set(splits[task]["train"][0])
        used = set()
        for inputs, targets in TEMPLATES[task]:
            fields = village_templates.fields_of(inputs)
            assert len(fields) == len(set(fields)), inputs
            assert village_templates.fields_of(targets) == ["answer"]
            used |= {*fields, "answer"}
        assert used == given_fields, task


def test_wordings_with_options_show_them_all(splits):
    for task in TASKS:
        for drawn in splits[task]["train"][:10]:
            if "options_" not in drawn:
                continue
            options = [line[2:] for line in drawn["options_"].splitlines()[1:]]
            assert drawn["answer"] in options
            assert re.split(r", | or ", drawn["choices"]) == options
            for inputs, _ in TEMPLATES[task]:
                text = village_templates.render(inputs, drawn)
                assert all(option in text for option in options), (inputs, options)


def test_render_leaves_braces_of_content_alone():
    got = village_templates.render("{first} and {second}", {"first": "{second}", "second": "{}"})
    assert got == "{second} and {}"


def test_render_names_the_missing_field():
    with pytest.raises(ValueError, match=r"needs second; given: first"):
        village_templates.render("{first} and {second}", {"first": "a"})


# ---- examples


def test_no_example_comes_twice_or_in_both_splits(splits):
    for task in TASKS:
        first_wording = TEMPLATES[task][0][0]
        texts = [
            village_templates.render(first_wording, fields)
            for split in village_world.SPLITS
            for fields in splits[task][split]
        ]
        assert len(set(texts)) == 2_100, task


def test_answers_of_tasks_with_options_are_balanced(splits):
    for task in TASKS:
        for drawn in splits[task].values():
            if "options_" not in drawn[0]:
                continue
            (_, most), *_ = collections.Counter(e["answer"] for e in drawn).most_common(1)
            first = sum(e["options_"].splitlines()[1] == f"- {e['answer']}" for e in drawn)
            assert most <= 0.55 * len(drawn), task
            assert first <= 0.65 * len(drawn), f"{task}: the first option is too often right"


def test_neither_template_nor_place_tells_the_answer(splits):
    """Whoever gives example i the template i modulo 10 must get both answers with each."""
    for task in ("mention", "boolean_question", "compare_amounts", "sentiment", "entailment"):
        for number in range(10):
            answers = [fields["answer"] for fields in splits[task]["train"][number::10]]
            (_, most), *_ = collections.Counter(answers).most_common(1)
            assert most <= 0.65 * len(answers), (task, number)


def test_more_examples_only_add_at_the_end():
    few = village_world.examples("sort_numbers", "validation", 10)
    assert village_world.examples("sort_numbers", "validation", 20)[:10] == few


def test_examples_are_these_for_ever(splits):
    assert sha256({task: splits[task]["train"][:50] for task in TASKS}) == EXAMPLES_SHA256


def test_says_what_it_does_not_have():
    with pytest.raises(ValueError, match=r"unknown task 'sing': expected one of sentiment, topic"):
        village_world.examples("sing", "train", 1)
    with pytest.raises(ValueError, match=r"unknown split 'test': expected train or validation"):
        village_world.examples("topic", "test", 1)


def test_plain_fields_hold_no_braces(splits):
    for task in TASKS:
        for inputs, targets in rendered(task, splits[task]["train"][:200]):
            assert "{" not in inputs and "}" not in inputs
            assert task == "json_line" or "{" not in targets


def test_no_sentence_belongs_to_two_topics():
    patterns = [pattern for group in village_words.TOPICS.values() for pattern in group]
    assert len(patterns) == len(set(patterns)) == 30


# ---- plain text


def test_plain_text_is_this_for_ever(documents):
    assert sha256(documents[:50]) == PLAIN_SHA256
    assert village_world.plain_text(5, seed=0) == documents[:5]
    assert village_world.plain_text(5, seed=1) != documents[:5]
    assert len(set(documents)) == len(documents)


def test_plain_text_holds_no_wording_of_an_instruction(documents):
    text = "\n".join(documents).lower()
    assert "?" not in text
    for templates in TEMPLATES.values():
        for inputs, _ in templates:
            for literal in re.split(r"\{[a-z_]+\}", inputs):
                if len(re.findall(r"[a-z]+", literal.lower())) >= 4:
                    assert literal.strip().lower() not in text


def test_plain_text_holds_no_rendered_instruction(splits, documents):
    text = "\n".join(documents)
    for task in TASKS:
        for inputs, _ in rendered(task, splits[task]["validation"]):
            assert inputs not in text


# ---- vocabulary


def test_lengths_are_short(vocabulary, splits, documents):
    lengths = [
        (len(vocabulary.encode(inputs)), len(vocabulary.encode(targets)))
        for task in TASKS
        for inputs, targets in rendered(task, splits[task]["train"][:200])
    ]
    inputs, targets = (sorted(column) for column in zip(*lengths, strict=True))
    assert inputs[int(0.99 * len(inputs))] <= 60 and inputs[-1] <= 90
    assert targets[-1] <= 24
    plain = [len(vocabulary.encode(document)) for document in documents]
    assert 20 <= min(plain) and max(plain) <= 110


def test_special_tokens_are_where_t5sft_looks_for_them(vocabulary):
    assert vocabulary.get_piece_size() <= 2048
    assert [vocabulary.id_to_piece(i) for i in (1, 3)] == ["</s>", "<s>"]
    assert (vocabulary.pad_id(), vocabulary.unk_id()) == (0, 2)
    sentinels = [vocabulary.piece_to_id(f"<extra_id_{i}>") for i in range(32)]
    assert all(vocabulary.is_control(i) for i in sentinels)
    assert len(set(sentinels)) == 32


def test_spelled_control_tokens_stay_text(vocabulary):
    text = "<extra_id_0> </s> <s> <pad> <unk> <0x41>"
    ids = vocabulary.encode(text)
    assert not any(vocabulary.is_control(i) or vocabulary.is_unknown(i) for i in ids)
    assert vocabulary.decode(ids) == text


def test_words_are_one_piece_at_a_start_and_after_a_space(vocabulary, splits, documents):
    texts = [inputs for t in TASKS for inputs, _ in rendered(t, splits[t]["validation"])]
    known = {word for text in texts + documents for word in re.findall(r"[A-Za-z]+", text)}
    split = [
        word for word in known for form in (word, f" {word}") if len(vocabulary.encode(form)) > 1
    ]
    assert len(split) <= 0.01 * len(known), split


# U+2581 is SentencePiece's own sign for a space and comes back as one.
@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"))
    | st.text(" \n\t\r.-ab😀é", max_size=30)
)
def test_text_comes_back_as_it_was(vocabulary, text):
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_the_script_makes_the_shipped_model():
    if sentencepiece.__version__ != "0.2.3":
        pytest.skip("vocab.model was trained with sentencepiece 0.2.3")
    spec = importlib.util.spec_from_file_location("train_vocab", ROOT / "scripts/train_vocab.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert hashlib.sha256(script.train()).digest() == hashlib.sha256(MODEL.read_bytes()).digest()
