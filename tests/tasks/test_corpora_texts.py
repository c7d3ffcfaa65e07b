"""What the samples of the public data become, in full."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from t5sft import errors
from t5sft.data import corpora, define, prepare, records, sources
from t5sft.data.records import Message
from t5sft.tasks import (
    conversations,
    flan,
    flan2022,
    flan_cot,
    flan_cot_templates,
    gsm8k,
    natural_instructions,
    preferences,
    promptsource,
    super_natural_instructions,
    t0,
    tulu3,
)

SAMPLES = pathlib.Path(__file__).parent / "samples"


@pytest.fixture(autouse=True)
def samples(monkeypatch):
    monkeypatch.setenv("T5SFT_DATA", str(SAMPLES))


def made(task, split="train"):
    return list(sources.load_seqio().TaskRegistry.get(task).source.make_records(split))


def pair(record):
    question, answer = record.messages
    assert (question.role, answer.role) == ("user", "assistant")
    return question.content, answer.content


def register(module, task):
    module.register(prepare.Data(task=task, vocabulary="bytes"))


# ---- GSM8K, T0, Tulu 3, preferences


def test_gsm8k_loses_its_marks_and_keeps_its_number():
    assert gsm8k.CORPUS.folder == "gsm8k"
    second = made("gsm8k")[1]
    assert pair(second) == (
        "A ship of 1,200 tons loads 50. How heavy is it?",
        "1,200 + 50 = 1,250 tons.\n#### 1,250",
    )
    assert second.answer == "1250"
    assert pair(made("gsm8k_annotated")[1])[1].startswith("1,200 + 50 = <<1200+50=1250>>1,250")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,000", "1000"),
        ("x\n#### -3.5.", "-3.5"),
        ("#### 1\nor\n#### 2", "2"),
        ("12", ""),
        ("#### x", ""),
    ],
)
def test_the_number_that_is_compared(text, number):
    assert gsm8k.final_number(text) == number


def test_t0_loses_end_marks_and_white_space():
    assert t0.END == "<|endoftext|>"
    got = [x for x in made("t0") if isinstance(x, records.Record)]
    assert [pair(x) for x in got] == [
        ("Is ice cold?", "yes"),
        ("Is fire cold?", "no"),
        ("Is tea hot?", "yes"),
    ]
    assert [dict(x.metadata) for x in got] == [{"template": "ice_cold"}] * 2 + [{}]


def test_tulu3_knows_its_sources():
    assert sum(size for _, size in tulu3.SOURCES.values()) == 939_344
    assert len(tulu3.SOURCES) == 19
    (got,) = made("tulu3_no_robots")
    assert [(m.role, m.content) for m in got.messages] == [
        ("system", "Be brief."),
        ("user", "Name a tree."),
        ("assistant", "Oak."),
    ]
    rates = define.rates("tulu3_sources")
    assert rates["tulu3_aya"] / rates["tulu3_sciriff"] == 10


def test_arguments_are_candidates_of_one_prompt():
    (got,) = made("ukp_arguments")
    assert got.messages == (
        Message(
            "user",
            "The debate is about: school uniforms.\nArgue convincingly for this side: in favour.",
        ),
    )
    assert [(c.messages[0].content, c.label) for c in got.candidates] == [
        ("Uniforms make pupils equal: nobody is told by clothes.", 1.0),
        ("They are nice.", 0.0),
    ]


def test_equal_arguments_are_no_pair():
    row = {"topic": "a", "stance": "b", "chosen": "Same.", "rejected": " Same."}
    got = preferences.read_arguments(row, "here", 0)
    assert isinstance(got, records.Dropped) and str(got) == "equal candidates"


def test_a_conversation_mended_by_joining_turns_is_dropped():
    record = records.Record((), metadata={"mended": "turns joined"})
    assert str(conversations.clean(record)) == "turns do not alternate"
    assert conversations.clean(records.Record(())) == records.Record(())


# ---- Natural Instructions


def test_tk_instructs_encoding():
    text, answer = pair(made("super_natural_instructions")[1])
    assert text == (
        "Definition: Add the two numbers.\n\n"
        " Positive Example 1 -\nInput: 1 2.\n Output: 3.\n\n"
        " Positive Example 2 -\nInput: 5 5.\n Output: 10.\n\n"
        "Now complete the following example -\nInput: 7 1.\nOutput:"
    )
    assert answer == "8"


def test_definition_alone_and_version_1():
    (got,) = made("super_natural_instructions_definition", "test")
    assert pair(got) == (
        "Definition: Give the last letter of the word.\n\n"
        "Now complete the following example -\nInput: elm.\nOutput:",
        "m",
    )
    assert pair(made("natural_instructions_v1")[0]) == (
        "Definition: Name the colour of the thing.\n\n"
        " Positive Example 1 -\nInput: snow.\n Output: white.\n\n"
        "Now complete the following example -\nInput: grass.\nOutput:",
        "green",
    )


ROW = {
    "Definition": ["Do it!"],
    "Positive Examples": [{"input": "a", "output": "b", "explanation": "It follows"}] * 3,
    "Negative Examples": [{"input": "a?", "output": "c", "explanation": ""}],
    "input": "x",
    "output": ["y", "z"],
}


def encoded(**encoding):
    return natural_instructions.prompt(ROW, natural_instructions.Encoding(**encoding))


def test_explanations_and_negative_examples():
    assert encoded(num_positive=1, num_negative=5, explanations=True) == (
        "Definition: Do it!\n\n"
        " Positive Example 1 -\nInput: a.\n Output: b.\n Explanation: It follows.\n\n"
        " Negative Example 1 -\nInput: a?\n Output: c.\n\n"
        "Now complete the following example -\nInput: x.\nOutput:"
    )


@pytest.mark.parametrize("kept", range(4))
def test_examples_are_pruned_to_the_length(kept):
    """One character less than the text with one example more keeps one less."""
    full = encoded(num_positive=kept)
    assert encoded(num_positive=3, max_length=len(full)) == full
    if kept:
        assert encoded(num_positive=3, max_length=len(full) - 1) == encoded(num_positive=kept - 1)


def test_the_reference_is_drawn_by_task_and_index():
    def outputs(task, seed=0):
        return [
            natural_instructions.read(ROW, where="w", task=task, index=i, seed=seed).messages[1]
            for i in range(60)
        ]

    assert outputs("t") == outputs("t") != outputs("t", seed=1)
    assert {m.content for m in outputs("t")} == {"y", "z"}


def test_a_listed_task_without_a_file_is_an_error(tmp_path, monkeypatch):
    folder = tmp_path / "super_natural_instructions"
    (folder / "tasks").mkdir(parents=True)
    (folder / "splits" / "default").mkdir(parents=True)
    (folder / "splits" / "default" / "train_tasks.txt").write_text("task001_ad\n")
    (folder / "tasks" / "task001_add.json").write_text("{}")
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path))
    message = (
        r"no file of the task 'task001_ad' \(did you mean 'task001_add'\?\); .*train_tasks.txt"
    )
    with pytest.raises(errors.DataError, match=message):
        super_natural_instructions.paths("train")


# ---- FLAN


def test_chain_of_thought_few_shot_and_inverted():
    assert pair(made("cot_gsm8k_few_shot")[1]) == (
        "Ada has 3 pears and gets 4 more. How many has she?\n"
        "Think step by step, then give the answer.\n3 and 4 make 7.\nThe answer is 7.\n\n\n"
        "A boat has 2 oars. How many have 3 boats?\n"
        "Think step by step, then give the answer.\n3 times 2 is 6.\nThe answer is 6.\n\n\n"
        "Ben has 9 nuts and eats 2. How many has he?\n"
        "Think step by step, then give the answer.\n",
        "9 less 2 is 7.\nThe answer is 7.",
    )
    assert pair(made("cot_aqua_inversion")[0]) == (
        "Reasoning: 4 is 2 times 2.\nSo 4 is even.\nAnswer: (B)\nWhich question was asked?",
        "Which is even?\nOptions:\n(A) 3\n(B) 4",
    )


def test_chain_of_thought_has_ten_wordings_and_mixes_inversions_at_three_tenths():
    assert len({p.inputs for p in flan_cot_templates.PATTERNS}) == 10
    assert sum(flan_cot.SIZES.values()) == 33_443
    rates = define.rates("flan_cot")
    plain = sum(rate for task, rate in rates.items() if not task.endswith("_inversion"))
    assert sum(rates.values()) == pytest.approx(1.3 * plain)


FLAN = {
    ("", "train", 1): (
        "Text: Ada keeps 3 hens.\nClaim: Ada keeps 4 hens.\nOPTIONS:\n- yes\n- no",
        "no",
        {"template": "1", "options": "dash"},
    ),
    ("_zs_opt", "train", 0): (
        "Ada keeps 2 hens.\nPick one: Ada keeps 2 hens.\nOPTIONS:\n(A) yes\n(B) no",
        "(A)",
        {"template": "0", "options": "letters"},
    ),
    ("_zs_noopt", "train", 0): (
        "Ada keeps 2 hens.\n\nDoes it follow that Ada keeps 2 hens.",
        "yes",
        {"template": "0"},
    ),
    ("_fs_opt", "train", 1): (
        "Q: Ada keeps 2 hens. -> Ada keeps 2 hens.\n"
        "Answers to choose from:\n* yes\n* no\nA: yes\n\n"
        "Q: Ada keeps 5 hens. -> Ada keeps 5 hens.\n"
        "Answers to choose from:\n* yes\n* no\nA: yes\n\n"
        "Q: Ada keeps 3 hens. -> Ada keeps 4 hens.\n"
        "Answers to choose from:\n* yes\n* no\nA:",
        "no",
        {"template": "0", "options": "star", "shots": "2"},
    ),
    ("_fs_noopt", "validation", 0): (
        "Q: Ada keeps 5 hens. -> Ada keeps 5 hens.\nA: yes\n\n"
        "Q: Ada keeps 2 hens. -> Ada keeps 2 hens.\nA: yes\n\n"
        "Q: Ada keeps 3 hens. -> Ada keeps 4 hens.\nA: no\n\n"
        "Q: Ben sells nuts. -> Ben sells bread.\nA:",
        "no",
        {"template": "0", "shots": "3"},
    ),
    ("_seen", "train", 2): (
        "Ada keeps 5 hens.\n\nDoes it follow that Ada keeps 5 hens.\n\nOPTIONS:\n- yes\n- no",
        "yes",
        {"template": "0", "options": "dash"},
    ),
    ("_unseen", "validation", 0): (
        "Text: Ben sells nuts.\nClaim: Ben sells bread.\nOPTIONS:\n- yes\n- no",
        "no",
        {"template": "1", "options": "dash"},
    ),
}


@pytest.mark.parametrize(("style", "split", "index"), FLAN)
def test_flans_styles(style, split, index):
    got = made(f"flan_rte{style}", split)[index]
    text, answer, metadata = FLAN[style, split, index]
    assert pair(got) == (text, answer)
    assert got.metadata == {**metadata, "task": "rte", "cluster": "entailment"}


def test_flans_mixtures_are_of_what_is_there(capsys):
    register(flan, "flan")
    assert "flan: 3 of FLAN's 69 tasks have rows" in capsys.readouterr().err
    assert define.rates("flan") == {"flan_rte": 3, "flan_paws_wiki": 2, "flan_trivia_qa": 4}
    assert set(define.rates("flan_held_out_paraphrase")) == {"flan_trivia_qa"}  # no entailment
    assert set(define.rates("flan_held_out_paraphrase_eval")) == {"flan_paws_wiki"}
    assert set(define.rates("flan_held_out_superglue_eval")) == {"flan_rte"}
    submix = define.rates("flan2021_submix")
    assert submix["flan_rte_zs_opt"] == submix["flan_rte_fs_noopt"] == pytest.approx(3 / 9)


def test_flan_refuses_what_it_does_not_know(tmp_path, monkeypatch):
    with pytest.raises(errors.DataError, match="no data of flan; .*rows/coqa/train"):
        register(flan, "flan_held_out_conversational_qa_eval")
    (tmp_path / "flan" / "rows" / "rt").mkdir(parents=True)
    (tmp_path / "flan" / "rows" / "rt" / "train.jsonl").write_text("{}")
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path))
    with pytest.raises(errors.DataError, match="no data of flan; looked for .*; write the rows"):
        monkeypatch.setenv("T5SFT_DATA", str(tmp_path / "nothing"))
        register(flan, "flan2021_submix")
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path))
    with pytest.raises(errors.DataError, match="unknown task 'rt' \\(did you mean 'rte'"):
        register(flan, "flan")


def test_flan_v2_falls_back_to_the_templates_of_2021(tmp_path, monkeypatch):
    (tmp_path / "flan").symlink_to(SAMPLES / "flan")
    assert flan.template_file("_zs_opt").parent.name == "v2"
    assert flan.template_file("_zs_noopt") == SAMPLES / "flan" / "templates.py"
    copy = tmp_path / "data" / "flan"
    copy.mkdir(parents=True)
    (copy / "templates.py").write_text((SAMPLES / "flan" / "templates.py").read_text())
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path / "data"))
    assert flan.template_file("_fs_opt") == copy / "templates.py"
    assert len(flan.templates("rte", "_fs_opt")) == 3


def test_flan2022_weighs_its_submixes():
    register(flan2022, "flan2022")
    rates = define.rates("flan2022")
    of = {"t0": 0.32, "flan_": 0.40, "cot_": 0.05, "super_": 0.20}
    for start, weight in of.items():
        got = sum(rate for task, rate in rates.items() if task.startswith(start))
        assert got == pytest.approx(weight)
    assert sum(rates.values()) == pytest.approx(0.97)


# ---- promptsource


def test_promptsource_makes_a_task_of_every_template():
    register(promptsource, "promptsource")
    first, second = made("promptsource_trees_Is_it_evergreen_")
    assert pair(first) == ("Oak: is it evergreen?", "no")
    assert pair(second) == ("Fir: is it evergreen?", "yes")
    assert [pair(x) for x in made("promptsource_trees_name_it")] == [
        ("Name a leafy tree.", "Oak"),
        ("Name an evergreen tree.", "Fir"),
    ]
    assert set(define.rates("promptsource_original")) == {"promptsource_trees_Is_it_evergreen_"}
    assert define.rates("promptsource")["promptsource_trees_name_it"] == 2.0


def test_a_template_with_choices_is_ranked_as_t0_is_evaluated():
    """Every row with each of its choices; the right one is marked."""
    register(promptsource, "promptsource")
    rows = made("promptsource_trees_Is_it_evergreen__score_eval")
    told = [(*pair(row), row.metadata["question"], row.metadata["is_right"]) for row in rows]
    assert told == [
        ("Oak: is it evergreen?", "no", "0", "1"),
        ("Oak: is it evergreen?", "yes", "0", "0"),
        ("Fir: is it evergreen?", "no", "1", "0"),
        ("Fir: is it evergreen?", "yes", "1", "1"),
    ]


def test_flan_ranks_every_row_under_every_template():
    rows = made("flan_rte_rank", "validation")
    plain = flan.rows("rte", "validation", flan.templates("rte", ""))
    templates = flan.templates("rte", "")
    asking = [str(i) for i, one in enumerate(templates) if one.targets.strip() == "{answer}"]
    assert 1 < len(asking) < len(templates)
    assert len(rows) == sum(len(row["options"]) for row in plain) * len(asking)
    assert {row.metadata["template"] for row in rows} == set(asking)
    for row in rows:
        source = plain[int(row.metadata["question"])]
        assert pair(row)[1] in source["options"]
    right = [row for row in rows if row.metadata["is_right"] == "1"]
    assert len(right) == len(plain) * len(asking)


# ---- Bad rows of tasks that read rows before they make records


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("flan_rte", "flan/rows/rte/train.jsonl"),
        ("flan_rte_fs_opt", "flan/rows/rte/train.jsonl"),
        ("cot_gsm8k", "flan_cot/gsm8k_train.tsv"),
        ("promptsource_trees_name_it", "promptsource/trees/train.jsonl"),
        ("super_natural_instructions", "super_natural_instructions/tasks/task001_add.json"),
    ],
)
def test_bad_rows_are_counted_in_the_card(task, file, tmp_path, monkeypatch):
    """They were kept aside, and the card told nothing of them."""
    shutil.copytree(SAMPLES, tmp_path / "data")
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(corpora, "_RUN", dict(corpora._RUN))
    path = tmp_path / "data" / file
    before = len(made(task))
    if path.suffix == ".json":
        whole = json.loads(path.read_text())
        path.write_text(json.dumps({**whole, "Instances": [1, *whole["Instances"]]}))
    else:
        path.write_text('{"a": NaN}\n' + path.read_text())
    data = prepare.Data(
        task=task, vocabulary="bytes", cache_dir=str(tmp_path), on_bad_record="skip"
    )
    corpora.follow(data)
    got = made(task)
    assert len(got) == before + 1
    assert str(got[-1]).startswith("bad row: ")
    corpora.follow(dataclasses.replace(data, on_bad_record="error"))
    with pytest.raises(errors.DataError, match=str(path)):
        made(task)
