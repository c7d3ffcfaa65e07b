"""What the data card says of lengths, packing, answers and samples is what the arrays hold."""

import re
from html import parser

import numpy as np
import pytest

from t5sft import errors
from t5sft.data import cache, page, prepare, preprocess, templates, vocab
from t5sft.data.preparing import data_card, figures, summary

USER, ASSISTANT = (templates.ROLES.index(role) for role in ("user", "assistant"))


def split(costs, units=None, tasks=("t",), rates=None):
    """A split of examples with these (inputs, targets) lengths, the same for every task."""
    ends = np.concatenate([[(0, 0)], np.cumsum(costs, axis=0)])
    columns = {}
    for i, side in enumerate(("inputs", "targets")):
        for name, dtype in cache.COLUMNS:
            columns[f"{side}.{name}"] = np.ones(ends[-1, i], dtype)
    one = cache.Examples(columns, ends[:, 0], ends[:, 1], np.arange(len(costs)), units)
    rates = rates or {task: 1.0 for task in tasks}
    return cache.Split({task: one for task in tasks}, rates, {}, "digest")


def test_packing_of_a_decoder_by_hand():
    """Sequences of 5 tokens take 4 places: two fill a row of 8, one of 9 alone fills 8."""
    got = figures.packing(split([(0, 5)] * 8), "decoder", (1, 8), seed=0)
    assert got["efficiency"] == got["targets"] == 1 and got["examples_per_row"] == 2
    assert (got["sequence_length"], got["too_long"], got["inputs"]) == ("8", 0, 0)
    got = figures.packing(split([(0, 7)] * 4), "decoder", (1, 8), seed=0)
    assert got["efficiency"] == 6 / 8 and got["examples_per_row"] == 1


def test_packing_counts_the_fuller_side_and_what_fits_no_row():
    got = figures.packing(split([(4, 1), (4, 1), (9, 1)]), "encoder_decoder", (8, 8), seed=0)
    assert got["sequence_length"] == "8,8" and got["too_long"] == 1
    assert got["efficiency"] == got["inputs"] == 1 and got["targets"] == 2 / 8
    got = figures.packing(split([(9, 1)]), "encoder_decoder", (8, 8), seed=0)
    assert (got["too_long"], got["efficiency"], got["rows"]) == (1, 0, 0)


def test_splits_weigh_in_the_packing_by_the_rows_of_their_epochs():
    """A block of draws holds a split of four examples thousands of times."""
    parts = [
        figures.packing(split([(0, length)] * number), "decoder", (1, 8), seed=0)
        for number, length in ((400, 5), (4, 7))
    ]
    assert [part["rows"] for part in parts] == [200, 4]
    together = summary._together(parts)
    assert together["rows"] == 204
    assert together["efficiency"] == pytest.approx((400 * 4 + 4 * 6) / (204 * 8))


def test_packing_keeps_units_together():
    """Pairs of 3 + 3 places in rows of 8: one pair a row, though half another would fit."""
    pairs = split([(0, 4)] * 6, units=np.array([0, 2, 4, 6]))
    got = figures.packing(pairs, "decoder", (1, 8), seed=0)
    assert got["efficiency"] == 6 / 8 and got["examples_per_row"] == 1


@pytest.mark.parametrize(
    "layout, text, expected",
    [
        ("decoder", "2048", (512, 2048)),
        ("encoder_decoder", "1024,512", (1024, 512)),
        ("encoder_decoder", " 64 ", (64, 64)),
    ],
)
def test_sequence_lengths_are_read(layout, text, expected):
    data = prepare.Data(task="t", vocabulary="bytes")
    assert figures.parse_lengths([text], data, layout) == [expected]


@pytest.mark.parametrize(
    "layout, text", [("decoder", "1024,512"), ("decoder", "x"), ("encoder_decoder", "1,2,3"),
                     ("encoder_decoder", "0"), ("decoder", "-4")]
)  # fmt: skip
def test_a_wrong_sequence_length_is_told(layout, text):
    data = prepare.Data(task="t", vocabulary="bytes")
    with pytest.raises(errors.ConfigError, match="no length .*--sequence_length; write"):
        figures.parse_lengths([text], data, layout)


