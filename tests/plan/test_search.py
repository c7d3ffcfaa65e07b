"""The search: what it compiles, in what order, when it stops, and what it says.

The compiler is a stand-in that answers from a list: what a real one says is in `test_plan`, slow.
"""

import dataclasses

import pytest

from t5sft import launch
from t5sft.data import converters
from t5sft.models import decoder
from t5sft.parallel import mesh as mesh_lib
from t5sft.plan import count, estimate, measure, memory, roofline, search, topology

LLAMA_7B = decoder.Decoder(
    vocab_size=32000, emb_dim=4096, mlp_dim=11008, num_heads=32, num_kv_heads=32, head_dim=128,
    num_layers=32, remat="full",
)  # fmt: skip
PLACE = topology.parse("v5e-16")
SHAPES = converters.shapes("decoder", 16, encoder_length=0, decoder_length=2048)
RECIPE = measure.Recipe(
    LLAMA_7B, None, None, SHAPES, 1, mesh_lib.MeshSpec(data=1, fsdp=4, fsdp_inner=4), (), 0, 9
)
PARAMETERS, STATE = 6_738_415_616, 5_053_811_712  # 12 bytes per parameter on 16 chips
FLOPS = 3 * 2 * 6_607_000_000 * 2048  # of the products, per chip


