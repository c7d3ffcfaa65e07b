import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.data import records
from t5sft.data.flan import render, shots
from t5sft.data.flan.patterns import Pattern
from t5sft.data.flan.render import Style

ROWS = [
    {"fact": f"Stone {i} weighs {i} pounds.", "claim": f"Stone {i} is heavy.", "answer": answer}
    | {"options": ["yes", "no"]}
    for i, answer in enumerate(["no", "no", "yes", "yes", "no", "yes"])
]
PATTERNS = [
    Pattern("{fact}\nIs this right? {claim}\n{options_}", "{answer}"),
    Pattern(
        "{fact}\n{claim}\n{options_}",
        "{answer}",
        inputs_prefix="Q: ",
        targets_prefix="A: ",
        x_y_delimiter="\n",
        example_separator="\n\n",
    ),
    Pattern("Make up a claim about: {fact}", "{claim}"),
]


def written(style, rows=ROWS, task="heavy", **kwargs):
    return list(render.render(task, rows, PATTERNS, style, **kwargs))


def test_zero_shot_in_full():
    first, second, third, *_ = written(Style(options="letters"))
    assert first == (
        "Stone 0 weighs 0 pounds.\nIs this right? Stone 0 is heavy.\nOPTIONS:\n(A) yes\n(B) no",
        "(B)",
        {"template": "0", "options": "letters"},
    )
    assert second == (
        "Stone 1 weighs 1 pounds.\nStone 1 is heavy.\nOPTIONS:\n(A) yes\n(B) no",
        "(B)",
        {"template": "1", "options": "letters"},
    )
    assert third == (  # shows no options: no letter, and no options in its metadata
        "Make up a claim about: Stone 2 weighs 2 pounds.",
        "Stone 2 is heavy.",
        {"template": "2"},
    )


def test_without_options_the_answer_stays_text():
    first, *_ = written(Style(options="none"))
    assert first == (
        "Stone 0 weighs 0 pounds.\nIs this right? Stone 0 is heavy.",
        "no",
        {"template": "0"},
    )


def test_few_shot_in_full():
    got = written(Style(options="numbers", shots=2))[1]
    assert got.inputs == (
        "Q: Stone 2 weighs 2 pounds.\nStone 2 is heavy.\nChoices:\n1. yes\n2. no\nA: 1.\n\n"
        "Q: Stone 3 weighs 3 pounds.\nStone 3 is heavy.\nChoices:\n1. yes\n2. no\nA: 1.\n\n"
        "Q: Stone 1 weighs 1 pounds.\nStone 1 is heavy.\nChoices:\n1. yes\n2. no\nA:"
    )
    assert got.targets == "2."
    assert got.metadata == {"template": "1", "options": "numbers", "shots": "2"}


def test_text_around_all_exemplars():
    pattern = Pattern(
        "{claim}",
        "{answer}",
        final_suffix=" !",
        input_pattern="Task: {{fact}}\n{{inputs}}{final_suffix}",
    )
    (got, *_) = render.render("t", ROWS[:2], [pattern], Style(shots=1))
    assert got.inputs == (
        "Task: Stone 0 weighs 0 pounds.\nStone 1 is heavy.\n\nno\n\n\nStone 0 is heavy.\n\n !"
    )


@pytest.mark.parametrize(
    "style",
    [
        Style(),
        Style(choose="hash", options="random", seed=5),
        Style(shots=3, options="random"),
        Style(shots="x", choose="hash"),
    ],
)
def test_other_tasks_and_their_order_change_nothing(style):
    tasks = {
        name: [{**row, "claim": f"{name} {row['claim']}"} for row in ROWS] for name in "abcdef"
    }
    alone = {name: written(style, rows, task=name) for name, rows in tasks.items()}
    order = list(tasks)
    random.Random(0).shuffle(order)
    together = {name: written(style, tasks[name], task=name) for name in order[:4]}
    assert together == {name: alone[name] for name in order[:4]}
    assert [r.metadata for r in alone["a"]] != [] and alone["a"] == written(
        style, tasks["a"], task="a"
    )


def test_seed_and_task_decide_the_draws():
    style = Style(options="random", shots=2, max_length=10**6)
    assert written(style) != written(Style(options="random", shots=2, max_length=10**6, seed=1))
    assert written(style) != written(style, task="other")


def test_more_rows_do_not_change_zero_shot_examples():
    style = Style(choose="hash", options="random")
    assert written(style, ROWS[:3]) == written(style)[:3]


