"""What hashing costs: saves and restores of random numbers with and without our manifest.

python scripts/bench/checkpoint.py [--gigabytes 1] [--repeats 3] [--directory DIR]

A save ends when the step is committed. Kinds alternate in one process; medians of wall and CPU
seconds. Goal: the manifest costs less than 10 % of a save, and of a restore.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp

from t5sft.train import checkpoint, manifest, stored


def tree(gigabytes: float) -> dict:
    """Random parameters of 16 leaves."""
    columns = int(gigabytes * 1e9 / 16 / 4 / 4096)
    keys = jax.random.split(jax.random.key(0), 16)
    return {f"leaf{i}": jax.random.normal(key, (4096, columns)) for i, key in enumerate(keys)}


def timed(action) -> tuple[float, float]:
    """Returns wall and CPU seconds."""
    begun, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - begun, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", default=None, help="where to write; default: temporary")
    given = parser.parse_args()
    params = tree(given.gigabytes)
    jax.block_until_ready(params)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params)
    seconds: dict[str, list] = {}
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        for turn in range(given.repeats):
            for kind in ("with", "without"):
                directory = pathlib.Path(folder) / f"{turn}-{kind}"
                made = checkpoint.Checkpointer(directory, async_save=False)

                def save(made=made):
                    made.save(1, params=params, opt_state={}, position={}, run={})

                def restore(made=made):
                    jax.block_until_ready(made.restore(like_params=like, like_opt_state={}).params)

                seal = manifest.seal if kind == "with" else lambda directory: None
                with mock.patch.object(manifest, "seal", seal):
                    seconds.setdefault(f"save {kind}", []).append(timed(save))
                verify = stored.verify if kind == "with" else lambda path, advice: None
                with mock.patch.object(stored, "verify", verify):
                    seconds.setdefault(f"restore {kind}", []).append(timed(restore))
                made.close()
    medians = {
        name: [round(statistics.median(column), 3) for column in zip(*rows, strict=True)]
        for name, rows in seconds.items()
    }
    cost = {
        f"{what} {clock}": round(medians[f"{what} with"][i] / medians[f"{what} without"][i] - 1, 4)
        for what in ("save", "restore")
        for i, clock in enumerate(("wall", "cpu"))
    }
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    print(json.dumps({"bench": "checkpoint", "bytes": size, "seconds": medians, "cost": cost}))


if __name__ == "__main__":
    main()
