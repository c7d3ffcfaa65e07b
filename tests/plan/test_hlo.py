"""The reader of compiled programs: shapes, computations, and text that is broken over lines."""

import pytest

from t5sft.plan import hlo

TEXT = """\
HloModule jit_f, is_scheduled=true

%body (state.1: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)S(1)}) parameter(0)
  ROOT %kernel.2 = (s32[], /*index=1*/f32[4,8]{1,0}) custom-call(%state.1), metadata={op_name="a
 name that goes on
   = and on"}
}, execution_thread="sparsecore"

ENTRY %main.3 (x: bf16[2,3]) -> bf16[3,2] {
  %x = bf16[2,3]{1,0:T(8,128)(2,1)} parameter(0)
  %c = f32[] constant(-7)
  ROOT %t = bf16[3,2]{0,1} transpose(bf16[2,3]{1,0} %x), dimensions={1,0}
}
"""


def test_reads_computations_operands_and_broken_lines():
    module = hlo.parse(TEXT)
    assert [*module.computations] == ["body", "main.3"]
    assert module.entry.name == "main.3"
    assert [*module.entry.instructions] == ["x", "c", "t"]
    root = module.entry.root
    assert (root.opcode, root.operands, root.shapes) == (
        "transpose",
        ("x",),
        (hlo.Array("bf16", (3, 2)),),
    )
    assert module.entry.instructions["c"].inside == "-7"
    assert module.entry.parameters[0].name == "x"
    kernel = module.computations["body"].root
    assert "goes on    = and on" in kernel.attributes
    assert kernel.shapes[1].dims == (4, 8)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("bf16[4096,128]{1,0:T(8,128)(2,1)S(1)}", [("bf16", (4096, 128), 1)]),
        ("(s32[], f32[8]{0:T(256)S(5)})", [("s32", (), 0), ("f32", (8,), 5)]),
        ("f8e4m3fn[<=16,2]", [("f8e4m3fn", (16, 2), 0)]),
        ("pred[]", [("pred", (), 0)]),
        ("((u4[3], token[]))", [("u4", (3,), 0), ("token", (), 0)]),
    ],
)
def test_shapes(text, expected):
    assert hlo.arrays(text) == [hlo.Array(*one) for one in expected]


@pytest.mark.parametrize(
    "dtype, bits", [("pred", 8), ("s4", 4), ("bf16", 16), ("f8e5m2", 8), ("c128", 128), ("f64", 64)]
)
def test_widths(dtype, bits):
    assert hlo.bits(dtype) == bits


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("module @jit_f { func.func }")
