"""Supervised fine-tuning: the likelihood of the answer's tokens given what stands before them."""

import jax.numpy as jnp

from t5sft.objectives import logprobs


def sft(model, params, batch, key, *, z_loss: float = 0.0) -> logprobs.Terms:
    """Sums the cross-entropy of a batch over the tokens that `decoder_loss_weights` says learn.

    Args:
      model: a ModelDef: `hidden(params, batch, dropout_key=...)` and `unembed(params, hidden)`.
      batch: SeqIO's feature names, see data/converters.py.
      key: for dropout, or None.
      z_loss: see `logprobs.cross_entropy`.
    """
    weights = batch["decoder_loss_weights"]
    hidden = model.hidden(params, batch, dropout_key=key)  # [B, T, D]
    # Masked before the logits: whatever a padded place holds, its gradient is exactly zero.
    hidden = jnp.where(weights[..., None] > 0, hidden, 0)
    logits = model.unembed(params, hidden)
    return logprobs.cross_entropy(logits, batch["decoder_target_tokens"], weights, z_loss=z_loss)
