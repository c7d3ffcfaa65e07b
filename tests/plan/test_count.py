"""What is counted equals what is known of the program: by hand, and by a count of its jaxpr."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5sft.plan import collectives, count

ONE = collectives.Mesh(("data",), (1,))
SIDE = 16
MATMUL = 2 * SIDE**3


def counted(function, *arguments, mesh=ONE):
    return count.count(jax.jit(function).lower(*arguments).compile().as_text(), mesh)


def square(number=1):
    shape = (SIDE, SIDE) if number == 1 else (number, SIDE, SIDE)
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def chain(x, weights):
    """Multiplies by every matrix in turn, in a loop."""
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def nested(x, weights):
    return jax.lax.fori_loop(0, 5, lambda _, x: chain(x, weights), x)


def unrolled(x, weights):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


def rematerialised(x, weights):
    """The loss of a chain whose layers are computed again in the backward pass."""
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    return jax.lax.scan(layer, x, weights)[0].sum()


def branching(x, weights):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ weights[0], lambda: x)


@pytest.mark.parametrize(
    "function, matmuls",
    [
        (unrolled, 8),
        (chain, 8),
        (nested, 40),
        (jax.grad(rematerialised, argnums=1), 8 * 4),  # forward, again, and twice backward
        (branching, 1),
    ],
)
def test_matrix_products_count_as_often_as_they_run(function, matmuls):
    got = counted(function, square(), square(8))
    assert got.unknown_loops == ()
    assert got.matmul_flops == matmuls * MATMUL


def test_a_loop_that_depends_on_data_counts_once_and_is_named():
    def search(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 100, lambda x: x @ w, x)

    got = counted(search, square(), square())
    assert got.matmul_flops == MATMUL
    assert len(got.unknown_loops) == 1


def test_batched_and_contracted_axes():
    a = jax.ShapeDtypeStruct((3, 5, 7), jnp.float32)
    b = jax.ShapeDtypeStruct((3, 7, 11), jnp.float32)
    assert counted(jnp.matmul, a, b).matmul_flops == 2 * 3 * 5 * 7 * 11


@pytest.mark.parametrize(
    "shape, kernel, pads", [((9, 9), (3, 3), "SAME"), ((8, 6), (2, 3), "VALID")]
)
def test_convolutions_count_what_does_not_fall_on_padding(shape, kernel, pads):
    x = jax.ShapeDtypeStruct((2, 4, *shape), jnp.float32)
    w = jax.ShapeDtypeStruct((5, 4, *kernel), jnp.float32)
    got = counted(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), pads), x, w)
    pairs = [
        sum(
            0 <= o + k - (size_k // 2 if pads == "SAME" else 0) < size
            for o in range(size if pads == "SAME" else size - size_k + 1)
            for k in range(size_k)
        )
        for size, size_k in zip(shape, kernel, strict=True)
    ]
    assert got.matmul_flops == 2 * 2 * 4 * 5 * math.prod(pairs)


def test_sharded_layers_gather_their_weights_once_per_turn():
    """A scan over sharded matrices: one all-gather per turn, of 3/4 of a matrix per device."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), (jax.sharding.AxisType.Auto,) * 2)
    placed = lambda shape, *spec: jax.ShapeDtypeStruct(  # noqa: E731
        shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec))
    )
    x = placed((8, SIDE), ("data", "fsdp"))
    weights = placed((6, SIDE, SIDE), None, "fsdp")

    def layer(x, w):
        full = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, PartitionSpec()))
        return jnp.tanh(x @ full), None

    def chain(x, weights):
        return jax.lax.scan(layer, x, weights)[0]

    got = counted(chain, x, weights, mesh=collectives.Mesh(("data", "fsdp"), (2, 4)))
    (gather,) = [c for c in got.collectives if c.kind == "all-gather"]
    assert (gather.axis, gather.count) == ("fsdp", 6)
    assert gather.wire_bytes_per_chip == 6 * SIDE * SIDE * 4 * 3 // 4
    assert got.wire_bytes == gather.wire_bytes_per_chip
    assert got.matmul_flops == 6 * 2 * 1 * SIDE * SIDE  # one row per device


