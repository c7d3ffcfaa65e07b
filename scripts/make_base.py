"""Makes the base models that the quickstarts tune, and ships them: tasks/village/base_*.

  python scripts/make_base.py t5        an hour of one core
  python scripts/make_base.py decoder
  python scripts/make_base.py t5 --model_dir ~/runs/base_t5     go on, or only export
  python scripts/make_base.py t5 --facts_only                   what the shipped one says of itself

The recipe gin/recipes/village_base_<name>.gin trains in --model_dir; the parameters of the last
step are then written in bfloat16, a few megabytes.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

import jax

from t5sft import launch
from t5sft.convert import describe
from t5sft.data import vocab
from t5sft.train import checkpoint, manifest, stored

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    """Trains what is left to train, then exports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("t5", "decoder"))
    parser.add_argument("--model_dir", help="default: runs/base_NAME of the checkout")
    parser.add_argument("--export_only", action="store_true", help="do not train")
    parser.add_argument("--facts_only", action="store_true", help="the parameters stay")
    arguments = parser.parse_args()
    recipe = f"gin/recipes/village_base_{arguments.name}.gin"
    if arguments.facts_only:
        tell(folder(arguments.name), recipe)
        return
    model_dir = pathlib.Path(arguments.model_dir or ROOT / "runs" / f"base_{arguments.name}")
    if not arguments.export_only:
        command = [sys.executable, "-m", "t5sft", "train", "--gin_file", recipe]
        subprocess.run([*command, "--model_dir", str(model_dir)], check=True, cwd=ROOT)
    export(model_dir.expanduser().absolute(), arguments.name, recipe)


def folder(name: str) -> pathlib.Path:
    """Returns where a base is shipped."""
    return ROOT / "tasks" / "village" / f"base_{name}"


def facts(recipe: str, step: int) -> dict:
    """Returns what a base says of itself: score, generate and convert need no recipe then."""
    _, bound = launch.bind(launch.resolve("train", [recipe], macros={"MODEL_DIR": "none"}))
    vocabulary = bound["data"].vocabulary
    return {
        "recipe": recipe,
        "step": step,
        "model": describe.to_json(bound["model"]),
        "vocabulary": vocabulary,
        "vocabulary_sha256": vocab.load(vocabulary).fingerprint(),
    }


def tell(target: pathlib.Path, recipe: str):
    """Renews what a shipped base says of itself, and its seal."""
    file = target / "run" / "run.json"
    old = json.loads(file.read_text())
    file.write_text(json.dumps({**old, **facts(recipe, old["step"])}))
    manifest.seal(target)


def export(model_dir: pathlib.Path, name: str, recipe: str):
    """Writes the parameters of the last step to tasks/village/base_NAME."""
    steps = [int(path.name) for path in (model_dir / "checkpoints").iterdir() if path.is_dir()]
    last = model_dir / "checkpoints" / str(max(steps))
    saved = stored.open_orbax().metadata(last).item_metadata["params"]
    saved = getattr(saved, "tree", saved)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)
    params = checkpoint.restore_params(last, like)
    target = folder(name)
    if target.exists():
        shutil.rmtree(target)
    checkpoint.save_params(target, params, facts(recipe, max(steps)), dtype="bfloat16")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target.relative_to(ROOT)}: {size / 1e6:.1f} MB, step {max(steps)} of {recipe}")


if __name__ == "__main__":
    main()