def planned(asked, *, peak=8.87e9, again=1.0, fits=True):
    """A plan as the compiler would make it of a setting."""
    sizes = dataclasses.asdict(asked.mesh)
    mesh = type("Mesh", (), {})()
    mesh.axis_names, mesh.shape = tuple(sizes), sizes
    mesh.devices = type("Devices", (), {"shape": tuple(sizes.values())})()
    told = memory.Memory(STATE, 3, 4, 5, int(peak), fits, STATE // 3, STATE - STATE // 3, 0)
    if not fits:
        return measure.Plan(PLACE, asked, mesh, told, None, None, 5.0)
    counts = count.Counts(
        int(FLOPS * (3 + again) / 3), 0, 0, 0, 200 * 10**9, 0,
        (count.Collective("all-gather", "fsdp", 1, 37 * 10**9),), (),
    )  # fmt: skip
    return measure.Plan(PLACE, asked, mesh, told, counts, roofline.of_counts(PLACE, counts), 100.0)


@pytest.fixture
def compiler(monkeypatch):
    """Answers by remat policy; keeps what it was asked."""
    asked: list[measure.Recipe] = []
    answers = {
        "none": dict(peak=31.5e9, fits=False),
        "dots": dict(peak=15.9e9, again=0.1),
        "full": {},
        "dots_offload": dict(peak=9e9, again=0.1),
        "full_offload": dict(peak=8e9),
    }

    def plan(recipe, place):
        asked.append(recipe)
        return planned(recipe, **answers[recipe.model.remat])

    monkeypatch.setattr(measure, "plan", plan)
    return asked, answers


def found(max_compiles=4):
    return search.search(RECIPE, PLACE, planned(RECIPE), max_compiles)


def test_compiles_what_should_be_faster_and_stops_where_nothing_is(compiler, capsys):
    """All but nothing computed again is the fastest: nothing else is worth a compile then."""
    asked, _ = compiler
    got = found()
    assert 1 <= len(asked) < 4
    compiled = [each for each in got if each.plan is not None]
    assert compiled[0].setting.remat in ("dots", "dots_offload")
    assert compiled[-1].setting.remat == "full"  # the recipe's own
    assert compiled[0].seconds.predicted < 0.8 * compiled[-1].seconds.predicted
    order = [(round(each.seconds.predicted, 6), each.plan is None) for each in got]
    assert order == sorted(order)  # of equals the compiled first
    assert "no other setting should fit and be faster" in capsys.readouterr().err


def test_never_compiles_more_than_it_may(compiler):
    asked, answers = compiler
    answers.update(dict.fromkeys(("dots", "dots_offload"), dict(peak=99e9, fits=False)))
    found(max_compiles=2)
    assert len(asked) == 2
    asked.clear()
    assert [each.plan is not None for each in found(max_compiles=0)].count(True) == 1
    assert not asked


def test_what_did_not_fit_is_not_tried_again_with_another_mesh(compiler):
    """Twice the memory: each policy is given up after one compile, two where microbatches help."""
    asked, answers = compiler
    answers.update(dict.fromkeys(("dots", "dots_offload", "none"), dict(peak=60e9, fits=False)))
    found(max_compiles=12)
    tried = [each.model.remat for each in asked]
    assert max(tried.count(remat) for remat in ("none", "dots", "dots_offload")) <= 2


def test_a_compiler_that_fails_ends_nothing(compiler, monkeypatch, capsys):
    def fails(recipe, place):
        raise search.jax.errors.JaxRuntimeError("INTERNAL: Mosaic failed")

    monkeypatch.setattr(measure, "plan", fails)
    got = found(max_compiles=2)
    assert sum(each.plan is not None for each in got) == 1
    assert "refused: INTERNAL: Mosaic failed" in capsys.readouterr().err


def test_a_recipe_that_does_not_fit_finds_one_that_does(compiler):
    asked, _ = compiler
    base = planned(RECIPE, peak=20e9, fits=False)
    got = search.search(RECIPE, PLACE, base, 8)
    assert any(each.plan is not None for each in got)
    assert all(each.peak <= PLACE.chip.hbm_bytes for each in got)


def test_the_table_says_what_is_compiled(compiler):
    shown = search.text(found(), LLAMA_7B)
    lines = shown.splitlines()
    assert lines[0] == "settings that fit, fastest first"
    marks = [line.split()[-1] for line in lines[2:] if "%" in line]
    assert marks.count("compiled") >= 2 and set(marks) == {"compiled", "estimated"}
    rows = search.to_json(found(), LLAMA_7B)
    assert [row["compiled"] for row in rows] == [mark == "compiled" for mark in marks]
    fields = {"mesh", "microbatches", "remat", "memory", "step_seconds", "mfu", "gin"}
    assert all(row.keys() >= fields for row in rows)


@pytest.mark.parametrize("number", range(4))
def test_pasted_lines_make_that_setting(compiler, tmp_path, number):
    row = search.to_json(found(), LLAMA_7B)[number]
    pasted = tmp_path / "best.gin"
    top = "from __gin__ import dynamic_registration\n"
    included = "include 'gin/recipes/budget_llama2_7b_v5e_16_b1.gin'\n"
    pasted.write_text(f"{top}{included}{row['gin']}\n")
    _, bound = launch.bind(launch.resolve("plan", [str(pasted)]))
    assert bound["model"].remat == row["remat"]
    assert bound["microbatches"] == row["microbatches"]
    sizes = {axis: size for axis, size in vars(bound["mesh"]).items() if size > 1}
    assert sizes == row["mesh"]


def test_estimates_of_hundreds_of_settings_trace_nothing(monkeypatch):
    """Tracing the model for every setting took half a second each: a search never ended."""
    known = {"num_parameters": PARAMETERS, "state_bytes": 16 * STATE, "step_flops": 16 * FLOPS}
    monkeypatch.setattr(decoder.Decoder, "abstract", lambda self: pytest.fail("traced"))
    settings = estimate.settings(RECIPE, PLACE, estimate.REMATS)
    assert len(settings) > 100
    for setting in settings:
        told = estimate.estimate(RECIPE, PLACE, setting, **known)
        assert told.bytes > 0 and told.seconds(PLACE).predicted > 0


def test_a_policy_that_offloads_computes_as_much_and_pays_for_the_way():
    known = {"num_parameters": PARAMETERS, "state_bytes": 16 * STATE, "step_flops": 16 * FLOPS}
    told = {
        remat: estimate.estimate(RECIPE, PLACE, estimate.Setting(RECIPE.mesh, 1, remat), **known)
        for remat in estimate.REMATS
    }
    assert told["full_offload"].flops == told["full"].flops
    assert told["dots_offload"].flops == told["dots"].flops < told["full"].flops
    assert told["full_offload"].temp < told["full"].temp < told["dots"].temp < told["none"].temp
    # One residual stream of 2048 tokens per layer, in bfloat16, over 16 GB/s.
    sent = 2 * 2048 * 4096 * 32
    assert told["full_offload"].seconds(PLACE).host == pytest.approx(sent / 16e9)
    assert told["full"].seconds(PLACE).host == 0