KERNEL = """\
HloModule k

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %a = f32[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"x","cost_estimate":{"flops":"4096","transcendentals":"0","bytes_accessed":"9000"}}}
  ROOT %b = f32[8,128]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"x"}}
}
"""  # noqa: E501


def test_kernels_count_as_they_declare_and_silent_ones_are_told():
    got = count.count(KERNEL, ONE)
    assert (got.kernels, got.undeclared_kernels, got.kernel_flops) == (2, 1, 4096)
    assert got.hbm_bytes == 9000 + 2 * 8 * 128 * 4


SPLASH = """\
HloModule s

%local (p: (s8[1,4,4], bf16[8,2048,256], bf16[4,2048,256])) -> bf16[8,2048,256] {
  %p = (s8[1,4,4], bf16[8,2048,256], bf16[4,2048,256]) parameter(0)
  %m = s8[1,4,4]{2,1,0} get-tuple-element(%p), index=0
  %q = bf16[8,2048,256]{2,1,0} get-tuple-element(%p), index=1
  %k = bf16[4,2048,256]{2,1,0} get-tuple-element(%p), index=2
  ROOT %f = bf16[8,2048,256]{2,1,0} custom-call(%m, %q, %k, %k), custom_call_target="tpu_custom_call", metadata={op_name="jit(update)/jvp(x)/splash_pairs_1000/vmap(static_sparsity_splash)/splash_mha_fwd_segmented_residuals/pallas_call"}
}

%whole (p.1: (s8[1,4,4], bf16[8,2048,256], bf16[4,2048,256])) -> bf16[8,2048,256] {
  %p.1 = (s8[1,4,4], bf16[8,2048,256], bf16[4,2048,256]) parameter(0)
  %m.1 = s8[1,4,4]{2,1,0} get-tuple-element(%p.1), index=0
  %q.1 = bf16[8,2048,256]{2,1,0} get-tuple-element(%p.1), index=1
  %k.1 = bf16[4,2048,256]{2,1,0} get-tuple-element(%p.1), index=2
  %f.1 = bf16[8,2048,256]{2,1,0} custom-call(%m.1, %q.1, %k.1, %k.1), custom_call_target="tpu_custom_call", metadata={op_name="jit(update)/jvp(x)/splash_pairs_3000/vmap(static_sparsity_splash)/splash_mha_fwd_segmented_residuals/pallas_call"}
  %dq.1 = bf16[8,2048,256]{2,1,0} custom-call(%m.1, %f.1, %k.1, %k.1), custom_call_target="tpu_custom_call", metadata={op_name="jit(update)/transpose(jvp(x))/splash_pairs_3000/vmap(static_sparsity_splash)/splash_mha_dq_segmented_no_residuals/pallas_call"}
  ROOT %dkv.1 = bf16[8,2048,256]{2,1,0} custom-call(%m.1, %dq.1, %k.1, %k.1), custom_call_target="tpu_custom_call", metadata={op_name="jit(update)/transpose(jvp(x))/splash_pairs_3000/vmap(static_sparsity_splash)/splash_mha_dkv_segmented_no_residuals/pallas_call"}
}

ENTRY %main (c: pred[], m: s8[1,4,4], q: bf16[8,2048,256], k: bf16[4,2048,256]) -> bf16[8,2048,256] {
  %c = pred[] parameter(0)
  %m = s8[1,4,4]{2,1,0} parameter(1)
  %q = bf16[8,2048,256]{2,1,0} parameter(2)
  %k = bf16[4,2048,256]{2,1,0} parameter(3)
  %t = (s8[1,4,4]{2,1,0}, bf16[8,2048,256]{2,1,0}, bf16[4,2048,256]{2,1,0}) tuple(%m, %q, %k)
  ROOT %x = bf16[8,2048,256]{2,1,0} conditional(%c, %t, %t), branch_computations={%local, %whole}
}
"""  # noqa: E501


