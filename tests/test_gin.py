"""Every gin file is gin, and every recipe resolves for every verb, down to the made objects."""

import pytest

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


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_its_model_and_optimizer(name):
    _, bound = launch.bind(launch.resolve("train", [name], macros=MODEL_DIR))
    assert bound["model"].layout in ("encoder_decoder", "decoder")
    assert bound["steps"] > 0
