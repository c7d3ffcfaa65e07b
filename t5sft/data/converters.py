"""Converters: rows of examples become the arrays a model reads.

This is the only place where task features turn into model features. Padding is told by segment 0,
never by a token id.
"""

from collections.abc import Sequence
from typing import NamedTuple

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
    examples = [example for row in rows for example in row]
    counts = [len(row) for row in rows]
    source = [inputs.ids for inputs, _ in examples]
    target = [targets.ids for _, targets in examples]
    places = _places(counts, source, encoder_length)
    flat = np.concatenate([*source, _NONE])
    batch = {
        "encoder_input_tokens": places.spread(flat),
        "encoder_segment_ids": places.spread(places.segments),
        "encoder_positions": places.spread(places.positions),
    }
    places = _places(counts, target, decoder_length)
    flat = np.concatenate([*target, _NONE])
    shifted = np.concatenate([_NONE, flat[-1:], flat[:-1]])
    shifted[places.positions == 0] = start_id
    weights = [targets.weights for _, targets in examples]
    return batch | _decoder_features(places, shifted, flat, weights)


def decoder(rows: Sequence[Row], *, decoder_length: int) -> dict[str, np.ndarray]:
    """Builds a batch for a decoder: every token predicts its successor in the same example.

    Example (examples 3 7 8 1 with the answer 8 1, and 3 9 1 with the answer 9 1; T = 7):
      decoder_input_tokens   3 7 8 3 9 0 0
      decoder_target_tokens  7 8 1 9 1 0 0
      decoder_loss_weights   0 1 1 1 1 0 0
      decoder_segment_ids    1 1 1 2 2 0 0
      decoder_positions      0 1 2 0 1 0 0
    """
    counts = [len(row) for row in rows]
    target = [targets.ids for row in rows for _, targets in row]
    places = _places(counts, [ids[1:] for ids in target], decoder_length)
    inputs = np.concatenate([*(ids[:-1] for ids in target), _NONE])
    flat = np.concatenate([*(ids[1:] for ids in target), _NONE])
    weights = [targets.weights[1:] for row in rows for _, targets in row]
    return _decoder_features(places, inputs, flat, weights)


_NONE = np.zeros(0, np.int32)


class _Places(NamedTuple):
    """Where the tokens of all rows, one row after the other, lie in an array of rows."""

    is_used: np.ndarray  # [B, width]
    segments: np.ndarray  # [tokens] 1 for the first example of its row
    positions: np.ndarray  # [tokens] within its example

    def spread(self, values: np.ndarray, dtype=np.int32) -> np.ndarray:
        """Returns [B, width] with the values of the tokens, and 0 elsewhere."""
        out = np.zeros(self.is_used.shape, dtype)
        out[self.is_used] = values
        return out


def _places(counts: list[int], parts: list, width: int) -> _Places:
    """Lays out examples of the lengths of `parts`, of which `counts` share each row."""
    num_rows, lengths = len(counts), np.array([len(part) for part in parts], np.int64)
    row = np.repeat(np.arange(num_rows), counts)
    used = np.bincount(row, weights=lengths, minlength=num_rows)
    if num_rows and used.max() > width:
        over = int(used.argmax())
        raise ValueError(f"row {over} has {used[over]:.0f} tokens, at most {width} fit")
    segments = 1 + np.arange(len(parts)) - (np.cumsum(counts) - counts)[row]
    begins = np.cumsum(lengths) - lengths
    return _Places(
        np.arange(width) < used[:, None],
        np.repeat(segments, lengths),
        np.arange(lengths.sum()) - np.repeat(begins, lengths),
    )


def _decoder_features(places: _Places, inputs, targets, weights: list) -> dict[str, np.ndarray]:
    return {
        "decoder_input_tokens": places.spread(inputs),
        "decoder_target_tokens": places.spread(targets),
        "decoder_loss_weights": places.spread(np.concatenate([*weights, _NONE]), np.float32),
        "decoder_segment_ids": places.spread(places.segments),
        "decoder_positions": places.spread(places.positions),
    }


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