@settings(max_examples=100, deadline=None)
@given(
    answers=st.lists(st.sampled_from(["yes", "no"]), min_size=2, max_size=30),
    num_shots=st.integers(1, 6) | st.just("x"),
    max_length=st.integers(0, 800),
    seed=st.integers(0, 5),
)
def test_exemplars_are_a_pruned_beginning_of_the_draw_without_the_query(
    answers, num_shots, max_length, seed
):
    """Against the rule written out: draw all, leave out the query, cut where it gets too long."""
    rows = [{**ROWS[0], "claim": f"<{i}> is heavy.", "answer": a} for i, a in enumerate(answers)]
    style = Style(shots=num_shots, max_length=max_length, seed=seed)
    full = written(Style(shots=num_shots, max_length=10**9, seed=seed), rows)
    for index, (got, most) in enumerate(zip(written(style, rows), full, strict=True)):
        if isinstance(most, records.Dropped):  # nothing was drawn with the query's pattern
            assert isinstance(got, records.Dropped)
            continue
        pattern = PATTERNS[index % 3]
        separator = pattern.example_separator
        *examples, query = most.inputs.split(separator)
        assert all(f"<{index}>" not in example for example in examples)
        numbers = [int(example.partition("<")[2].partition(">")[0]) for example in examples]
        assert len(set(numbers)) == len(numbers)
        if num_shots == "x":
            assert all(number % 3 == index % 3 for number in numbers)
        else:
            assert len(examples) == min(num_shots, len(rows) - 1)
        room, kept = max_length - len(query.removesuffix("A:")), 0
        for example in examples:
            room -= len(example + separator)
            if room < 0:
                break
            kept += 1
        if not kept:
            assert isinstance(got, records.Dropped) and str(got) == "no exemplar fits"
        else:
            assert got.inputs == "".join(x + separator for x in examples[:kept]) + query
            assert got.metadata["shots"] == str(kept)


def test_a_row_equal_to_the_query_is_no_exemplar():
    rows = [ROWS[0], dict(ROWS[0]), ROWS[1]]
    pattern = Pattern("{fact}", "{answer}")
    got = list(render.render("t", rows, [pattern], Style(shots=2)))
    assert got[0].inputs.count("Stone 0") == 1 and got[0].metadata["shots"] == "1"
    assert got[2].inputs.count("Stone 0") == 2


def test_queries_of_another_split_take_exemplars_from_training():
    pattern = Pattern("{fact}", "{answer}")
    (got,) = render.render("t", [ROWS[5]], [pattern], Style(shots=2), exemplars=ROWS[:3])
    assert got.inputs.count("Stone") == 3 and got.inputs.endswith("Stone 5 weighs 5 pounds.\n\n")


def test_says_what_is_missing():
    with pytest.raises(errors.DataError, match=r"no list `options`; heavy\[0\], template 0"):
        written(Style(), [{"fact": "", "claim": "", "answer": ""}])
    with pytest.raises(errors.ConfigError, match="no patterns; task 'heavy'"):
        list(render.render("heavy", ROWS, []))
    for wrong in ({"choose": "first"}, {"options": "abc"}, {"shots": -1}, {"shots": "y"}):
        with pytest.raises(errors.ConfigError):
            Style(**wrong)


def test_a_block_given_as_text_is_kept():
    row = {"q": "Ready?", "options_": "- yes\n- no", "answer": "no"}
    (got,) = render.render(
        "t", [row], [Pattern("{q}\n{options_}", "{answer}")], Style(options="letters")
    )
    assert got[:2] == ("Ready?\n- yes\n- no", "no")


def seqio_joined(query, exemplars, pattern):
    from t5sft.data import sources

    seqio = sources.load_seqio()
    import tensorflow as tf

    def inputs(shot):
        return shot.inputs + pattern.x_y_delimiter

    example = {
        "train": {
            "inputs": tf.constant([inputs(shot) for shot in exemplars]),
            "targets": tf.constant([shot.targets for shot in exemplars]),
        },
        "eval": {"inputs": tf.constant(inputs(query)), "targets": tf.constant(query.targets)},
    }
    ds = tf.data.Dataset.from_tensors(example)
    ds = seqio.experimental.fewshot_preprocessor(
        ds,
        inputs_prefix=pattern.inputs_prefix,
        targets_prefix=pattern.targets_prefix,
        example_separator=pattern.example_separator,
    )
    text = next(ds.as_numpy_iterator())["inputs"].decode()
    return tf.strings.regex_replace(text, r" *$", "").numpy().decode() + pattern.final_suffix


@pytest.mark.slow
@pytest.mark.parametrize("around", [("", ""), ("Q: ", "A: "), ("In ", "Out\n"), ("0 ", "1 \n ")])
@pytest.mark.parametrize("delimiter", ["\n\n", " X ", "  "])
def test_joins_as_seqio_does(around, delimiter):
    pattern = Pattern(
        "", "", *around, x_y_delimiter=delimiter, example_separator=" |\n", final_suffix="!"
    )
    query, *exemplars = (shots.Shot(f"in {i} ", f" out {i}") for i in range(4))
    assert shots.inputs(query, exemplars, pattern, {}) == seqio_joined(query, exemplars, pattern)
