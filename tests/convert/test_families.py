"""Tables cover every tensor once, in both directions, and configurations come back as they went."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from oracles import checkpoints, tiny

from t5sft import errors
from t5sft.convert import families
from t5sft.models import decoder, rotary, t5

EACH = pytest.mark.parametrize("name", checkpoints.NAMES)


@functools.cache
def loaded(name):
    fixture = checkpoints.load(name)
    return fixture, fixture.family.model(fixture.config)


@EACH
def test_all_tensors_of_the_file_and_no_others(name):
    fixture, model = loaded(name)
    found = {tensor.hf_name: tensor.shape for tensor in fixture.family.tensors(model)}
    assert found == {name: weight.shape for name, weight in fixture.tensors.items()}


@EACH
def test_every_parameter_is_filled_once(name):
    fixture, model = loaded(name)
    counts = jax.tree.map(lambda leaf: np.zeros(leaf.shape, int), checkpoints.shapes_of(model))
    for tensor in fixture.family.tensors(model):
        leaf = functools.reduce(dict.__getitem__, tensor.path, counts)
        assert leaf[tensor.index].shape == tensor.ours
        leaf[tensor.index] += 1
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(counts))


@EACH
def test_what_is_read_is_written_back_bit_for_bit(name):
    fixture, model = loaded(name)
    written = {name: np.zeros_like(weight) for name, weight in fixture.tensors.items()}
    for tensor in fixture.family.tensors(model):
        theirs = fixture.tensors[tensor.hf_name]
        start, stop = tensor.part or (0, len(theirs))
        piece = tensor.read(theirs)
        np.testing.assert_array_equal(piece, tensor.read(theirs[start:stop]))
        written[tensor.hf_name][start:stop] = tensor.write(piece)
    for name, weight in fixture.tensors.items():
        assert weight.tobytes() == written[name].tobytes()


@EACH
def test_config_comes_back(name):
    """What transformers 5 wrote is read, written in the spelling of 4, and read again."""
    fixture, model = loaded(name)
    config = fixture.family.config(model, {"torch_dtype": "bfloat16"})
    assert config["torch_dtype"] == "bfloat16"
    assert config["architectures"] == fixture.config["architectures"]
    has_head = not model.logits_via_embedding
    assert fixture.family.model(config, has_head=has_head) == model
    assert not families.differences(model, fixture.family.model(config))


def test_text_model_of_a_gemma_3_that_sees_images():
    """transformers 4.57 and 5.23 write the text model's names after `language_model.`."""
    fixture, model = loaded("gemma3")
    family = families.find("gemma3")
    assert family.model({"model_type": "gemma3", "text_config": fixture.config}) == model
    names = {f"language_model.{tensor.hf_name}" for tensor in fixture.family.tensors(model)}
    assert {tensor.hf_name for tensor in family.tensors(model)} == names
    assert re.fullmatch(family.ignored[0], "vision_tower.vision_model.post_layernorm.weight")
    with pytest.raises(errors.ConfigError, match="'gemma3' cannot express this model .images"):
        family.config(model)


def test_says_what_no_family_can_express():
    model = dataclasses.replace(tiny.DECODER, attention_soft_cap=50.0, norm_offset=0.5)
    with pytest.raises(
        errors.ConfigError, match="no family of transformers.*one of t5, mt5, llama"
    ):
        families.of(model)
    with pytest.raises(errors.ConfigError, match=r"'llama' cannot.*\(attention_soft_cap, norm_"):
        families.FAMILIES["llama"].config(model)
    with pytest.raises(errors.ConfigError, match="cannot express this model .layout.; T5"):
        families.FAMILIES["llama"].config(tiny.T5)


@pytest.mark.parametrize(
    "model", [tiny.T5, tiny.T5_TIED, tiny.DECODER, tiny.DECODER_TIED], ids=lambda m: m.layout
)
def test_a_model_finds_its_family(model):
    assert families.of(model).name == ("t5" if isinstance(model, t5.T5) else "llama")


