import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from t5sft import errors
from t5sft.train import checkpoint, manifest

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def mesh(data, fsdp):
    devices = np.array(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    return jax.sharding.Mesh(devices, ("data", "fsdp"))


def shardings(on):
    specs = {"block": {"kernel": P("fsdp", None), "scale": P()}, "embedding": P(None, "fsdp")}
    return jax.tree.map(lambda spec: NamedSharding(on, spec), specs)


def a_state(seed=0, on=None):
    keys = iter(jax.random.split(jax.random.key(seed), 3))
    shapes = {"block": {"kernel": (16, 24), "scale": (3,)}, "embedding": (5, 8)}
    params = jax.tree.map(
        lambda shape: jax.random.normal(next(keys), shape),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    params = jax.device_put(params, shardings(on or mesh(4, 2)))
    gradients = jax.tree.map(jnp.sin, params)
    return params, jax.jit(OPTIMIZER.update)(gradients, OPTIMIZER.init(params), params)[1]


def abstract(tree, on=None):
    """The shapes of a state, on another mesh when one is given."""
    by_shape = {s.shape: s.sharding for s in jax.tree.leaves(a_state(on=on)[0])} if on else {}
    replicated = NamedSharding(on, P()) if on else None
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=by_shape.get(x.shape, replicated) if on else x.sharding
        ),
        tree,
    )


def save(checkpointer, step, *, metrics=None, seed=None):
    params, opt_state = a_state(step if seed is None else seed)
    checkpointer.save(
        step,
        params=params,
        opt_state=opt_state,
        position={"example": 8 * step},
        run={"seed": 7},
        metrics=metrics,
    )
    return params, opt_state


def restore(checkpointer, step=None, on=None):
    params, opt_state = a_state()
    return checkpointer.restore(
        step, like_params=abstract(params, on), like_opt_state=abstract(opt_state, on)
    )


def assert_same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def data_files(step_dir):
    names = [p for p in step_dir.rglob("*") if p.is_file()]
    after_the_seal = ("commit_success.txt", "_CHECKPOINT_METADATA", "manifest.json")
    return sorted(p for p in names if p.name not in after_the_seal)


@pytest.fixture
def saved(tmp_path):
    """A model directory with steps 1 and 2."""
    checkpointer = checkpoint.Checkpointer(tmp_path)
    save(checkpointer, 1)
    save(checkpointer, 2)
    checkpointer.close()
    return tmp_path


def test_gives_back_the_same_bits(tmp_path):
    checkpointer = checkpoint.Checkpointer(tmp_path)
    params, opt_state = save(checkpointer, 3)
    got = restore(checkpointer)
    assert got.step == 3
    assert got.position == {"example": 24} and got.run == {"seed": 7}
    assert_same_bits((got.params, got.opt_state), (params, opt_state))
    assert got.params["embedding"].sharding == params["embedding"].sharding


@pytest.mark.parametrize("sizes", [(8, 1), (4, 2), (2, 2), (1, 1)])
def test_restores_onto_another_mesh(saved, sizes):
    on = mesh(*sizes)
    got = restore(checkpoint.Checkpointer(saved), on=on)
    assert_same_bits((got.params, got.opt_state), a_state(2))
    for name, expected in shardings(on)["block"].items():
        assert got.params["block"][name].sharding == expected


def test_state_may_be_donated_right_after_save(tmp_path):
    checkpointer = checkpoint.Checkpointer(tmp_path)
    expected = jax.tree.map(np.array, a_state(1))
    params, opt_state = save(checkpointer, 1)
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    for _ in range(3):
        params, opt_state = update((params, opt_state))
    got = restore(checkpointer)
    assert_same_bits((got.params, got.opt_state), expected)


def test_the_position_is_that_of_the_save(tmp_path):
    checkpointer = checkpoint.Checkpointer(tmp_path)
    params, opt_state = a_state()
    position = {"example": 8}
    checkpointer.save(1, params=params, opt_state=opt_state, position=position, run={})
    position["example"] = 9
    assert restore(checkpointer).position == {"example": 8}


def test_an_optimizer_without_state(tmp_path):
    checkpointer = checkpoint.Checkpointer(tmp_path)
    params, _ = a_state()
    opt_state = optax.sgd(0.1).init(params)
    checkpointer.save(1, params=params, opt_state=opt_state, position={}, run={})
    got = checkpointer.restore(like_params=abstract(params), like_opt_state=opt_state)
    assert got.opt_state == opt_state


