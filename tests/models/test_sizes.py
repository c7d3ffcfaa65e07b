"""Every file in gin/models makes a model of the published size."""

import functools
import math

import gin
import jax
import pytest

from t5sft import paths


def text_model(total, emb_dim):
    """A published count without the part that sees images: SigLIP (27 layers of width 1152, 4304
    in the feed-forward layers, 4096 patches of 14 x 14 x 3) and the projector with its norm."""
    norm, d, f = 2 * 1152, 1152, 4304
    layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * norm
    tower = (14 * 14 * 3 * d + d) + 4096 * d + 27 * layer + norm
    return total - tower - (d * emb_dim + d)


# Counts as the hubs tell them, of tied heads once.
SIZES = {
    "tiny_t5": None,
    "tiny_decoder": None,
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3_1_8b": 8_030_261_248,
    "llama3_1_70b": 70_553_706_496,
    "llama3_3_70b": 70_553_706_496,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "mistral_7b": 7_241_732_096,
    "mistral_7b_v0_3": 7_248_023_552,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_72b": 72_706_203_648,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "gemma_2b": 2_506_172_416,
    "gemma_7b": 8_537_680_896,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": text_model(4_300_079_472, 2560),
    "gemma3_12b": text_model(12_187_325_040, 3840),
    "gemma3_27b": text_model(27_432_406_640, 5376),
    "phi3_mini": 3_821_079_552,
}
FOLDER = paths.folder("gin") / "models"


def test_no_file_is_left_out():
    brought = {"brought", "tokenizer"}  # what the weights bring has no size of its own
    assert {path.stem for path in FOLDER.glob("*.gin")} - brought == {*SIZES}


@functools.cache
def read(name):
    gin.clear_config()
    gin.parse_config_file(str(FOLDER / f"{name}.gin"))
    return gin.query_parameter("%MODEL").scoped_configurable_fn()


@pytest.mark.parametrize("name", SIZES)
def test_number_of_parameters(name):
    model = read(name)
    num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.abstract()[0]))
    assert num_params == (SIZES[name] or pytest.approx(1.2e6, rel=0.5))
    assert hash(model) == hash(type(model)(**vars(model)))  # a static argument of jit
    if SIZES[name]:
        text = (FOLDER / f"{name}.gin").read_text(encoding="utf-8")
        assert f"{num_params:,} parameters" in text
