"""Every gin file is gin, and every recipe resolves for every verb, down to the made objects."""

import shutil

import pytest
from convert import written

from t5sft import errors, launch, paths, verbs

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
    launch.resolve(verb, [name], macros=MODEL_DIR, arguments=verbs.VERBS[verb].positional)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_headed_by_its_command(name):
    comment = [line for line in (TOP / name).read_text().splitlines() if line.startswith("#")]
    assert any(f"t5sft train --gin_file {name}" in line for line in comment)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """recipe -> a directory of weights, for those that take model or tokenizer from it."""
    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for name in ("t5_1_1", "llama3"):
        made[name] = written.directory(folder / name, name)
        shutil.copyfile(TOP / "tasks/village/vocab.model", made[name] / "spiece.model")
    files = ("gin/models/tokenizer.gin", "gin/models/brought.gin")
    texts = {recipe: (TOP / recipe).read_text() for recipe in RECIPES}
    return {
        recipe: str(made["t5_1_1" if "t5" in recipe else "llama3"])
        for recipe, text in texts.items()
        if any(f"include '{file}'" in text for file in files)
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_its_model_and_optimizer(name, weights):
    macros = MODEL_DIR | ({"INIT_FROM": weights[name]} if name in weights else {})
    _, bound = launch.bind(launch.resolve("train", [name], macros=macros))
    assert bound["model"].layout in ("encoder_decoder", "decoder")
    assert bound["steps"] > 0


def test_recipes_of_public_weights_take_the_tokenizer_that_lies_beside_them(weights):
    assert len(weights) == 7
    for recipe in weights:
        found = weights[recipe]
        _, bound = launch.bind(
            launch.resolve("train", [recipe], macros=MODEL_DIR | {"INIT_FROM": found})
        )
        assert bound["data"].vocabulary == found
        with pytest.raises(errors.ConfigError, match="init_from; add --init_from DIR"):
            launch.bind(launch.resolve("train", [recipe], macros=MODEL_DIR))
