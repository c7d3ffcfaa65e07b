"""The verb: a recipe on fake devices of this machine, with known memory, FLOPs and collectives."""

import json

import pytest

from t5sft import cli, errors, launch
from t5sft.data import converters
from t5sft.models import decoder, stack
from t5sft.parallel import mesh as mesh_lib
from t5sft.plan import estimate, measure, run, topology
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


def test_search_lists_what_fits_and_its_gin_lines_are_gin(capsys, tmp_path):
    """A wider model on 4 devices: the table is sorted, and the pasted lines make that setting."""
    found = run.plan(**recipe(topology="cpu-4", search=True, max_compiles=2))["search"]
    assert len(found) == 3
    times = [one["step_seconds"]["predicted"] for one in found]
    assert times == sorted(times)
    settings = {(str(one["mesh"]), one["microbatches"], one["remat"]) for one in found}
    assert len(settings) == 3
    assert "settings that fit, fastest first" in capsys.readouterr().out
    best = found[0]
    pasted = tmp_path / "best.gin"
    top = "from __gin__ import dynamic_registration\n"
    included = "include 'gin/recipes/quickstart_decoder.gin'\n"
    pasted.write_text(f"{top}{included}{best['gin']}\n")
    configuration = launch.resolve("plan", [str(pasted)])
    _, bound = launch.bind(configuration)
    assert bound["model"].remat == best["remat"]
    assert bound["microbatches"] == best["microbatches"]
    sizes = {axis: size for axis, size in vars(bound["mesh"]).items() if size > 1}
    assert sizes == best["mesh"]


def test_a_policy_that_offloads_computes_as_much_and_is_not_what_a_search_tries():
    """Counted as one that keeps, it came before those that pay for nothing on the way."""
    place = topology.parse("v5e-16")
    shapes = converters.shapes("decoder", 64, encoder_length=0, decoder_length=2048)
    asked = measure.Recipe(MODEL, None, None, shapes, 1, None, (), 0, 9)
    sizes = mesh_lib.MeshSpec(data=16)
    known = {"num_parameters": 10**6, "state_bytes": 10**7}
    told = {
        remat: estimate.estimate(asked, place, estimate.Setting(sizes, 1, remat), **known)
        for remat in stack.POLICIES
    }
    assert told["full_offload"].seconds == told["full"].seconds
    assert told["dots_offload"].seconds == told["dots"].seconds
    assert told["full_offload"].temp < told["full"].temp < told["dots"].temp
    tried = {one.remat for one in estimate.settings(asked, place, estimate.REMATS)}
    assert tried == {"none", "dots", "full"}
