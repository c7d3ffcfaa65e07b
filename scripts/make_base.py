"""Makes the base models that the quickstarts tune, and ships them: tasks/village/base_*.

  python scripts/make_base.py t5        an hour of one core
  python scripts/make_base.py decoder
  python scripts/make_base.py t5 --model_dir ~/runs/base_t5     go on, or only export

The recipe gin/recipes/village_base_<name>.gin trains in --model_dir; the parameters of the last
step are then written in bfloat16, a few megabytes.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

import jax

from t5sft.train import checkpoint, stored

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    """Trains what is left to train, then exports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("t5", "decoder"))
    parser.add_argument("--model_dir", help="default: runs/base_NAME of the checkout")
    parser.add_argument("--export_only", action="store_true", help="do not train")
    arguments = parser.parse_args()
    recipe = f"gin/recipes/village_base_{arguments.name}.gin"
    model_dir = pathlib.Path(arguments.model_dir or ROOT / "runs" / f"base_{arguments.name}")
    if not arguments.export_only:
        command = [sys.executable, "-m", "t5sft", "train", "--gin_file", recipe]
        subprocess.run([*command, "--model_dir", str(model_dir)], check=True, cwd=ROOT)
    export(model_dir.expanduser().absolute(), arguments.name, recipe)


def export(model_dir: pathlib.Path, name: str, recipe: str):
    """Writes the parameters of the last step to tasks/village/base_NAME."""
    steps = [int(path.name) for path in (model_dir / "checkpoints").iterdir() if path.is_dir()]
    last = model_dir / "checkpoints" / str(max(steps))
    saved = stored.open_orbax().metadata(last).item_metadata["params"]
    saved = getattr(saved, "tree", saved)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)
    params = checkpoint.restore_params(last, like)
    target = ROOT / "tasks" / "village" / f"base_{name}"
    if target.exists():
        shutil.rmtree(target)
    facts = {"recipe": recipe, "step": max(steps)}
    checkpoint.save_params(target, params, facts, dtype="bfloat16")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target.relative_to(ROOT)}: {size / 1e6:.1f} MB, step {max(steps)} of {recipe}")


if __name__ == "__main__":
    main()
