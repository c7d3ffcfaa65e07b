"""Scores are the log-probabilities that transformers gives, row by row, whatever the batch."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from convert import written
from oracles import checkpoints

from t5sft import errors
from t5sft.data import vocab
from t5sft.evaluate import likelihoods, score
from t5sft.parallel import mesh
from t5sft.train import checkpoint, exchange

DECODER, T5 = "qwen2", "t5_1_1"


def log_softmax(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def reference(name):
    """Rows of ids and the log-probabilities of their targets, from transformers' logits."""
    fixture = checkpoints.load(name)
    ends = np.cumsum([len(target) for _, target in fixture.rows])[:-1]
    logits = np.split(fixture.logits["default"], ends)
    rows, wanted = [], []
    for (source, target), one in zip(fixture.rows, logits, strict=True):
        if name.startswith("t5"):  # the decoder read `target`, its last token came after it
            rows.append({"input_ids": source.tolist(), "target_ids": target[1:].tolist()})
        else:
            rows.append({"input_ids": target[:3].tolist(), "target_ids": target[3:].tolist()})
            one = one[2:]
        ids = rows[-1]["target_ids"]
        wanted.append(log_softmax(one)[np.arange(len(ids)), ids])
    return rows, wanted


def scored(**options):
    """score.score on one device, for which programs compile sooner."""
    options.setdefault("mesh", mesh.make_mesh(devices=jax.devices()[:1]))
    return score.score(**options)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", [DECODER, "gemma2"])
def test_agrees_with_transformers(name, tmp_path):
    rows, wanted = reference(name)
    file = write(tmp_path / "rows.jsonl", rows)
    result = scored(file=file, model_dir=str(checkpoints.FOLDER / name))
    for row, got, want in zip(rows, result["scores"], wanted, strict=True):
        np.testing.assert_allclose(got["token_logprobs"], want, atol=2e-5)
        np.testing.assert_allclose(got["logprob"], want.sum(), atol=1e-4)
        assert got["num_tokens"] == len(want) and got["input_ids"] == row["input_ids"]


def test_an_encoder_decoder_agrees_with_transformers(tmp_path):
    """Its decoder was given `target` as input, so that target[0] stands for the start token."""
    (row, _), (want, _) = reference(T5)
    config = {"decoder_start_token_id": int(checkpoints.load(T5).rows[0][1][0])}
    path = written.directory(tmp_path / "a", T5, config=config)
    file = write(tmp_path / "rows.jsonl", [row])
    got = scored(file=file, model_dir=str(path))["scores"][0]
    np.testing.assert_allclose(got["token_logprobs"], want, atol=2e-5)


def random_rows(num, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 13, (num, 2))
    return [
        {
            "input_ids": rng.integers(3, 64, a).tolist(),
            "target_ids": rng.integers(3, 64, b).tolist(),
            "number": i,
        }
        for i, (a, b) in enumerate(lengths)
    ]


@pytest.mark.parametrize("name", [DECODER, T5])
def test_batches_and_order_do_not_matter(name, tmp_path):
    rows = random_rows(11)
    rows[4]["target_ids"] = []
    where = str(checkpoints.FOLDER / name)
    forward = scored(file=write(tmp_path / "a.jsonl", rows), model_dir=where)["scores"]
    assert [row["number"] for row in forward] == list(range(11))
    assert (forward[4]["logprob"], forward[4]["token_logprobs"]) == (0.0, [])
    backward = write(tmp_path / "b.jsonl", rows[::-1])
    eight = mesh.make_mesh()
    other = scored(file=backward, model_dir=where, batch_size=16, mesh=eight)["scores"]
    for one, two in zip(forward, other[::-1], strict=True):
        np.testing.assert_allclose(one["token_logprobs"], two["token_logprobs"], atol=1e-5)
        assert one["number"] == two["number"]


def test_logits_in_pieces_are_the_same(monkeypatch):
    fixture = checkpoints.load(DECODER)
    model = fixture.family.model(fixture.config)
    params = checkpoints.params_of(fixture, model, "hot")
    rows = [likelihoods.Ids([3, 4, i], [5, 6, 7, i]) for i in range(3)]
    one = mesh.make_mesh(devices=jax.devices()[:1])
    whole = likelihoods.log_probabilities(model, params, rows, mesh=one)
    monkeypatch.setattr(likelihoods, "_LOGITS_BYTES", 64 * 4 * 8 * 4)
    model = dataclasses.replace(model, scan_unroll=2)  # compiled anew
    pieces = likelihoods.log_probabilities(model, params, rows, mesh=one)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