def test_finds_a_flipped_byte_in_every_file(saved):
    files = data_files(saved / "checkpoints/2")
    assert len(files) > 15
    checkpointer = checkpoint.Checkpointer(saved)
    for path in files:
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 0x40
        path.write_bytes(changed)
        name = path.relative_to(saved / "checkpoints/2")
        with pytest.raises(errors.CheckpointError, match=f"{name} has changed.*from step 1"):
            restore(checkpointer)
        path.write_bytes(content)
    assert restore(checkpointer).step == 2


@pytest.mark.parametrize("place", [0.01, 0.37, 0.99])
def test_finds_a_flipped_bit_in_contents_that_orbax_reads_meanwhile(tmp_path, place):
    """Files above 1 MiB are hashed while they are restored; nothing of them is given out."""
    params = {"w": jax.random.normal(jax.random.key(0), (1024, 1024))}
    checkpointer = checkpoint.Checkpointer(tmp_path, async_save=False)
    checkpointer.save(1, params=params, opt_state={}, position={}, run={})
    like = abstract(params)
    assert_same_bits(checkpointer.restore(like_params=like, like_opt_state={}).params, params)
    (large,) = [p for p in data_files(tmp_path / "checkpoints/1") if p.stat().st_size > 1 << 20]
    content = bytearray(large.read_bytes())
    content[int(place * len(content))] ^= 1
    large.write_bytes(content)
    with pytest.raises(errors.DamageError, match=f"{large.name} has changed"):
        checkpointer.restore(like_params=like, like_opt_state={})
    with pytest.raises(errors.DamageError, match=f"{large.name} has changed"):
        checkpoint.restore_params(tmp_path, like)


def test_says_damage_where_reading_fails_of_it(saved, monkeypatch):
    """A run may fall back from damage, from nothing else."""
    monkeypatch.setattr(manifest, "_LARGE_BYTES", 1)
    path = max(data_files(saved / "checkpoints/2"), key=lambda p: p.stat().st_size)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(errors.DamageError, match=f"{path.name} has changed"):
        restore(checkpoint.Checkpointer(saved))


def test_finds_files_cut_short_missing_or_added(saved):
    checkpointer = checkpoint.Checkpointer(saved)
    path = max(data_files(saved / "checkpoints/2"), key=lambda p: p.stat().st_size)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(errors.CheckpointError, match=f"{path.name} has {len(content) - 1} bytes"):
        restore(checkpointer)
    path.unlink()
    with pytest.raises(errors.CheckpointError, match=f"{path.name} is missing"):
        restore(checkpointer)
    path.write_bytes(content)
    (path.parent / "new").write_bytes(b"")
    with pytest.raises(errors.CheckpointError, match="new is not in the manifest"):
        restore(checkpointer)
    (saved / "checkpoints/2/manifest.json").unlink()
    with pytest.raises(errors.CheckpointError, match="manifest.json is missing"):
        restore(checkpointer)


def test_an_earlier_step_is_there_when_the_last_is_damaged(saved):
    (saved / "checkpoints/2/data/data.json").write_text("{}")
    checkpointer = checkpoint.Checkpointer(saved)
    got = restore(checkpointer, step=1)
    assert_same_bits(got.params, a_state(1)[0])
    save(checkpointer, 2, seed=5)  # writes the step again
    assert_same_bits(restore(checkpointer).params, a_state(5)[0])


def test_steps_beyond_the_restored_one_are_another_branch(tmp_path):
    checkpointer = checkpoint.Checkpointer(tmp_path, keep_last=5)
    for step in (10, 20, 30):
        save(checkpointer, step)
    checkpointer.close()
    checkpointer = checkpoint.Checkpointer(tmp_path, keep_last=5)
    restore(checkpointer, step=10)
    assert checkpointer.steps() == [10, 20, 30]  # looking changes nothing
    save(checkpointer, 15)
    checkpointer.wait()
    assert checkpointer.steps() == [10, 15]


def test_does_not_write_a_step_twice(saved):
    checkpointer = checkpoint.Checkpointer(saved)
    restore(checkpointer)
    before = (saved / "checkpoints/2/manifest.json").stat().st_ino
    save(checkpointer, 2)
    checkpointer.wait()
    assert (saved / "checkpoints/2/manifest.json").stat().st_ino == before


@pytest.mark.parametrize("best_mode", ["min", "max"])
def test_keeps_the_last_and_the_best(tmp_path, best_mode):
    checkpointer = checkpoint.Checkpointer(
        tmp_path, keep_last=2, keep_best=1, best_metric="validation/loss", best_mode=best_mode
    )
    assert checkpointer.latest_step() is None and checkpointer.best_step() is None
    losses = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 2.0, 5: None}
    for step, loss in losses.items():
        sign = 1 if best_mode == "min" else -1
        save(checkpointer, step, metrics=None if loss is None else {"validation/loss": sign * loss})
    checkpointer.wait()
    assert checkpointer.steps() == [2, 4, 5]
    assert checkpointer.latest_step() == 5 and checkpointer.best_step() == 2
    best = json.loads((tmp_path / "checkpoints/best.json").read_text())
    assert best == {"step": 2, "metric": "validation/loss", "value": 1.0 * sign}


