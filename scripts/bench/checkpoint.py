"""What hashing costs: saves and restores of random numbers with and without our manifest.

python scripts/bench/checkpoint.py [--gigabytes 1] [--repeats 5] [--directory DIR]

A save ends when the step is committed. "cold" restores find none of their files in the page cache,
"warm" ones all. With and without take turns in one process, in another order every turn; the first
turn is not counted, it grows the heap. Cost is that of medians of wall and CPU seconds; other work
on the machine shakes both, so there is a second figure of the CPU: hashing alone over the whole.
Goal: less than 10 % of a save, and of a restore.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp

from t5sft.train import checkpoint, manifest, stored

KINDS = ("with", "without")


def tree(gigabytes: float) -> dict:
    """Random parameters of 16 leaves."""
    columns = int(gigabytes * 1e9 / 16 / 4 / 4096)
    keys = jax.random.split(jax.random.key(0), 16)
    return {f"leaf{i}": jax.random.normal(key, (4096, columns)) for i, key in enumerate(keys)}


def timed(action) -> tuple[float, float]:
    """Returns wall and CPU seconds, of all threads."""
    begun, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - begun, time.process_time() - cpu


def forget(directory: pathlib.Path) -> None:
    """Takes the files out of the page cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def hashing(kind: str):
    """Leaves the manifest out, for "without"."""
    if kind == "with":
        yield
        return
    nothing = lambda *_, **__: None  # noqa: E731
    with (
        mock.patch.object(manifest, "seal", nothing),
        mock.patch.object(stored, "verify", nothing),
    ):
        yield


def figures(rows: dict[str, list]) -> dict:
    """Returns medians without the first turn, and what the hashing costs."""
    seconds = {
        name: [round(statistics.median(column), 4) for column in zip(*taken[1:], strict=True)]
        for name, taken in rows.items()
    }
    cost, share = {}, {}
    for what in ("save", "restore warm", "restore cold"):
        for i, clock in enumerate(("wall", "cpu")):
            without = seconds[f"{what} without"][i]
            cost[f"{what} {clock}"] = round(seconds[f"{what} with"][i] / without - 1, 4)
        share[what] = round(seconds["hashing alone"][1] / seconds[f"{what} without"][1], 4)
    return {"seconds": seconds, "cost": cost, "cpu_share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5, help="turns that count")
    parser.add_argument("--directory", default=None, help="where to write; default: temporary")
    given = parser.parse_args()
    params = tree(given.gigabytes)
    jax.block_until_ready(params)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params)
    rows: dict[str, list] = {}

    def take(what: str, kind: str, action) -> None:
        with hashing(kind):
            rows.setdefault(f"{what} {kind}".strip(), []).append(timed(action))

    whole: dict = {"params": params, "opt_state": {}, "position": {}, "run": {}}
    with tempfile.TemporaryDirectory(dir=given.directory) as temporary:
        folder = pathlib.Path(temporary)
        for turn in range(given.repeats + 1):
            order = KINDS if turn % 2 else KINDS[::-1]
            made = {k: checkpoint.Checkpointer(folder / k, async_save=False) for k in KINDS}
            for kind in order:
                take("save", kind, lambda kind=kind: made[kind].save(1, **whole))  # noqa: B023

            def restore():
                got = made["with"].restore(like_params=like, like_opt_state={})  # noqa: B023
                jax.block_until_ready(got.params)

            for kind in order:
                take("restore warm", kind, restore)
            step = folder / "with/checkpoints/1"
            take("hashing alone", "", lambda step=step: manifest.find_damage(step))
            for kind in order:
                forget(folder)
                take("restore cold", kind, restore)
            for kind in KINDS:
                made[kind].close()
                shutil.rmtree(folder / kind)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    print(json.dumps({"bench": "checkpoint", "bytes": size, **figures(rows)}))


if __name__ == "__main__":
    main()
