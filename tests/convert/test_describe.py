"""A model comes back from its JSON and from its gin file."""

import dataclasses
import json

import pytest

from t5sft import errors, launch
from t5sft.convert import describe
from t5sft.models import decoder, rotary, t5

MODELS = {
    "t5": t5.T5(
        vocab_size=64,
        emb_dim=24,
        mlp_dim=40,
        num_heads=4,
        head_dim=8,
        num_encoder_layers=2,
        num_decoder_layers=3,
        activation="relu",
        gated=False,
    ),
    "decoder": decoder.Decoder(
        vocab_size=64,
        emb_dim=24,
        mlp_dim=40,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        num_layers=4,
        rope_scaling=rotary.Llama3(factor=8.0, original_length=32),
        layer_pattern=("sliding", "full"),
        sliding_window=8,
        dtype="bfloat16",
    ),
}
EACH = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@EACH
def test_json_and_back(model):
    assert describe.from_json(json.loads(json.dumps(describe.to_json(model)))) == model


@EACH
def test_gin_and_back(model, tmp_path):
    text = describe.to_gin(model, "A model of 3 parameters.")
    assert text.startswith("# A model of 3 parameters.\n")
    assert "remat" not in text  # only what is not a default
    (tmp_path / "model.gin").write_text(text)
    (tmp_path / "run.gin").write_text(
        f"include '{tmp_path}/model.gin'\nfrom __gin__ import dynamic_registration\n"
        "from t5sft.train import run\nrun.train.model = %MODEL\n"
    )
    needed = ("data", "optimizer", "model_dir", "steps", "batch_size")
    configuration = launch.resolve("train", [str(tmp_path / "run.gin")], arguments=needed)
    assert launch.bind(configuration)[1]["model"] == model


def test_only_models_are_made():
    for name in ("os.system", "decoder.dataclasses", "decoder.DecoderNet", "t5.Nothing", "x", ""):
        with pytest.raises(errors.CheckpointError, match="description of its model cannot be read"):
            describe.from_json({"class": name})


def test_unknown_fields_are_named():
    description = describe.to_json(MODELS["t5"]) | {"later": 1}
    with pytest.raises(errors.CheckpointError, match="later"):
        describe.from_json(description)


def test_a_field_of_a_later_version_has_its_default():
    description = describe.to_json(dataclasses.replace(MODELS["t5"], dropout_rate=0.0))
    del description["dropout_rate"]
    assert describe.from_json(description).dropout_rate == 0.0
