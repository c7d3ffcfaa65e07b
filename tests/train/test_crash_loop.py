"""Forty kills at random moments, and the run is the one that nobody killed."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from test_run import data  # noqa: F401  fixture

from t5sft.train import events, goodput, inventory, metrics, places

HERE = pathlib.Path(__file__).parent
STEPS, KILLS = 240, 40
# One process imports everything and forks: a run begins in a second instead of five.
ZYGOTE = """
import os, pathlib, random, signal, sys, time
import conftest, test_run
from golden import stream
from t5sft.data import batches, mixture
from t5sft.train import rounds, state

def record(directory, told):
    plain = batches.stream
    def recording(*arguments, **options):
        with open(directory / "consumed.txt", "a", buffering=1) as file:
            for batch in (source := plain(*arguments, **options)):
                try:
                    file.write(f"{batch.number} {batch.rows}\\n")
                    os.write(told, b".")
                    yield batch
                finally:
                    if sys.exc_info()[0] is GeneratorExit:
                        source.close()
    return recording

def child(cache, directory, told, steps):
    directory.mkdir(exist_ok=True)
    output = os.open(directory / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1), os.dup2(output, 2)
    rounds.batches.stream = record(directory, told)
    test_run.run.step_lib.build = test_run.build
    state.initial_params = test_run.draw
    mixture.BLOCK = test_run.BLOCK
    data = test_run.dataclasses.replace(test_run.DATA, cache_dir=cache)
    test_run.train(data, directory, steps=steps, mesh=stream.mesh("1"), save_every=3,
                   eval_every=20, log_every=20, keep_last=2)

def start(*arguments):
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 1
    try:
        os.close(read)
        child(*arguments[:2], write, arguments[2])
        code = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(code)

cache, parent, steps, kills = sys.argv[1], pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:])
pid, read = start(cache, parent / "whole", steps)
begun = time.monotonic()
while os.read(read, 1 << 16): pass
print("whole", os.waitpid(pid, 0)[1], round(time.monotonic() - begun, 1), flush=True)
rng = random.Random(0)
done = {"start": 0, "run": 0}
while sum(done.values()) < kills:
    pid, read = start(cache, parent / "killed", steps)
    if rng.random() < 0.3:
        time.sleep(rng.uniform(0.05, 1.5))
        phase = "start"
    else:
        for _ in range(rng.randint(3, 14)):  # so many batches later, and not so many seconds
            os.read(read, 1)
        time.sleep(rng.uniform(0.0, 0.05))
        phase = "run"
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(read)
    if status == 0:
        break  # it was done before the kill
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    done[phase] += 1
pid, read = start(cache, parent / "killed", steps)
while os.read(read, 1 << 16): pass
print("killed", os.waitpid(pid, 0)[1], done["start"], done["run"], flush=True)
"""


def consumed(directory):
    """Batch -> the examples in it; all starts must have taken the same."""
    found: dict[int, str] = {}
    for line in (directory / "consumed.txt").read_text().splitlines():
        if not line.endswith("]"):  # killed while it wrote
            continue
        number, _, rows = line.partition(" ")
        assert found.setdefault(int(number), rows) == rows
    return found


@pytest.mark.slow
def test_forty_kills_change_nothing(data, tmp_path):  # noqa: F811
    done = subprocess.run(
        [sys.executable, "-c", ZYGOTE, data.cache_dir, tmp_path, str(STEPS), str(KILLS)],
        env=os.environ
        | {
            "PYTHONPATH": f"{HERE}:{HERE.parent}:{HERE.parents[1]}",
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"),
            "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        capture_output=True,
        text=True,
        timeout=1800,
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert done.returncode == 0, done.stderr[-3000:]
    told = re.search(r"killed 0 (\d+) (\d+)", done.stdout)
    assert told, (done.stdout, (killed / "output.txt").read_text()[-3000:])
    assert sum(map(int, told.groups())) == KILLS
    assert consumed(killed) == consumed(whole)
    rows = [inventory.checkpoint("list", str(d), step=STEPS) for d in (whole, killed)]
    digests = [[(r["params"], r["opt_state"]) for r in row["checkpoints"]] for row in rows]
    assert digests[0] == digests[1]
    last = [
        json.loads((d / f"checkpoints/{STEPS}/data/data.json").read_text()) for d in (whole, killed)
    ]
    assert last[0] == last[1]
    lines = [
        [(x["step"], x["values"]["loss"]) for x in metrics.read(d) if x["split"] == "validation"]
        for d in (whole, killed)
    ]
    assert lines[0] == lines[1]
    names = {p.name for p in (killed / "checkpoints").iterdir()} - {"best.json"}
    assert names == set(map(str, places.committed(killed)))  # no litter
    assert not (killed / "owner.json").exists()
    figures = goodput.add_up(events.read(killed))
    assert figures["step"] == STEPS and figures["attempts"] > KILLS / 2
    print(done.stdout, {k: figures[k] for k in ("lost_steps", "attempts", "goodput", "kinds")})
