"""`t5sft inspect` shows the very arrays a model gets, as text, JSON and page."""

import json
import pathlib
import types

import numpy as np
import pytest

from t5sft import errors
from t5sft.data import batches, cache, inspect, prepare, preprocess, templates, vocab

USER, ASSISTANT = (templates.ROLES.index(role) for role in ("user", "assistant"))
NAMES = ("encoder_input_tokens", "decoder_target_tokens")


def example(prompt, answer, layout):
    ask, say = (vocab.Bytes().encode(text) for text in (prompt, answer))
    left = preprocess.Tokens([*ask, 1], [0.0] * (len(ask) + 1), [USER] * len(ask) + [0])
    right = preprocess.Tokens([*say, 1], [1.0] * (len(say) + 1), [ASSISTANT] * len(say) + [0])
    if layout == "encoder_decoder":
        return preprocess.Example(left, right)
    whole = (a + b for a, b in zip(left, right, strict=True))
    return preprocess.Example(preprocess.EMPTY, preprocess.Tokens(*whole))


@pytest.fixture(params=["encoder_decoder", "decoder"])
def run(request, tmp_path, monkeypatch):
    """A model, settings, and twenty prepared pairs that share a row each."""
    layout = request.param
    made = [example(f"<i>{n}", "z" * (n % 5), layout) for n in range(40)]
    cache.write_task(tmp_path / "toy" / "t", made, list(range(100, 140)))
    np.save(tmp_path / "toy" / "t" / "units.npy", np.arange(0, 41, 2))
    np.save(tmp_path / "toy" / "t" / "labels.npy", np.tile(np.float32([1, 0]), 20))
    counts = {"read": 40, "kept": 40, "tokens": 9, "learnt_tokens": 4}
    cache.write_card(
        tmp_path / "toy", {**counts, "tasks": {"t": {"rate": 1.0, "content": "", **counts}}}
    )
    split = cache.read_split(tmp_path / "toy")
    ready = types.SimpleNamespace(result=lambda: [split])
    monkeypatch.setattr(prepare, "Preparation", lambda *_: ready)
    data = prepare.Data(task="toy", vocabulary="bytes", encoder_length=30, decoder_length=32)
    return types.SimpleNamespace(layout=layout), data, split


def test_the_batch_of_a_step_is_the_batch_of_training(run):
    model, data, split = run
    source = batches.Batches(
        split, layout=model.layout, batch_size=2, encoder_length=30, decoder_length=32, start_id=0,
        seed=5,
    )  # fmt: skip
    position = batches.Position()
    for step in (1, 2, 3):
        rows, position = source.batch_rows(position)
        arrays = source.convert(rows)
        got = inspect.inspect(model=model, data=data, step=step, batch_size=2, seed=5)
        assert json.loads(json.dumps(got)) == got and got["step"] == step
        for b, (tokens, named) in enumerate(zip(got["rows"], got["segments"], strict=True)):
            assert [(one["task"], one["example"]) for one in named] == rows[b]
            assert [one["record"] for one in named] == [100 + i for _, i in rows[b]]
            assert [one["label"] for one in named] == [1.0 - i % 2 for _, i in rows[b]]
            for side, name in zip(("encoder", "decoder"), NAMES, strict=True):
                if name not in arrays:
                    continue
                mine = [token for token in tokens if token["side"] == side]
                segments = arrays[f"{side}_segment_ids"][b]
                held = segments > 0
                for key, array in (
                    ("token", arrays[name][b]),
                    ("segment", segments),
                    ("position", arrays[f"{side}_positions"][b]),
                ):
                    assert [token[key] for token in mine] == array[held].tolist()
                if side == "decoder":
                    weights = arrays["decoder_loss_weights"][b][held]
                    assert [token["weight"] for token in mine] == weights.tolist()


def test_roles_and_text_are_those_of_the_token(run):
    model, data, _ = run
    got = inspect.inspect(model=model, data=data, num=40)
    shown = [token for row in got["rows"] for token in row]
    assert len(got["rows"]) > 3 and sum(len(one) for one in got["segments"]) == 40
    for token in shown:
        text = token["text"]
        expected = {"</s>": "control", "z": "assistant"}.get(text, "user")
        assert token["role"] == expected, token
    assert sum(token["text"] == "z" for token in shown) == sum(n % 5 for n in range(40))
    assert len(inspect.inspect(model=model, data=data)["rows"]) == 3
    assert not inspect.inspect(model=model, data=data, num=0)["rows"]


def test_text_and_page_name_segments_roles_and_weights(run, tmp_path, capsys):
    model, data, _ = run
    path = tmp_path / "page.html"
    got = inspect.inspect(
        model=model, data=data, step=1, batch_size=4, num=1, seed=5, html=str(path)
    )
    err = capsys.readouterr().err
    first = got["segments"][0][0]
    assert f"segment 1: t[{first['record']}], label {first['label']:g}" in err
    assert "row 1: " in err and "row 2" not in err and str(path) in err
    page = pathlib.Path(got["page"]).read_text(encoding="utf-8")
    assert f"segment 1: t[{first['record']}]" in page and "toy, train: the batch of step 1" in page
    assert page.count('class="say') >= len(got["rows"][0])
    assert "assistant, weight 1" in page and "user, weight 0" in page
    assert "&lt;" in page and "<i>" not in page.partition("</style>")[2]


def test_a_step_before_the_first_is_refused(run):
    model, data, _ = run
    with pytest.raises(errors.ConfigError, match="no step 0; --step; the first is 1"):
        inspect.inspect(model=model, data=data, step=0)
