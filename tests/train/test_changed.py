"""Another tokenizer, template or data in a resumed run: named, and refused unless allowed."""

import dataclasses
import io
import json

import pytest
import sentencepiece
from test_run import DATA, MODEL, hurry, lines, saved, steps, train  # noqa: F401  a fixture

from t5sft import errors
from t5sft.data import prepare, templates, vocab
from t5sft.train import inputs

ROWS = [{"inputs": f"copy: {word}", "targets": word} for word in ("ab", "bc", "cd", "de", "ea")]
ROWS += [row | {"split": "validation"} for row in ROWS]


def write_data(path, rows=ROWS):
    path.write_text(json.dumps(rows))


def write_vocabulary(path, corpus):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus * 20), model_writer=model, vocab_size=30,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def write_template(path, lead=""):
    path.write_text(
        "{% for m in messages %}{{ '" + lead + "' + m.content + eos_token }}{% endfor %}"
    )


@pytest.fixture
def kept(tmp_path):
    """A run of two steps, whose data, tokenizer and template are files."""
    write_data(tmp_path / "rows.json")
    write_vocabulary(tmp_path / "own.model", [row["inputs"] for row in ROWS])
    write_template(tmp_path / "own.jinja")
    made = dataclasses.replace(
        DATA,
        task="toy_file",
        data=str(tmp_path / "rows.json"),
        vocabulary=str(tmp_path / "own.model"),
        template=str(tmp_path / "own.jinja"),
        cache_dir=str(tmp_path / "cache"),
    )
    assert go_on(made, tmp_path, steps=2)["step"] == 2
    yield made, tmp_path
    templates.get(made.template).close()


def go_on(data, folder, **options):
    """As a new process, which has nothing in memory."""
    vocab.opened.cache_clear()
    for split in inputs.SPLITS:
        prepare.prepare_split(data, "encoder_decoder", split)
    return train(data, folder / "run", **{"eval_every": 0, "save_every": 0, **options})


def change_tokenizer(folder):
    write_vocabulary(folder / "own.model", ["abcde", "cabac opy: de"])


def change_template(folder):
    write_template(folder / "own.jinja", lead="> ")


def change_row(folder):
    write_data(folder / "rows.json", [ROWS[0] | {"targets": "ba"}, *ROWS[1:]])


def drop_row(folder):
    write_data(folder / "rows.json", ROWS[1:])


@pytest.mark.parametrize(
    "change, named",
    [
        (change_tokenizer, "data, tokenizer"),
        (change_template, "data, template"),
        (change_row, "data"),
        pytest.param(drop_row, "data", marks=pytest.mark.slow),
    ],
)
def test_what_changed_in_the_same_files_is_named_and_refused(kept, change, named, capfd):
    data, folder = kept
    change(folder)
    before = lines(folder / "run")
    with pytest.raises(errors.ConfigError, match=rf"changed \({named}\): step 2 was") as raised:
        go_on(data, folder, steps=3)
    told = str(raised.value)
    assert raised.value.exit_code == 2 and "--gin.train.allow_changes=True" in told
    assert "use another model_dir" in told
    assert steps(folder / "run") == [2] and lines(folder / "run") == before  # nothing was made
    summary = go_on(data, folder, steps=3, allow_changes=True)
    assert summary["step"] == 3 and f"changed ({named})" in capfd.readouterr().err
    go_on(data, folder, steps=4)  # it is the run's own now
    assert steps(folder / "run")[-1] == 4


def test_another_file_with_the_same_tokens_is_no_change(kept):
    """A moved file of the same bytes, rows written in another way: the examples are the same."""
    data, folder = kept
    (folder / "moved.model").write_bytes((folder / "own.model").read_bytes())
    (folder / "rows.json").write_text(json.dumps(ROWS, indent=1))
    moved = dataclasses.replace(data, vocabulary=str(folder / "moved.model"))
    assert go_on(moved, folder, steps=3)["step"] == 3
    assert saved(folder / "run", 3)[1] and MODEL.vocab_size > 30
