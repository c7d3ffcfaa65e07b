"""`t5sft checkpoint`: digests of contents, damage, old steps."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from t5sft import cli, errors
from t5sft.train import checkpoint, inventory, owner, places


def tree(value=0.0):
    return {
        "layers": {"kernel": jnp.arange(64 * 8, dtype=jnp.float32).reshape(64, 8) + value},
        "scale": jnp.ones((3,), jnp.bfloat16),
        "count": jnp.int32(7),
    }


def save(directory, steps, *, devices=8, value=0.0, **options):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    place = lambda x: NamedSharding(mesh, P("data") if x.ndim == 2 else P())  # noqa: E731
    params = jax.tree.map(lambda x: jax.device_put(x, place(x)), tree(value))
    made = checkpoint.Checkpointer(directory, keep_last=9, **options)
    for step in steps:
        made.save(step, params=params, opt_state=params, position={"block": 0}, run={})
    made.close()


def test_the_digest_is_of_the_contents_not_of_files(tmp_path):
    """One device or eight give other files; another number gives another digest."""
    digests = {}
    for name, devices, value in (("a", 1, 0.0), ("b", 8, 0.0), ("c", 8, 1e-3)):
        save(tmp_path / name, [1], devices=devices, value=value)
        (row,) = inventory.checkpoint("list", str(tmp_path / name))["checkpoints"]
        assert row["params"] == row["opt_state"] and row["bytes"] > 2 * 64 * 8 * 4 / 2
        digests[name] = row["params"]
    files = [
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("d/*")}
        for n in "ab"
    ]
    assert files[0] != files[1]
    assert digests["a"] == digests["b"] != digests["c"]


def test_the_digest_does_not_depend_on_the_pieces_it_reads(tmp_path, monkeypatch):
    save(tmp_path, [1])
    path = places.committed(tmp_path)[1]
    whole = inventory.content_digest(path, "params")
    monkeypatch.setattr(inventory, "_PIECE_BYTES", 100)
    assert inventory.content_digest(path, "params") == whole


def test_verify_names_the_damaged_file(tmp_path):
    save(tmp_path, [1, 2])
    assert inventory.checkpoint("verify", str(tmp_path))["verified"] == [1, 2]
    victim = max((tmp_path / "checkpoints/2").rglob("d/*"), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(errors.CheckpointError, match=f"1 of 2 damaged, step 2: .*{victim.name}"):
        inventory.checkpoint("verify", str(tmp_path))
    assert inventory.checkpoint("verify", str(tmp_path), step=1)["verified"] == [1]


def test_prune_keeps_what_is_asked_and_respects_the_owner(tmp_path, capsys):
    save(tmp_path, [1, 2, 3, 4])
    litter = tmp_path / "checkpoints/5.orbax-checkpoint-tmp"
    litter.mkdir()
    got = inventory.checkpoint("prune", str(tmp_path), keep_last=2)
    assert got == {"removed": [1, 2], "kept": [3, 4]} and not litter.exists()
    with owner.own(tmp_path), pytest.raises(errors.OwnerError):
        inventory.checkpoint("prune", str(tmp_path), keep_last=1)
    assert sorted(places.committed(tmp_path)) == [3, 4]


@pytest.mark.parametrize(
    "words, code, told",
    [
        (["lst", "."], 2, "did you mean 'list'"),
        (["list", "nowhere"], 5, "no checkpoint"),
        (["list", "run", "--step", "9"], 5, "no step 9 .steps: 1."),
    ],
)
def test_mistakes_at_the_command_line(tmp_path, monkeypatch, capsys, words, code, told):
    save(tmp_path / "run", [1])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["checkpoint", *words]) == code
    captured = capsys.readouterr().err
    assert re.search(told, captured), captured


def test_list_as_json(tmp_path, capfd):
    save(pathlib.Path(tmp_path), [1])
    assert cli.main(["checkpoint", "list", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["checkpoints"]
    assert row["step"] == 1 and len(row["params"]) == 64
