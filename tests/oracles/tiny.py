"""Tiny models of both families, their parameters made once, and packed batches for them."""

import contextlib
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from t5sft.models import decoder, rotary, t5
from t5sft.parallel import rules

V = 96
SIZES = dict(vocab_size=V, emb_dim=32, mlp_dim=48, num_heads=4, head_dim=8)
T5 = t5.T5(num_encoder_layers=2, num_decoder_layers=2, **SIZES)
DECODER = decoder.Decoder(num_layers=2, num_kv_heads=2, **SIZES)  # two queries share a key
# Everything that a decoder can have at once: layers of two kinds, with rotations of their own.
GEMMA = dataclasses.replace(
    DECODER,
    num_layers=3,
    layer_pattern=("sliding", "full"),
    sliding_window=3,
    rope_theta_local=100.0,
    rope_scaling=rotary.Linear(factor=2.0),
    activation="gelu",
    logits_via_embedding=True,
    attention_bias=True,
    output_bias=True,
    mlp_bias=True,
    qk_norm=True,
    sandwich_norms=True,
    norm_offset=1.0,
    scale_embedding=True,
    attention_soft_cap=50.0,
    final_soft_cap=30.0,
)
T5_TIED = dataclasses.replace(T5, logits_via_embedding=True)
DECODER_TIED = dataclasses.replace(DECODER, logits_via_embedding=True, num_kv_heads=4)

# Without LLVM's optimisations XLA compiles three times faster, and tests hardly run.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def initial(model):
    """Parameters as a run starts with them."""
    return jit(model.init)(jax.random.key(0))


@functools.cache
def hot(model):
    """Large random weights: with the first ones a wrong RoPE or GELU hardly shows."""
    shapes, _ = model.abstract()
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        return 0.3 * rng.standard_normal(leaf.shape, np.float32) + (path[-1].key == "norm")

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def logits_of(model):
    """The jitted function (params, batch) -> logits [B, T, V]."""
    return jit(lambda params, batch: model.unembed(params, model.hidden(params, batch)))


@functools.cache
def grads_of(model, over=None):
    """The jitted function (params, batch, weights [B, T]) -> weighted sum of hidden, gradients.

    Every feature counts with its own sign and size, so that no two errors cancel.
    """

    def total(params, batch, weights):
        with rules.using(over) if over else contextlib.nullcontext():
            hidden = model.hidden(params, batch).astype(jnp.float32)
            direction = jnp.sin(jnp.arange(model.emb_dim))[None, None, :]
            return (hidden * direction * weights[..., None]).sum()

    return jit(jax.value_and_grad(total))


def examples():
    """Three (source, target) examples; no token is used twice."""
    tokens = np.random.default_rng(0).permutation(np.arange(1, V))
    five, four, three, six, seven, two = np.split(tokens[:27], np.cumsum([5, 4, 3, 6, 7]))
    return [(five, four), (three, six), (two, seven)]


def pack(*rows, length=24, num_rows=8):
    """Packs rows of (source, target) examples; segments count from 1.

    The rest of a row, and the rest of the rows, is padding: token 0, segment 0, position 0. One
    shape for all tests: a model compiles once.
    """
    parts = ("input_tokens", "segment_ids", "positions")
    batch = {
        f"{side}_{part}": np.zeros((num_rows, length), np.int32)
        for side in ("encoder", "decoder")
        for part in parts
    }
    for b, (which, side) in itertools.product(range(len(rows)), enumerate(("encoder", "decoder"))):
        begin = 0
        for segment, example in enumerate(rows[b], start=1):
            tokens = example[which]
            here = slice(begin, begin + len(tokens))
            for part, value in zip(parts, (tokens, segment, np.arange(len(tokens))), strict=True):
                batch[f"{side}_{part}"][b, here] = value
            begin += len(tokens)
    return batch