def test_splash_counts_by_name_and_of_a_conditional_the_costliest_branch():
    """2 + 3 + 4 products over 3000 pairs, of 8 heads of 256 features."""
    got = count.count(SPLASH, ONE)
    assert (got.kernels, got.undeclared_kernels) == (3, 0)
    assert got.kernel_flops == 2 * (2 + 3 + 4) * 3000 * 8 * 256


# As the compiler for TPUs writes what `stack.POLICIES` offload: a loop stacks layers in host memory
# (S(5)), asynchronously, and reads one back.
OFFLOADED = """\
HloModule o

ENTRY %main (x: bf16[4,8], h: bf16[32,4,8]) -> bf16[1,4,8] {
  %x = bf16[4,8]{1,0} parameter(0)
  %h = bf16[32,4,8]{2,1,0:S(5)} parameter(1)
  %b = bf16[1,4,8]{2,1,0} bitcast(%x)
  %z = s32[] constant(0)
  %u = ((bf16[32,4,8]{2,1,0:S(5)}, bf16[1,4,8]{2,1,0}, s32[], s32[], s32[]), bf16[32,4,8]{2,1,0:S(5)}, u32[]{:S(2)}) dynamic-update-slice-start(%h, %b, %z, %z, %z)
  %ud = bf16[32,4,8]{2,1,0:S(5)} dynamic-update-slice-done(%u)
  %c = (bf16[32,4,8]{2,1,0:S(5)}, bf16[32,4,8]{2,1,0:S(5)}, u32[]) copy-start(%ud)
  %s = ((bf16[32,4,8]{2,1,0:S(5)}, s32[], s32[], s32[]), bf16[1,4,8]{2,1,0}, u32[]{:S(2)}) dynamic-slice-start(%ud, %z, %z, %z), dynamic_slice_sizes={1,4,8}
  %s.2 = ((bf16[32,4,8]{2,1,0:S(5)}, s32[], s32[], s32[]), bf16[1,4,8]{2,1,0}, u32[]{:S(2)}) dynamic-slice-start(%ud, %z, %z, %z), dynamic_slice_sizes={1,4,8}
  ROOT %sd = bf16[1,4,8]{2,1,0} dynamic-slice-done(%s)
}
"""  # noqa: E501


def test_what_goes_to_the_memory_of_the_host_counts_apart():
    """One slice there, two back: both ways at once, the longer counts; HBM sees all three."""
    got = count.count(OFFLOADED, ONE)
    assert got.host_bytes == 2 * 4 * 8 * 2
    assert got.hbm_bytes == 3 * 4 * 8 * 2


ASYNC = """\
HloModule a

%start (p: bf16[64]) -> (bf16[64], bf16[256]) {
  %p = bf16[64]{0} parameter(0)
  %g.1 = bf16[256]{0} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %t.1 = (bf16[64]{0}, bf16[256]{0}) tuple(%p, %g.1)
}

%beside (p.2: bf16[64], q.2: bf16[256]) -> bf16[256] {
  %p.2 = bf16[64]{0} parameter(0)
  %q.2 = bf16[256]{0} parameter(1)
  %g.2 = bf16[256]{0} all-gather(%p.2), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %n.2 = bf16[256]{0} negate(%q.2)
}

%done (p.3: bf16[64]) -> bf16[256] {
  %p.3 = bf16[64]{0} parameter(0)
  ROOT %g.3 = bf16[256]{0} all-gather(%p.3), channel_id=7, replica_groups={{0,1,2,3}}
}

ENTRY %main (x: bf16[64], y: bf16[256]) -> bf16[256] {
  %x = bf16[64]{0} parameter(0)
  %y = bf16[256]{0} parameter(1)
  %async-collective-start = (bf16[64]{0}, bf16[256]{0}) fusion(%x), kind=kCustom, calls=%start
  %f = bf16[256]{0} fusion(%x, %y), kind=kLoop, calls=%beside
  ROOT %async-collective-done = bf16[256]{0} fusion(%x), kind=kCustom, calls=%done
}
"""


