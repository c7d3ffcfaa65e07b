"""Supervised fine-tuning: the likelihood of the answer's tokens given what stands before them."""

from typing import Literal

import jax
import jax.numpy as jnp

from t5sft.objectives import chunked, logprobs

Normalize = Literal["token", "example", "batch_tokens"]


def sft(
    model,
    params,
    batch,
    key,
    *,
    z_loss: float = 0.0,
    normalize: Normalize = "token",
    num_chunks: int | None = None,
) -> logprobs.Terms:
    """Sums the cross-entropy of a batch over the tokens that `decoder_loss_weights` says learn.

    Args:
      model: a ModelDef: `hidden(params, batch, dropout_key=...)` and `unembed(params, hidden)`.
      batch: SeqIO's feature names, see data/converters.py.
      key: for dropout, or None.
      z_loss: see `logprobs.cross_entropy`.
      normalize: what the loss is a mean over, whatever shares a row or a microbatch. "token": the
        learnt tokens of the global batch, by their weights; "example": its examples, each of which
        counts by its own mean; "batch_tokens": all B * T places of the global batch, so that a
        learnt token weighs the same in every step.
      num_chunks: parts of the rows whose logits are computed one after the other
        (`chunked.num_chunks`); None: as few as the memory of a device asks for, mostly one.
    """
    weights = batch["decoder_loss_weights"]
    hidden = model.hidden(params, batch, dropout_key=key)  # [B, T, D]
    # Masked before the logits: whatever a padded place holds, its gradient is exactly zero.
    hidden = jnp.where(weights[..., None] > 0, hidden, 0)
    of_loss = weights
    if normalize == "example":
        of_loss = example_weights(weights, batch["decoder_segment_ids"])
    targets = batch["decoder_target_tokens"]
    options = {"of_loss": of_loss, "z_loss": z_loss}
    parts = chunked.num_chunks(weights.shape, model.vocab_size, num_chunks)
    if parts == 1:
        logits = model.unembed(params, hidden)
        terms = logprobs.cross_entropy(logits, targets, weights, **options)
    else:
        kernel = model.head_kernel(params)
        terms = chunked.cross_entropy(
            model.logits, kernel, hidden, targets, weights, num_chunks=parts, **options
        )
    if normalize == "batch_tokens":
        terms = terms._replace(weight=jnp.asarray(weights.size, jnp.float32))
    return terms


def example_weights(weights, segments):
    """Divides the weights of every example by their sum, so that an example weighs 1 or nothing.

    Args:
      weights: [B, T] float.
      segments: [B, T] int in [0, T], the example of each place in its row; 0 is padding.

    Example:
      segments  1    1    1    2  0
      weights   0    1    3    2  0
      result    0  1/4  3/4    1  0
    """
    count = weights.shape[1] + 1
    total = jax.vmap(lambda w, s: jax.ops.segment_sum(w, s, count))(weights, segments)
    total = jnp.take_along_axis(total, segments, axis=1)  # [B, T]
    return jnp.where(weights > 0, weights / jnp.where(total > 0, total, 1), 0)
