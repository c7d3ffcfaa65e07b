"""Ids of SentencePiece models are those that transformers gives, but where it leaves SentencePiece.

The fixture is made by scripts/make_tokenizer_fixture.py; its slow test makes it again.
"""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from t5sft.data import vocab

FOLDER = pathlib.Path(__file__).parent / "tokenizers"
SCRIPT = pathlib.Path(__file__).parents[2] / "scripts/make_tokenizer_fixture.py"
PYTHON = os.environ.get("T5SFT_TORCH_PYTHON")
TOLD = json.loads((FOLDER / "ids.json").read_text())
# transformers takes SentencePiece's rules over to its own library; in these it is not the original:
DIFFERENT = {
    "t5": ["a\u0300\u0301\u0302b"],  # it normalises by graphemes, the original by longest match
    "llama": [" ", "  ", " a", "  a  b  ", "\u2581"],  # no second space before a text with one
    "gemma": [],
}


@pytest.mark.parametrize("name", TOLD["ids"])
def test_ids_are_those_of_transformers(name):
    vocabulary = vocab.load(str(FOLDER / f"{name}.model"))
    probes = {text: ids for text, ids in TOLD["ids"][name].items() if text not in TOLD["controls"]}
    assert len(probes) == 52
    got = {text: vocabulary.encode(text) for text in probes}
    assert [text for text in probes if got[text] != probes[text]] == DIFFERENT[name]
    for text in DIFFERENT[name]:  # the model is the original's: its rule is kept
        assert got[text] == vocabulary._model.encode(text)
    assert vocabulary.encode_all(list(probes)) == list(got.values())
    assert [vocabulary.encode_with_offsets(text)[0] for text in probes] == list(got.values())


@pytest.mark.parametrize("name", TOLD["ids"])
def test_text_that_spells_a_control_token_stays_text(name):
    """transformers reads the token out of it; a user could end the conversation so."""
    vocabulary = vocab.load(str(FOLDER / f"{name}.model"))
    read = 0
    for text in TOLD["controls"]:
        ids = vocabulary.encode(text)
        named = {vocabulary.control_id(piece) for piece in TOLD["controls"]} - {None}
        assert not named & set(ids)
        read += ids != TOLD["ids"][name][text]
        if name != "t5":  # whose small model does not know every letter
            assert vocabulary.decode(ids) == text
    assert read >= 4


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="T5SFT_TORCH_PYTHON names no Python with transformers")
def test_transformers_still_gives_these_ids(tmp_path):
    """The same models and ids, made anew by the script."""
    script = tmp_path / "scripts" / SCRIPT.name
    script.parent.mkdir()
    (tmp_path / "tests/convert").mkdir(parents=True)
    shutil.copyfile(SCRIPT, script)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([PYTHON, str(script)], check=True, env=environment)
    made = tmp_path / "tests/convert/tokenizers"
    assert json.loads((made / "ids.json").read_text())["ids"] == TOLD["ids"]
    for path in FOLDER.glob("*.model"):
        assert (made / path.name).read_bytes() == path.read_bytes()