def test_percentiles_and_histogram_are_of_the_lengths():
    lengths = np.arange(1, 101)
    assert data_card.percentiles(lengths) == {
        "mean": 50.5, "p5": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "p99": 99, "max": 100
    }  # fmt: skip
    assert data_card.percentiles(np.zeros(3, int)) == {}
    found = figures.histogram(np.array([1, 1, 7, 30, 1000]))
    assert sum(found.counts) == 5 and found.counts[:2] == [3, 1] and found.counts[-1] == 1
    assert figures.histogram(np.zeros(3, int)) is None


def test_answers_that_do_not_vary_are_named_by_their_template():
    answers = np.array([7] * 30 + [*range(30)] + [1] * 99 + [2] + [5] * 3)
    groups = np.array([0] * 30 + [1] * 30 + [2] * 100 + [3] * 3)
    assert data_card.answer_warnings(answers, groups, ["a", "b", "c", "d"]) == [
        "template a: one single answer to all 30 examples",
        "template c: 99.0 % of 100 examples have the same answer (0.08 bits)",
    ]
    assert data_card.answer_warnings(answers[:30], groups[:30], [""]) == [
        "the task: one single answer to all 30 examples"
    ]
    assert data_card.entropy(np.array([1, 1, 2])) == 1.5


def test_samples_show_each_stretch_with_its_role_and_weight():
    ids = vocab.Bytes().encode
    example = preprocess.Example(
        preprocess.Tokens([*ids("Hi <b>"), 1], [0.0] * 7, [USER] * 6 + [0]),
        preprocess.Tokens([*ids("ok"), 1], [0.5, 0.5, 1.0], [ASSISTANT] * 2 + [0]),
    )
    assert list(figures.spans(example, vocab.Bytes())) == [
        ("inputs", "user", 0.0, "Hi <b>", False),
        ("inputs", "control", 0.0, "</s>", True),
        ("targets", "assistant", 0.5, "ok", False),
        ("targets", "control", 1.0, "</s>", True),
    ]
    village = vocab.load("tasks/village/vocab.model")
    both = village.encode("red cow") + village.encode(" and blue")
    cut = len(village.encode("red cow"))
    roles = [USER] * cut + [ASSISTANT] * (len(both) - cut)
    tokens = preprocess.Tokens(both, [0.0] * len(both), roles)
    got = figures.spans(preprocess.Example(preprocess.EMPTY, tokens), village)
    assert "".join(span.text for span in got) == "red cow and blue"


def test_samples_are_of_different_tasks():
    names = [f"task{n}" for n in range(9)]
    whole = split([(1, 2)] * 4, tasks=names)
    got = figures.samples(whole, vocab.Bytes(), 3)
    assert [one["task"] for one in got] == ["task0", "task3", "task6"]
    got = figures.samples(split([(1, 2)] * 4), vocab.Bytes(), 3)
    assert [one["example"] for one in got] == [0, 1, 2]
    assert len(figures.samples(split([(1, 2)]), vocab.Bytes(), 3)) == 1


class Checker(parser.HTMLParser):
    """Finds tags left open, and everything that would be loaded or run."""

    def __init__(self):
        super().__init__()
        self.open, self.bad, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "link", "img", "iframe", "object"):
            self.bad.append(tag)
        self.bad += [f"{k}={v}" for k, v in attrs if k in ("src", "href") or k.startswith("on")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.text.append(data)


def check(path):
    checker, text = Checker(), path.read_text(encoding="utf-8")
    checker.feed(text)
    assert not checker.open and not checker.bad
    assert not re.search(r"https?://|url\(|@import", text)
    return "".join(checker.text)


def test_a_page_is_whole_self_contained_and_escaped(tmp_path):
    nasty = "<script>alert('x')</script>&\ud800\x00"
    parts = [
        page.tiles([(nasty, "1", nasty)]),
        page.table([nasty, "n"], [(nasty, 1234), (nasty, 0.5)], texts=(0,)),
        page.warnings([nasty]),
        page.bars([(nasty, 3, 1, nasty), ("x" * 99, 0, 0, "")]),
        page.columns([0, 2, 4], [3, 0], {nasty: 3, "p50": 1}),
        page.legend(),
        page.spans([{"role": nasty, "weight": 1, "text": nasty, "is_control": True}]),
    ]
    text = check(page.write(tmp_path / "sub" / "page.html", nasty, parts))
    assert "<script>alert('x')</script>&?\ufffd" in text and "1,234" in text
    assert page.warnings([]) == ""


def test_a_page_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match=r"page\.html"):
        page.write(tmp_path / "file" / "page.html", "t", [])
