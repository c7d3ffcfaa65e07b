"""Every file in gin/models makes a model of the published size."""

import math

import gin
import jax
import pytest

from t5sft import paths

SIZES = {
    "tiny_t5": None,
    "tiny_decoder": None,
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "llama2_7b": 6_738_415_616,
    "llama3_8b": 8_030_261_248,
}
FOLDER = paths.folder("gin") / "models"


def test_no_file_is_left_out():
    assert {path.stem for path in FOLDER.glob("*.gin")} == {*SIZES}


@pytest.mark.parametrize("name", SIZES)
def test_number_of_parameters(name):
    gin.clear_config()
    gin.parse_config_file(str(FOLDER / f"{name}.gin"))
    model = gin.query_parameter("%MODEL").scoped_configurable_fn()
    num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.abstract()[0]))
    assert num_params == (SIZES[name] or pytest.approx(1.2e6, rel=0.5))
    assert hash(model) == hash(type(model)(**vars(model)))  # a static argument of jit
