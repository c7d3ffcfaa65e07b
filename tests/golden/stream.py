"""Tiny models, a fixed stream of examples and batches for them, and steps that compile soon."""

import dataclasses
import functools

import jax
import numpy as np

from t5sft.data import converters, preprocess
from t5sft.models import decoder, t5
from t5sft.objectives import sft
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import optim, state, step

V, S, T = 64, 16, 16
SIZES = dict(vocab_size=V, emb_dim=16, mlp_dim=32, num_heads=4, head_dim=4)
T5 = t5.T5(num_encoder_layers=2, num_decoder_layers=2, **SIZES)
DECODER = decoder.Decoder(num_layers=2, num_kv_heads=2, **SIZES)
QWEN = dataclasses.replace(DECODER, attention_bias=True)
BOTH = {"t5": T5, "decoder": DECODER}
MESHES = {
    "1": dict(data=1),
    "2x2": dict(data=2, tensor=2),
    "8x1": dict(data=8),
    "4x2": dict(data=4, tensor=2),
    "1x2x2": dict(data=1, fsdp=2, tensor=2),
    "2x2+2": dict(data=2, fsdp=2, fsdp_inner=2),
    "1x2x2x2": dict(data=1, fsdp=2, tensor=2, context=2),
}


def wide(model):
    """The same model with kernels that Adafactor factors: both sides at least 128."""
    return dataclasses.replace(model, emb_dim=128, mlp_dim=128)


@functools.cache
def quickly() -> dict:
    """Compiler options that cut the compilation of a step from 13 to 3 seconds of a core."""
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except Exception:  # another XLA may not know the second one
        return {"xla_backend_optimization_level": 0}
    return options


def mesh(name: str):
    sizes = MESHES[name]
    num = int(np.prod(list(sizes.values())))
    return mesh_lib.make_mesh(**sizes, devices=jax.devices()[:num])


def build(
    model,
    objective,
    optimizer,
    *,
    mesh,
    rules,
    batch_shapes,
    microbatches,
    seed,
    guard=None,
    compiler_options=None,
):
    """`step.build`, compiled with the options of `quickly`."""
    (batch_size,) = {shape.shape[0] for shape in batch_shapes.values()}
    step.check_batch(batch_size, microbatches, mesh, rules)
    like = state.abstract(model, optimizer, mesh, rules, guard)
    placed = {"like": like, "mesh": mesh, "rules": rules, "batch_shapes": batch_shapes}
    update = step.make_update(
        model, objective, optimizer, microbatches=microbatches, seed=seed, guard=guard, **placed
    )
    evaluate = step.make_evaluate(model, objective, **placed)
    return step.Program(
        like,
        step.batch_shardings(batch_shapes, mesh, rules),
        update.lower(like, batch_shapes).compile(
            {**quickly(), **(step.of_platform(compiler_options, mesh) or {})}
        ),
        jax.jit(evaluate, compiler_options=quickly()),
    )


def program(model, optimizer, *, batch_size, mesh_name="1", microbatches=1, objective=sft.sft):
    """The step of a tiny model on a named mesh, for batches of this file."""
    shapes = converters.shapes(model.layout, batch_size, encoder_length=S, decoder_length=T)
    return build(
        model,
        objective,
        optimizer,
        mesh=mesh(mesh_name),
        rules=rules_lib.DEFAULT_RULES,
        batch_shapes=shapes,
        microbatches=microbatches,
        seed=0,
    )


@functools.cache
def params(model):
    """Random parameters of the family's sizes, drawn by NumPy: nothing to compile."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "norm":
            return np.ones(leaf.shape, np.float32)
        return rng.standard_normal(leaf.shape, np.float32) * model.stddev(path[-1].key)

    return jax.tree_util.tree_map_with_path(draw, model.abstract()[0])


def start(model, optimizer, like, values=None):
    """The state of step 0 with the parameters of `params`, placed as `like` says."""
    values = params(model) if values is None else values
    place = jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), values, like.params)
    return state.create(model, optimizer, like, 0, place)


def examples(layout: str, num: int, seed: int = 0) -> list[preprocess.Example]:
    """Questions of 2 to 6 tokens and answers of 2 to 5 that end with 1, all else at random."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(num):
        asked = rng.integers(3, V, rng.integers(2, 7)).tolist()
        answer = [*rng.integers(3, V, rng.integers(1, 5)).tolist(), 1]
        inputs = preprocess.Tokens(asked, [0.0] * len(asked), [2] * len(asked))
        targets = preprocess.Tokens(answer, [1.0] * len(answer), [3] * len(answer))
        if layout == "decoder":
            inputs, targets = preprocess.EMPTY, inputs + targets
        out.append(preprocess.Example(inputs, targets))
    return out


def convert(layout: str, rows) -> dict[str, np.ndarray]:
    """The arrays of rows of examples."""
    if layout == "decoder":
        return converters.decoder(rows, decoder_length=T)
    return converters.encoder_decoder(rows, encoder_length=S, decoder_length=T, start_id=0)


def batch(layout: str, num_rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of one example or none, as uneven as they come: row b holds b % 3 of them."""
    each = [b % 3 if layout == "encoder_decoder" else min(b % 3, 1) for b in range(num_rows)]
    flat = iter(examples(layout, sum(each), seed))
    return convert(layout, [[next(flat) for _ in range(n)] for n in each])


def adamw(**options) -> optim.Optimizer:
    rate = optim.schedule(peak=1e-2, total_steps=10, warmup_steps=2)
    return optim.adamw(learning_rate=rate, weight_decay=0.1, **options)