def test_unknown_family_is_told_with_the_nearest():
    with pytest.raises(errors.ConfigError, match="'lama' is unknown .did you mean 'llama'"):
        families.find("lama")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"hidden_size": None}, "hidden_size is missing; config.json, model_type 'llama'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised: .*awq.*plain ones"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "rope_type = 'yarn' is a feature .* known: linear, llama3",
        ),
        ({"num_attention_heads": 0}, "num_attention_heads = 0 is no positive integer"),
        ({"rope_theta": "big"}, "rope_theta = 'big' is no positive number"),
        ({"rope_scaling": [1]}, r"\[1\] stands where an object should"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no' is not true or false"),
        ({"hidden_act": "mish"}, "hidden_act = 'mish' is a feature .*silu"),
    ],
)
def test_refuses_what_it_cannot_do(changes, said):
    with pytest.raises(errors.ConfigError, match=said):
        families.FAMILIES["llama"].model(LLAMA2 | changes)


LLAMA2 = dict(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    hidden_act="silu",
    rms_norm_eps=1e-5,
)


def test_spellings_of_4_and_5_are_one_model():
    old = {
        "rope_theta": 5e5,
        "rope_scaling": {
            "type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3"} | old["rope_scaling"]}
    del new["rope_parameters"]["type"]
    family = families.FAMILIES["llama"]
    got, want = (family.model(LLAMA2 | spelling) for spelling in (new, old))
    assert got == want
    assert got.rope_scaling == rotary.Llama3(factor=8.0) and got.rope_theta == 5e5
    plain = family.model(LLAMA2)
    assert plain.head_dim == 128 and plain.num_kv_heads == 32 and plain.rope_scaling is None
    assert not plain.logits_via_embedding


T5_SMALL = dict(vocab_size=32128, d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6)


@pytest.mark.parametrize(
    "said, has_head, tied, scales",
    [
        ({}, None, True, True),  # T5 1.0
        ({"tie_word_embeddings": False}, None, False, False),  # T5 1.1 on the hub
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, True, False, False),  # 5.x
        ({"tie_word_embeddings": False}, False, True, False),
    ],
)
def test_head_of_t5(said, has_head, tied, scales):
    model = families.FAMILIES["t5"].model(T5_SMALL | said, has_head=has_head)
    assert model.logits_via_embedding == tied
    assert model.head_scale == (512**-0.5 if scales else 1.0)
    assert families.FAMILIES["t5"].aliases(model).keys() >= {"encoder.embed_tokens.weight"}
    assert ("lm_head.weight" in families.FAMILIES["t5"].aliases(model)) == tied


def test_differences_leave_out_how_it_is_computed():
    model = dataclasses.replace(
        tiny.DECODER, layer_pattern=("sliding",) * 2, sliding_window=4, dtype="bfloat16"
    )
    same = dataclasses.replace(model, layer_pattern=("sliding",), dtype="float32", remat="full")
    assert families.differences(model, same) == []
    other = dataclasses.replace(model, rope_theta=5.0, head_dim=4)
    assert families.differences(model, other) == ["head_dim", "query_pre_attn_scalar", "rope_theta"]
    assert families.differences(model, tiny.T5) == ["layout"]
    assert isinstance(model, decoder.Decoder)


def test_the_head_of_an_mt5_is_never_scaled():
    """transformers 5 saves every mT5 as tied, and its code scales no head; a T5 so saved does."""
    config = checkpoints.load("t5_1_1").config | {"tie_word_embeddings": True}
    config.pop("scale_decoder_outputs", None)
    t5_model, mt5_model = (families.find(name).model(config) for name in ("t5", "mt5"))
    assert (t5_model.head_scale, mt5_model.head_scale) == (24**-0.5, 1.0)
    with pytest.raises(errors.ConfigError, match=r"'mt5' cannot express .*scale_decoder_outputs"):
        families.find("mt5").config(t5_model)