def test_an_asynchronous_collective_printed_three_times_counts_once():
    got = count.count(ASYNC, collectives.Mesh(("fsdp",), (4,)))
    (gather,) = got.collectives
    assert (gather.kind, gather.axis, gather.count) == ("all-gather", "fsdp", 1)
    assert gather.wire_bytes_per_chip == 3 * 128


# On a TPU7x the sparse cores gather; the call has neither operands nor results of its own.
SPARSE = """\
HloModule s

%called (p: bf16[64]) -> bf16[256] {
  %p = bf16[64]{0} parameter(0)
  %t = (bf16[64]{0}) tuple(%p)
  %e = bf16[64]{0} get-tuple-element(%t), index=0
  ROOT %g = bf16[256]{0} all-gather(%e), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
}, execution_thread="sparsecore"

ENTRY %main (x: bf16[64]) -> bf16[256] {
  %x = bf16[64]{0} parameter(0)
  %s = ((), (), (s32[8192]{0:T(1024)}, s32[47]{0:T(1)S(11)})) custom-call-start(), async_execution_thread="sparsecore", custom_call_target="other", called_computations={%called}
  %u = ((bf16[64]{0}), bf16[256]{0}, (s32[8192]{0}, s32[47]{0:S(11)})) custom-call-update(%s, %x)
  ROOT %d = bf16[256]{0} custom-call-done(%u)
}
"""  # noqa: E501


def test_collectives_of_the_sparse_cores_count():
    got = count.count(SPARSE, collectives.Mesh(("fsdp",), (4,)))
    (gather,) = got.collectives
    assert (gather.kind, gather.axis, gather.count) == ("all-gather", "fsdp", 1)
    assert gather.wire_bytes_per_chip == 3 * 128
    assert got.hbm_bytes == 128 + 512


# What the TPU's compiler writes: no trip count; the counter's limit rides along in the state, the
# comparison is a fusion, and the loop counts down in twos.
LOOP = """\
HloModule l

%compare (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %gt = pred[] compare(%b, %a), direction=GT
}

%cond (s.1: (s32[], f32[4,4], s32[])) -> pred[] {
  %s.1 = (s32[], f32[4,4], s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %n.1 = s32[] get-tuple-element(%s.1), index=2
  ROOT %r.1 = pred[] fusion(%n.1, %i.1), kind=kLoop, calls=%compare
}

%body (s.2: (s32[], f32[4,4], s32[])) -> (s32[], f32[4,4], s32[]) {
  %s.2 = (s32[], f32[4,4], s32[]) parameter(0)
  %i.2 = s32[] get-tuple-element(%s.2), index=0
  %x.2 = f32[4,4] get-tuple-element(%s.2), index=1
  %n.2 = s32[] get-tuple-element(%s.2), index=2
  %two = s32[] constant(2)
  %less = s32[] subtract(%i.2, %two)
  %d = f32[4,4] dot(%x.2, %x.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t.2 = (s32[], f32[4,4], s32[]) tuple(%less, %d, %n.2)
}

ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4] parameter(0)
  %eleven = s32[] constant(11)
  %one = s32[] constant(1)
  %copied = s32[] copy(%one)
  %init = (s32[], f32[4,4], s32[]) tuple(%eleven, %x, %copied)
  %w = (s32[], f32[4,4], s32[]) while(%init), condition=%cond, body=%body
  ROOT %o = f32[4,4] get-tuple-element(%w), index=1
}
"""


def test_turns_are_found_without_being_written_down():
    got = count.count(LOOP, ONE)  # 11, 9, 7, 5, 3
    assert got.unknown_loops == ()
    assert got.matmul_flops == 5 * 2 * 4**3


def test_loops_of_the_cpu_are_found_the_same_without_their_count():
    """The CPU's compiler writes the counts down: taken away, they are found again."""
    text = jax.jit(nested).lower(square(), square(8)).compile().as_text()
    assert "known_trip_count" in text
    hidden = re.sub(r'"known_trip_count":\{"n":"\d+"\}', '"hidden":0', text)
    assert "known_trip_count" not in hidden
    assert count.count(hidden, ONE) == count.count(text, ONE)
