"""Cross-entropy without logits of the whole batch: a part of the places at a time.

Logits are V / D times as large as hidden states: 2.1 GB in float32 for 4,096 tokens of Llama 3, and
their gradient once more. Here a part's logits give its loss and its gradients at once, and are
gone; the backward pass has nothing to compute again (as Liger, arXiv:2410.10989, section 3.2).
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from t5sft.objectives import logprobs
from t5sft.parallel import rules

FEW = 8  # parts whose gradients are added up in the kernel's own dtype
MAX_BYTES = 2**29  # of float32 logits per device; more are worked through in parts


def num_chunks(shape: tuple[int, int], vocab_size: int, asked: int | None) -> int:
    """Returns how many parts the T places of each row are worked through in.

    Args:
      shape: [B, T] as the objective sees it.
      asked: a number of parts, made a divisor of T; None: as few as keep a part's logits on one
        device under MAX_BYTES.

    Example ([4, 2048], V = 32,000, one device):
      None   2: 2 * 262 MB of logits a part
      1      1
    """
    rows, length = shape
    if asked is None:
        names = ("batch", "length", "vocab")
        ways = math.prod(rules.split_ways(name) for name in names)
        asked = math.ceil(4 * rows * length * vocab_size / ways / MAX_BYTES)
    step = rules.split_ways("length")  # a part takes places of every device
    parts = [n for n in range(1, length // step + 1) if (length // step) % n == 0]
    return next((n for n in parts if n >= asked), parts[-1])


def cross_entropy(
    logits_of: Callable,
    kernel,
    hidden,
    targets,
    weights,
    *,
    of_loss=None,
    z_loss=0.0,
    num_chunks: int,
) -> logprobs.Terms:
    """`logprobs.cross_entropy` of logits_of(kernel, hidden), num_chunks parts of T one by one.

    Args:
      logits_of: (kernel, [B, t, D]) -> [B, t, V].
      kernel: of the head, in the compute dtype; its gradient is added up in float32, that of up
        to FEW parts in its own dtype.
      hidden: [B, T, D]; the others as there.
      num_chunks: divides T.
    """
    of_loss = weights if of_loss is None else of_loss
    parts = _split((hidden, targets, weights, of_loss), num_chunks)
    compute = functools.partial(_terms, logits_of, z_loss)
    return _summed(compute, kernel, *parts)


def _terms(logits_of, z_loss, kernel, hidden, targets, weights, of_loss) -> logprobs.Terms:
    logits = logits_of(kernel, hidden)
    return logprobs.cross_entropy(logits, targets, weights, of_loss=of_loss, z_loss=z_loss)


def _split(arrays, num: int):
    """[B, T, ...] -> [num, B, T / num, ...]; a part takes every num-th place of the rows."""

    def split(x):
        return jnp.moveaxis(x.reshape(x.shape[0], -1, num, *x.shape[2:]), 2, 0)

    return jax.tree.map(split, arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(compute, kernel, hidden, targets, weights, of_loss) -> logprobs.Terms:
    """Adds the terms of the parts up: arrays [num, B, t, ...]."""

    def add(total, part):
        return jax.tree.map(jnp.add, total, compute(kernel, *part)), None

    parts = (hidden, targets, weights, of_loss)
    return jax.lax.scan(add, _zeros(compute, kernel, parts), parts)[0]


def _forward(compute, kernel, hidden, *rest):
    def value(kernel, hidden, *rest):
        terms = compute(kernel, hidden, *rest)
        return terms.loss, terms

    def add(total, part):
        terms, of_kernel = total
        (now_kernel, now_hidden), now = jax.grad(value, argnums=(0, 1), has_aux=True)(kernel, *part)
        of_kernel = of_kernel + now_kernel.astype(of_kernel.dtype)
        return (jax.tree.map(jnp.add, terms, now), of_kernel), now_hidden

    parts = (hidden, *rest)
    # A few parts round no more than the devices' sum does; Gemma's kernel is 2.4 GB in float32.
    precise = kernel.dtype if hidden.shape[0] <= FEW else jnp.float32
    begin = (_zeros(compute, kernel, parts), jnp.zeros(kernel.shape, precise))
    (terms, of_kernel), of_hidden = jax.lax.scan(add, begin, parts)
    return terms, (of_kernel.astype(kernel.dtype), of_hidden)


def _backward(compute, found, cotangent):
    # Only the loss has a gradient: weights and metrics are counts.
    scaled = [(x * cotangent.loss).astype(x.dtype) for x in found]
    return (*scaled, None, None, None)


_summed.defvjp(_forward, _backward)


def _zeros(compute, kernel, parts):
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(compute, kernel, *first)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
