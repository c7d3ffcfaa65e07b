"""The verb: a recipe on fake devices of this machine, with known memory, FLOPs and collectives."""

import contextlib
import json

import jax
import jax.numpy as jnp
import pytest

from t5sft import cli, errors
from t5sft.models import decoder
from t5sft.parallel import mesh as mesh_lib
from t5sft.plan import measure, report, run
from t5sft.train import optim

FIELDS = {
    "topology", "num_devices", "hbm_bytes_per_chip", "memory", "flops_per_step", "collectives",
    "wire_bytes_per_chip", "hbm_traffic_bytes_per_chip", "step_seconds",
    "tokens_per_second_per_chip", "mfu", "compile_seconds",
}  # fmt: skip
MODEL = decoder.Decoder(
    vocab_size=64, emb_dim=32, mlp_dim=64, num_heads=4, num_kv_heads=4, head_dim=8, num_layers=3
)  # fmt: skip


def recipe(**changed):
    rate = optim.schedule(peak=1e-3, total_steps=9)
    told = dict(
        model=MODEL,
        optimizer=optim.adamw(learning_rate=rate),
        steps=9,
        batch_size=8,
        decoder_length=16,
    )
    return {**told, "topology": "cpu-8", **changed}


def test_a_recipe_on_eight_fake_devices(capsys):
    got = run.plan(**recipe(mesh=mesh_lib.MeshSpec(data=1, fsdp=8)))
    assert got.keys() >= FIELDS
    assert got["num_devices"] == 8 and got["mesh"] == {"fsdp": 8}
    memory, n = got["memory"], got["num_parameters"]
    assert memory.keys() >= {"argument", "temp", "output", "alias", "peak", "fits"}
    norms = 32 * (2 * 3 + 1)  # on every device
    assert memory["parameters"] == 4 * ((n - norms) // 8 + norms)
    assert memory["alias"] == memory["parameters"] + memory["optimizer"] + 4
    flops = got["flops_per_step"]
    assert flops["analytic"] <= flops["hlo"] <= 1.2 * flops["analytic"]  # whole squares of scores
    assert {c["axis"] for c in got["collectives"]} == {"fsdp"}
    gathered = sum(c["wire_bytes_per_chip"] for c in got["collectives"])
    assert got["wire_bytes_per_chip"] == gathered
    assert 1.5 < gathered / (n * 4 * 7 / 8) < 3  # gathered, perhaps twice, and scattered
    seconds = got["step_seconds"]
    assert seconds["predicted"] == max(seconds[name] for name in ("compute", "hbm", "ici"))
    assert got["tokens_per_second_per_chip"] * seconds["predicted"] == pytest.approx(16)
    assert got["hours"] == pytest.approx(9 * seconds["predicted"] / 3600)
    shown = capsys.readouterr().out
    assert "mesh fsdp 8" in shown and "fits into" in shown and "chip-hours" in shown


@pytest.mark.parametrize(
    "changed, said",
    [
        (dict(topology=None), "plan needs a topology"),
        (dict(topology="v5e-7"), "v5e-4 or v5e-8"),
        (dict(batch_size=9), "batch_size 9 does not divide over 8 data shards"),
        (dict(mesh=mesh_lib.MeshSpec(data=1, fsdp=4)), "fsdp=4 needs 4 devices"),
    ],
)
def test_mistakes_are_told(changed, said):
    with pytest.raises(errors.ConfigError, match=said):
        run.plan(**recipe(**changed))


def test_from_the_command_line(capfd):
    words = ["plan", "--gin_file", "gin/recipes/quickstart_decoder.gin", "--topology", "cpu-2"]
    assert cli.main([*words, "--gin.DECODER_LENGTH=16", "--gin.BATCH_SIZE=2", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told.keys() >= FIELDS
    assert told["topology"] == "cpu-2" and told["memory"]["fits"]


@pytest.mark.slow
def test_search_compiles_and_its_gin_lines_give_what_it_predicts(capfd, tmp_path):
    top, recipe = "from __gin__ import dynamic_registration\n", "gin/recipes/quickstart_decoder.gin"
    words = ["--topology", "cpu-4", "--gin.DECODER_LENGTH=16", "--gin.BATCH_SIZE=8", "--json"]
    assert cli.main(["plan", "--gin_file", recipe, "--search", "--max_compiles", "2", *words]) == 0
    out, err = capfd.readouterr()
    assert "settings that fit, fastest first" in err
    found = json.loads(out)["search"]
    best = next(one for one in found if one["compiled"])
    assert len({(str(one["mesh"]), one["microbatches"], one["remat"]) for one in found}) == len(
        found
    )
    pasted = tmp_path / "best.gin"
    pasted.write_text(f"{top}include '{recipe}'\n{best['gin']}\n")
    assert cli.main(["plan", "--gin_file", str(pasted), *words]) == 0
    told = json.loads(capfd.readouterr().out)
    same = ("mesh", "memory", "step_seconds", "collectives", "flops_per_step", "mfu")
    assert {name: told[name] for name in same} == {name: best[name] for name in same}


def test_programs_of_a_plan_are_not_kept_in_the_cache(tmp_path):
    """JAX had decided at the first compile of the process to use it: 20 MB for every plan."""
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        measure.compilation_cache.reset_cache()
        kept = []
        for number in range(3):
            with measure.compiled_anew() if number == 1 else contextlib.nullcontext():
                jax.jit(lambda x: x * 3 + number)(jnp.ones(7))  # noqa: B023
            kept.append({path.name for path in tmp_path.glob("*cache")})
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        measure.compilation_cache.reset_cache()
    assert kept[0] and kept[0] == kept[1] < kept[2]


def test_shardings_are_told_without_compiling(capsys, monkeypatch):
    monkeypatch.setattr(measure, "plan", lambda *_, **__: pytest.fail("compiled"))
    mesh = mesh_lib.MeshSpec(data=1, fsdp=4, tensor=2)
    told = run.plan(**recipe(mesh=mesh, shardings=True))
    rows = {row["parameter"]: row for row in told["shardings"]}
    assert rows["embedding"] == {
        "parameter": "embedding",
        "shape": [64, 32],
        "names": ["vocab", "embed"],
        "split": [["tensor"], ["fsdp"]],
        "part": [32, 8],
        "bytes_per_device": 32 * 8 * 4,
    }
    shown = capsys.readouterr().out
    assert "vocab 64, embed 32" in shown and "vocab: tensor, embed: fsdp" in shown
    assert all(name in shown for name in rows)
    total = sum(row["bytes_per_device"] for row in told["shardings"])
    assert f"all: {report.amount(total)}B per device" in shown