def test_every_kind_of_checkpoint_gives_the_same(tmp_path):
    fixture = checkpoints.load(T5)
    model = fixture.family.model(fixture.config)
    file = write(tmp_path / "rows.jsonl", random_rows(3))
    directory = str(checkpoints.FOLDER / T5)
    exchange.convert(source=directory, target=str(tmp_path / "ours"))
    written.t5x(tmp_path / "checkpoint_1", T5)
    params = checkpoints.params_of(fixture, model, "default")
    checkpoint.save_params(tmp_path / "old", params, {})
    scores = [
        scored(file=file, model_dir=str(path), model=given)["scores"]
        for path, given in [
            (directory, None),
            (tmp_path / "ours", None),
            (tmp_path / "checkpoint_1", None),
            (tmp_path / "old", model),
        ]
    ]
    assert scores[0] == scores[1] == scores[2] == scores[3]


class Words:
    """A vocabulary of words, each with its space."""

    eos_id, bos_id, adds_space = 1, 2, True

    def encode(self, text):
        return [len(word) + 10 for word in f" {text}".split(" ")[1:]]


def test_text_is_encoded_as_the_family_does():
    """2 + 2 = | 4 -> <s> _2 _+ _2 _= | _4; T5 ends both sides."""
    assert score.encode("2 + 2 = ", "4", Words(), "decoder") == ([2, 11, 11, 11, 11], [11])
    assert score.encode("2 + 2 =", " 4", Words(), "decoder") == ([2, 11, 11, 11, 11], [11])
    assert score.encode("ab", "abc d", Words(), "encoder_decoder") == ([12, 1], [13, 11, 1])


def test_text_by_bytes(tmp_path):
    """The bytes vocabulary needs 291 embeddings: those that the fixture lacks are added."""
    rows = [{"inputs": "ab", "targets": "c"}]
    ids = vocab.load("bytes").encode
    assert score.encode("ab", "c", vocab.load("bytes"), "decoder") == ([2, *ids("ab")], ids("c"))
    file = write(tmp_path / "rows.jsonl", rows)
    where = str(checkpoints.FOLDER / DECODER)
    with pytest.raises(errors.ConfigError, match="no tokenizer beside the weights.*--vocabulary"):
        scored(file=file, model_dir=where)
    with pytest.raises(errors.DataError, match="beyond the 64 embeddings"):
        scored(file=file, model_dir=where, vocabulary="bytes")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": [3], "target_ids": [64]}, "target_ids is no list of token ids below 64"),
        ({"input_ids": [3.0], "target_ids": [4]}, "input_ids is no list"),
        ({"input_ids": [True], "target_ids": [4]}, "input_ids is no list"),
        ({"input_ids": [], "target_ids": [4]}, "nothing stands before the first target"),
        ({"inputs": "a"}, r"no inputs and targets among the fields \['inputs'\]"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(row, message, tmp_path):
    good = {"input_ids": [3], "target_ids": [4]}
    file = write(tmp_path / "rows.jsonl", [good, row])
    with pytest.raises(errors.DataError, match=message) as caught:
        scored(file=file, model_dir=str(checkpoints.FOLDER / DECODER))
    assert "rows.jsonl:2" in str(caught.value)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(errors.ConfigError, match="give FILE and --model_dir"):
        scored(file="x.jsonl")
    with pytest.raises(errors.ConfigError, match="no file x.jsonl"):
        scored(file="x.jsonl", model_dir=str(checkpoints.FOLDER / DECODER))


def test_output_is_a_file_of_the_rows(tmp_path):
    file, out = write(tmp_path / "rows.jsonl", random_rows(2)), tmp_path / "out.jsonl"
    where = str(checkpoints.FOLDER / DECODER)
    result = scored(file=file, model_dir=where, output=str(out))
    assert [json.loads(line) for line in out.read_text().splitlines()] == result["scores"]
    assert result["num_tokens"] == sum(row["num_tokens"] for row in result["scores"])


def test_a_batch_of_nothing_is_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match="batch_size is 0; score; give at least 1"):
        score.score(file="rows.jsonl", model_dir=str(tmp_path), batch_size=0)