def test_removes_what_a_killed_process_left(saved):
    steps = saved / "checkpoints"
    (steps / "3.orbax-checkpoint-tmp/params").mkdir(parents=True)
    (steps / "best.json.orbax-checkpoint-tmp").write_text("{")
    (steps / "1.retired").touch()  # its deletion had begun
    outside = saved / "outside"
    outside.mkdir()
    (steps / "4.orbax-checkpoint-tmp").symlink_to(outside)
    checkpointer = checkpoint.Checkpointer(saved)
    assert [path.name for path in steps.iterdir()] == ["2"]
    assert outside.exists()
    assert checkpointer.steps() == [2]


def test_another_model_is_refused_with_names(saved):
    checkpointer = checkpoint.Checkpointer(saved)
    params, opt_state = a_state()
    like, opt_like = abstract(params), abstract(opt_state)

    def message(**changed):
        with pytest.raises(errors.CheckpointError) as caught:
            checkpointer.restore(like_params=like | changed, like_opt_state=opt_like)
        return str(caught.value)

    wider = jax.ShapeDtypeStruct((5, 9), jnp.float32)
    assert "params embedding: [5, 8] float32, the model has [5, 9] float32" in message(
        embedding=wider
    )
    halved = jax.ShapeDtypeStruct((5, 8), jnp.bfloat16)
    assert "params embedding: [5, 8] float32, the model has [5, 8] bfloat16" in message(
        embedding=halved
    )
    assert "params head: not in the checkpoint" in message(head=wider)
    assert "params block/kernel: not in the model" in message(
        block={"scale": like["block"]["scale"]}
    )
    with pytest.raises(errors.CheckpointError, match="opt_state .*: not in the model"):
        checkpointer.restore(like_params=like, like_opt_state=optax.sgd(0.1).init(params))


def test_says_which_steps_there_are(saved):
    with pytest.raises(errors.CheckpointError, match=r"no checkpoint of step 7 \(steps: 1, 2\)"):
        restore(checkpoint.Checkpointer(saved), step=7)
    with pytest.raises(errors.CheckpointError, match=r"no checkpoint \(steps: none\)"):
        restore(checkpoint.Checkpointer(saved / "empty"))


@pytest.mark.parametrize("form", [".", "checkpoints", "checkpoints/2"])
def test_parameters_alone_from_every_form_of_path(saved, form):
    expected = a_state(2)[0]
    assert_same_bits(checkpoint.restore_params(saved / form, abstract(expected)), expected)


def test_parameters_alone_are_verified_too(saved):
    path = saved / "checkpoints/2/opt_state/_METADATA"
    path.write_text(path.read_text() + " ")
    with pytest.raises(errors.CheckpointError, match="opt_state/_METADATA has"):
        checkpoint.restore_params(saved, abstract(a_state()[0]))
    with pytest.raises(errors.CheckpointError, match="no checkpoint; .*nowhere"):
        checkpoint.restore_params(saved / "nowhere", abstract(a_state()[0]))


def test_params_only_checkpoint(tmp_path):
    params = a_state()[0]
    checkpoint.save_params(tmp_path / "base", params, {"made_by": "test"})
    assert_same_bits(checkpoint.restore_params(tmp_path / "base", abstract(params)), params)
    on = mesh(2, 2)
    got = checkpoint.restore_params(tmp_path / "base", abstract(params, on))
    assert_same_bits(got, params)
    assert json.loads((tmp_path / "base/run/run.json").read_text()) == {"made_by": "test"}
    with pytest.raises(errors.StorageError, match="already there"):
        checkpoint.save_params(tmp_path / "base", params, {})


def test_params_only_checkpoint_in_bfloat16(tmp_path):
    params = a_state()[0]
    checkpoint.save_params(tmp_path / "base", params, {}, dtype="bfloat16")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    assert_same_bits(checkpoint.restore_params(tmp_path / "base", abstract(params)), rounded)
    run = json.loads((tmp_path / "base/run/run.json").read_text())
    assert run == {"stored_dtype": "bfloat16"}


def test_params_only_checkpoint_says_nothing_of_this_machine(tmp_path):
    checkpoint.save_params(tmp_path / "base", a_state()[0], {})
    for path in (tmp_path / "base").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path


