"""Converters: rows of examples become the arrays a model reads.

This is the only place where task features turn into model features. Padding is told by segment 0,
never by a token id.
"""

from collections.abc import Sequence

import jax
import numpy as np

from t5sft.data import preprocess

Row = Sequence[preprocess.Example]


def encoder_decoder(
    rows: Sequence[Row], *, encoder_length: int, decoder_length: int, start_id: int
) -> dict[str, np.ndarray]:
    """Builds a batch for an encoder-decoder.

    Args:
      rows: examples that share a row, for each row.
      start_id: the decoder's first input of every segment (T5: the pad id).

    Returns:
      SeqIO's feature name -> [B, S] or [B, T].

    Example (two examples in a row, S = 6, T = 8, start_id 0):
      encoder_input_tokens   5 6 1 7 1 0
      encoder_segment_ids    1 1 1 2 2 0
      encoder_positions      0 1 2 0 1 0
      decoder_target_tokens  8 4 1 9 1 0 0 0
      decoder_input_tokens   0 8 4 0 9 0 0 0
      decoder_loss_weights   1 1 1 1 1 0 0 0
      decoder_segment_ids    1 1 1 2 2 0 0 0
      decoder_positions      0 1 2 0 1 0 0 0
    """
    batch = _empty(len(rows), decoder_length)
    for name in ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions"):
        batch[name] = np.zeros((len(rows), encoder_length), np.int32)
    for b, row in enumerate(rows):
        s = t = 0
        for segment, (inputs, targets) in enumerate(row, 1):
            ends = s + len(inputs.ids), t + len(targets.ids)
            batch["encoder_input_tokens"][b, s : ends[0]] = inputs.ids
            batch["encoder_segment_ids"][b, s : ends[0]] = segment
            batch["encoder_positions"][b, s : ends[0]] = np.arange(ends[0] - s)
            shifted = [start_id, *targets.ids[:-1]]
            _fill(batch, b, slice(t, ends[1]), shifted, targets.ids, targets.weights, segment)
            s, t = ends
    return batch


def decoder(rows: Sequence[Row], *, decoder_length: int) -> dict[str, np.ndarray]:
    """Builds a batch for a decoder: every token predicts its successor in the same example.

    Example (examples 3 7 8 1 with the answer 8 1, and 3 9 1 with the answer 9 1; T = 7):
      decoder_input_tokens   3 7 8 3 9 0 0
      decoder_target_tokens  7 8 1 9 1 0 0
      decoder_loss_weights   0 1 1 1 1 0 0
      decoder_segment_ids    1 1 1 2 2 0 0
      decoder_positions      0 1 2 0 1 0 0
    """
    batch = _empty(len(rows), decoder_length)
    for b, row in enumerate(rows):
        t = 0
        for segment, (_, targets) in enumerate(row, 1):
            end = t + len(targets.ids) - 1
            ids, weights = targets.ids, targets.weights
            _fill(batch, b, slice(t, end), ids[:-1], ids[1:], weights[1:], segment)
            t = end
    return batch


def _empty(num_rows: int, decoder_length: int) -> dict[str, np.ndarray]:
    names = ("input_tokens", "target_tokens", "segment_ids", "positions")
    batch = {f"decoder_{n}": np.zeros((num_rows, decoder_length), np.int32) for n in names}
    batch["decoder_loss_weights"] = np.zeros((num_rows, decoder_length), np.float32)
    return batch


def _fill(batch, b: int, part: slice, inputs, targets, weights, segment: int):
    batch["decoder_input_tokens"][b, part] = inputs
    batch["decoder_target_tokens"][b, part] = targets
    batch["decoder_loss_weights"][b, part] = weights
    batch["decoder_segment_ids"][b, part] = segment
    batch["decoder_positions"][b, part] = np.arange(part.stop - part.start)


def shapes(layout: str, batch_size: int, *, encoder_length: int, decoder_length: int):
    """Returns feature name -> jax.ShapeDtypeStruct of a global batch, before any data is read."""
    rows: list[Row] = []
    if layout == "decoder":
        arrays = decoder(rows, decoder_length=decoder_length)
    else:
        lengths = {"encoder_length": encoder_length, "decoder_length": decoder_length}
        arrays = encoder_decoder(rows, start_id=0, **lengths)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype)
        for name, array in arrays.items()
    }
