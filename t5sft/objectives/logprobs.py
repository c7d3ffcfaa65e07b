"""Log-probabilities of target tokens, as sums."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5sft.parallel import rules


class Terms(NamedTuple):
    """What an objective returns: sums and their weights, never means.

    So microbatches, hosts and packing add exactly; the division happens once, at the end.

    An objective (model, params, batch, key) -> Terms sees its part of the rows only: on a mesh that
    of one device group (`parallel.explicit.region`), with microbatches a slice of that. Whole rows,
    hence whole examples; but what compares examples, as a ranking or a mean over the batch, must
    find them in one row, or be a sum that adds up. The gradient is that of `loss` alone.
    """

    loss: jax.Array  # [], float32, nats, summed over target tokens
    weight: jax.Array  # [], float32, what `loss` is divided by: weighted number of target tokens
    metrics: dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight)


def cross_entropy(logits, targets, weights, *, of_loss=None, z_loss=0.0):
    """Sums the negative log-likelihood of the targets and z_loss * log(Z)^2.

    Args:
      logits: [B, T, V], any float dtype; computed in float32.
      targets: [B, T] token ids in [0, V).
      weights: [B, T] float, 0 where a token must not be learnt (prompt, padding).
      of_loss: [B, T], the weights of the loss where it is no mean over tokens; metrics always are.
      z_loss: strength of the penalty on log Z (PaLM, arXiv:2204.02311, section 5).

    Example (V = 2, uniform logits, the first token is prompt):
      targets  1 0 1
      weights  0 1 1     loss 2 ln 2 = 1.386, weight 2, accuracy (sum, weight) as counted below
    """
    if logits.shape[:-1] != targets.shape or targets.shape != weights.shape:
        raise ValueError(
            f"expected logits [B, T, V], targets and weights [B, T]; got {logits.shape}, "
            f"{targets.shape} and {weights.shape}"
        )
    logits = logits.astype(jnp.float32)
    highest = jax.lax.stop_gradient(logits.max(axis=-1))  # [B, T]
    log_z = highest + jnp.log(jnp.exp(logits - highest[..., None]).sum(axis=-1))
    picked = pick(logits, targets)
    nll = log_z - picked
    total = nll + z_loss * jnp.square(log_z) if z_loss else nll
    of_loss = weights if of_loss is None else of_loss
    weight = weights.sum()
    # A tie counts as right: it costs no second pass over V.
    is_right = (picked >= highest).astype(weights.dtype)
    metrics = {
        "nll": ((nll * weights).sum(), weight),
        "accuracy": ((is_right * weights).sum(), weight),
    }
    return Terms((total * of_loss).sum(), of_loss.sum(), metrics)


def pick(logits, targets):
    """Returns the logit of each target: [B, T, V], [B, T] -> [B, T]."""
    if rules.platform() == "cpu" and rules.split_ways("vocab") == 1:
        # Its gradient is a scatter into zeros: on a CPU 8 % less time of a step than comparing.
        return _gather(logits, targets)
    return _compare(logits, targets)


@jax.custom_vjp
def _compare(logits, targets):
    """`pick`, with a gradient by comparison.

    A scatter is a pass over all logits of its own, on a GPU a quarter of the head's products.
    """
    if rules.split_ways("vocab") == 1:
        return _gather(logits, targets)
    # Where V is split over devices, a sum over V needs no part of another device, a gather does.
    return jnp.where(_is_target(logits, targets), logits, 0).sum(axis=-1)


def _gather(logits, targets):
    return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def _is_target(logits, targets):
    places = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    return places == targets[..., None]


def _forward(logits, targets):
    return _compare(logits, targets), (logits, targets)


def _backward(kept, cotangent):
    logits, targets = kept
    to_logits = jnp.where(_is_target(logits, targets), cotangent[..., None], 0)
    return to_logits.astype(logits.dtype), None


_compare.defvjp(_forward, _backward)
