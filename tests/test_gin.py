"""Every gin file is gin, and every recipe resolves for every verb, down to the made objects."""

import shutil

import pytest
from convert import written

from t5sft import launch, paths

TOP = paths.folder("gin").parent
FILES = [path.relative_to(TOP).as_posix() for path in sorted(TOP.glob("gin/**/*.gin"))]
RECIPES = launch.recipes()
MODEL_DIR = {"MODEL_DIR": "/nowhere"}


def test_there_are_recipes():
    assert "gin/recipes/quickstart.gin" in RECIPES


@pytest.mark.parametrize("name", FILES)
def test_every_file_parses(name):
    assert list(launch.read(name, launch.find(name)))


@pytest.mark.parametrize("name", FILES)
def test_every_file_opens_with_what_it_is(name):
    assert (TOP / name).read_text().startswith("# ")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("verb", list(launch.ROOTS))
def test_every_recipe_resolves(name, verb):
    launch.resolve(verb, [name], macros=MODEL_DIR)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_headed_by_its_command(name):
    comment = [line for line in (TOP / name).read_text().splitlines() if line.startswith("#")]
    assert any(f"t5sft train --gin_file {name}" in line for line in comment)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """recipe -> a directory of weights, for those that take the model from it."""
    folder = tmp_path_factory.mktemp("weights")
    found = {"gin/recipes/tune_t5.gin": "t5_1_1", "gin/recipes/tune_decoder.gin": "llama3"}
    for recipe, name in found.items():
        path = written.directory(folder / name, name)
        shutil.copyfile(TOP / "tasks/village/vocab.model", path / "spiece.model")
        found[recipe] = str(path)
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_its_model_and_optimizer(name, weights):
    macros = MODEL_DIR | ({"INIT_FROM": weights[name]} if name in weights else {})
    _, bound = launch.bind(launch.resolve("train", [name], macros=macros))
    assert bound["model"].layout in ("encoder_decoder", "decoder")
    assert bound["steps"] > 0