def test_a_save_that_fails_is_a_storage_error_and_the_last_step_stays(saved, monkeypatch):
    checkpointer = checkpoint.Checkpointer(saved)

    def no_space(directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("t5sft.train.manifest.seal", no_space)
    save(checkpointer, 3)
    with pytest.raises(errors.StorageError, match="step 3 could not be written .*No space left"):
        checkpointer.wait()
    monkeypatch.undo()
    assert restore(checkpoint.Checkpointer(saved)).step == 2


def test_checks_the_space_first(saved, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(errors.StorageError, match="no room for step 3"):
        save(checkpoint.Checkpointer(saved), 3)


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageError, match="cannot write"):
        checkpoint.Checkpointer(tmp_path / "file")


CHILD = """
import sys, jax, jax.numpy as jnp
from t5sft.train import checkpoint
checkpointer = checkpoint.Checkpointer(sys.argv[1], keep_last=2)
shapes = {str(i): jax.ShapeDtypeStruct((256, 1024), jnp.float32) for i in range(8)}
start = checkpointer.latest_step() or 0
if start:
    got = checkpointer.restore(like_params=shapes, like_opt_state={})
    assert all((value == start).all() for value in got.params.values()), start
print("restored", start, flush=True)
for step in range(start + 1, 10_000):
    params = jax.tree.map(lambda x: jnp.full(x.shape, step, x.dtype), shapes)
    checkpointer.save(step, params=params, opt_state={}, position={"step": step}, run={})
    print("saved", step, flush=True)
"""


def kill_rounds(directory, delays):
    """Starts the child again and again, kills it while it saves; the steps it resumed from."""
    resumed = []
    for delay in [*delays, 0.0]:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        lines = [child.stdout.readline() for _ in range(4)]  # restored, three steps saved
        assert lines[0].startswith("restored") and lines[3].startswith("saved"), lines
        resumed.append(int(lines[0].split()[1]))
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    return resumed


def test_survives_kill_9(tmp_path):
    resumed = kill_rounds(tmp_path, [0.0])
    # Of three saves the last was in flight: it may be lost, those before it may not.
    assert resumed[0] == 0 and resumed[1] >= 2


@pytest.mark.slow
def test_survives_many_kills(tmp_path):
    delays = np.random.default_rng(0).uniform(0.0, 0.4, size=12)
    resumed = kill_rounds(tmp_path, delays)
    assert all(after >= before + 2 for before, after in itertools.pairwise(resumed)), resumed


PEER = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
port, index, directory = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
from t5sft import errors
from t5sft.train import checkpoint

sharding = NamedSharding(jax.make_mesh((4,), ("data",)), P("data"))
rows = np.arange(32.0, dtype=np.float32).reshape(8, 4)
params = {"w": jax.make_array_from_callback(rows.shape, sharding, lambda at: rows[at])}
like = {"w": jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=sharding)}
checkpointer = checkpoint.Checkpointer(directory, keep_last=1)
for step in (1, 2, 3):
    checkpointer.save(step, params=params, opt_state={}, position={"i": step}, run={})
checkpointer.wait()
multihost_utils.sync_global_devices("old steps are removed")
got = checkpointer.restore(like_params=like, like_opt_state={})
for shard in got.params["w"].addressable_shards:
    np.testing.assert_array_equal(shard.data, rows[shard.index])
damaged = directory / "checkpoints/3/data/data.json"
if index == 0:
    damaged.write_text(damaged.read_text().replace("3", "4"))
multihost_utils.sync_global_devices("damaged")
try:
    checkpointer.restore(like_params=like, like_opt_state={})
except errors.CheckpointError as error:
    print("RESULT", got.step, got.position, checkpointer.steps(), str(error)[:70], flush=True)
multihost_utils.sync_global_devices("end")
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_two_processes_save_restore_and_refuse_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    peers = [
        subprocess.Popen(
            [sys.executable, "-c", PEER, str(port), str(index), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
            | {"JAX_PLATFORMS": "cpu"},
        )
        for index in range(2)
    ]
    texts = [peer.communicate(timeout=600)[0] for peer in peers]
    results = [line for text in texts for line in text.splitlines() if line.startswith("RESULT")]
    same = "RESULT 3 {'i': 3} [3] damaged checkpoint: "
    assert [line.startswith(same) for line in results] == [True, True], texts
    assert sum("data/data.json" in line for line in results) == 1
    assert sum("another process" in line for line in results) == 1


def test_what_is_shipped_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (checkpoint.find("tasks/village/base_t5") / "params").is_dir()
    with pytest.raises(errors.CheckpointError, match="no checkpoint; .*tasks/village/base_t6"):
        checkpoint.find("tasks/village/base_t6")
