"""Bad rows of public corpora: an error, or dropped, counted and kept aside, as the run says."""

import json
import types

import pytest

from t5sft import errors
from t5sft.data import corpora, records

CORPUS = corpora.Corpus("qa", "fetch it", corpora.held_out("*.jsonl"))


def read(row, where, index):
    return corpora.answered(corpora.text(row, "q", where), corpora.text(row, "a", where))


def read_all(row, where, index):
    yield read(row, where, index)


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Returns a function that sets the policy; rows 1, 49 and 60 of the file are bad."""
    rows = [json.dumps({"q": f"q{n}", "a": f"a{n}"}) for n in range(120)]
    rows[1], rows[49], rows[60] = '{"q": NaN}', '{"q": 1, "q": 2}', '{"q": "q60"}'
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "all.jsonl").write_text("\n".join(rows))
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path))
    monkeypatch.setattr(corpora, "_RUN", dict(corpora._RUN))

    def follow(on_bad_record, **changed):
        settings = {"on_bad_record": on_bad_record, "cache_dir": str(tmp_path / "cache")}
        settings |= {"format": None, "columns": None, **changed}
        corpora.follow(types.SimpleNamespace(**settings))
        return tmp_path / "cache" / "rejected" / "qa"

    return follow


def contents(made):
    return [
        str(one) if isinstance(one, records.Dropped) else one.messages[1].content for one in made
    ]


def test_a_bad_row_of_a_corpus_is_an_error(follow):
    follow("error")
    with pytest.raises(errors.DataError, match=r"all\.jsonl:2:7.*on_bad_record"):
        list(CORPUS.read("train", read))
    with pytest.raises(errors.DataError, match=r"duplicate key.*all\.jsonl:50:"):
        list(CORPUS.read("validation", read))


@pytest.mark.parametrize("how", [read, read_all])
def test_bad_rows_of_a_corpus_are_dropped_counted_and_kept(follow, how, capsys):
    """The setting reached files of one's own alone."""
    kept = follow("skip")
    train = contents(CORPUS.read("train", how))
    assert train[:3] == ["a0", "bad row: number is not finite", "a2"]
    assert train[59] == "bad row: does not fit the format"  # row 49 is held out
    assert len(train) == 118
    lines = (kept / "_.jsonl-train.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [2, 61]
    assert "2 bad rows are kept in" in capsys.readouterr().err
    assert contents(CORPUS.read("validation", how)) == ["bad row: duplicate key", "a99"]
    assert [index for index, _, _ in CORPUS.rows("validation")] == [99]


def test_too_many_bad_rows_of_a_corpus_are_an_error(follow, tmp_path):
    follow("skip")
    (tmp_path / "qa" / "all.jsonl").write_text("{}\n" * 100)
    with pytest.raises(errors.DataError, match="98 of 98 rows are bad: 98 does not fit the format"):
        list(CORPUS.read("train", read))


def test_columns_and_format_of_a_run_reach_corpora(follow, tmp_path):
    """They reached files of one's own alone, and were ignored without a word elsewhere."""
    row = {"question": "1+1?", "a": "2", "deep": {"q": ["x", "1+2?"]}}
    (tmp_path / "qa" / "all.jsonl").write_text(json.dumps(row))
    with pytest.raises(errors.DataError, match="no field 'q'"):
        list(CORPUS.read("train", read))
    for theirs, prompt in (("question", "1+1?"), ("deep.q.1", "1+2?")):
        follow("error", columns={"q": theirs})
        (made,) = CORPUS.read("train", read)
        assert [message.content for message in made.messages] == [prompt, "2"]
        assert [row["q"] for _, _, row in CORPUS.rows("train")] == [prompt]
    follow("error", columns={"q": "query"})
    with pytest.raises(errors.DataError, match=r"no column 'query' for q; .*all.jsonl:1; the row"):
        list(CORPUS.read("train", read))
    follow("skip", columns={"q": "query"})
    assert contents(CORPUS.read("train", read)) == ["bad row: does not fit the format"]

    row = {"instruction": "Add.", "instances": [{"input": n, "output": n} for n in ("1", "2")]}
    (tmp_path / "qa" / "all.jsonl").write_text(json.dumps(row))
    follow("error", format="self_instruct")
    assert contents(CORPUS.read("train", read)) == ["1", "2"]
    follow("error", format="self_instrukt")
    with pytest.raises(errors.ConfigError, match="did you mean 'self_instruct'"):
        list(CORPUS.read("train", read))
    with pytest.raises(errors.ConfigError, match="templates of qa .*Data.format; leave it None"):
        list(CORPUS.rows("train"))


def test_rows_passed_over_are_handed_to_who_makes_the_records(follow):
    follow("skip")
    dropped: list = []
    rows = list(CORPUS.rows("train", dropped, needs=["q", "a"]))
    assert len(rows) == 116
    assert [str(one) for one in dropped] == [
        "bad row: number is not finite",
        "bad row: does not fit the format",
    ]
