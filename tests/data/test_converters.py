"""Converters: the arrays are those of the definition, one token at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft.data import converters, preprocess


def tokens(ids, weights=None):
    weights = [1.0] * len(ids) if weights is None else weights
    return preprocess.Tokens(list(ids), list(weights), [3] * len(ids))


def test_converter_encoder_decoder_as_documented():
    rows = [
        [
            preprocess.Example(tokens([5, 6, 1], [0, 0, 0]), tokens([8, 4, 1])),
            preprocess.Example(tokens([7, 1], [0, 0]), tokens([9, 1])),
        ]
    ]
    batch = converters.encoder_decoder(rows, encoder_length=6, decoder_length=8, start_id=0)
    expected = {
        "encoder_input_tokens": [5, 6, 1, 7, 1, 0],
        "encoder_segment_ids": [1, 1, 1, 2, 2, 0],
        "encoder_positions": [0, 1, 2, 0, 1, 0],
        "decoder_target_tokens": [8, 4, 1, 9, 1, 0, 0, 0],
        "decoder_input_tokens": [0, 8, 4, 0, 9, 0, 0, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0, 0, 0],
        "decoder_segment_ids": [1, 1, 1, 2, 2, 0, 0, 0],
        "decoder_positions": [0, 1, 2, 0, 1, 0, 0, 0],
    }
    assert {name: array[0].tolist() for name, array in batch.items()} == expected


def test_converter_decoder_as_documented():
    first = preprocess.Example(preprocess.EMPTY, tokens([3, 7, 8, 1], [0, 0, 1, 1]))
    second = preprocess.Example(preprocess.EMPTY, tokens([3, 9, 1], [0, 1, 1]))
    batch = converters.decoder([[first, second]], decoder_length=7)
    expected = {
        "decoder_input_tokens": [3, 7, 8, 3, 9, 0, 0],
        "decoder_target_tokens": [7, 8, 1, 9, 1, 0, 0],
        "decoder_loss_weights": [0, 1, 1, 1, 1, 0, 0],
        "decoder_segment_ids": [1, 1, 1, 2, 2, 0, 0],
        "decoder_positions": [0, 1, 2, 0, 1, 0, 0],
    }
    assert {name: array[0].tolist() for name, array in batch.items()} == expected


def test_a_real_token_with_the_id_of_padding_is_kept():
    row = [preprocess.Example(preprocess.EMPTY, tokens([3, 0, 0, 1], [0, 1, 1, 1]))]
    batch = converters.decoder([row], decoder_length=5)
    assert batch["decoder_target_tokens"][0].tolist() == [0, 0, 1, 0, 0]
    assert batch["decoder_loss_weights"][0].tolist() == [1, 1, 1, 0, 0]
    assert batch["decoder_segment_ids"][0].tolist() == [1, 1, 1, 0, 0]


def slow_decoder_row(row, layout, width, start_id):
    """Each place: what is seen, what is to be said, its weight, segment and position."""
    places = []
    for segment, (_, targets) in enumerate(row, 1):
        sequence = list(zip(targets.ids, targets.weights, strict=True))
        if layout == "encoder_decoder":
            sequence.insert(0, (start_id, 0.0))
        for position in range(len(sequence) - 1):
            places.append((sequence[position][0], *sequence[position + 1], segment, position))
    return places + [(0, 0, 0.0, 0, 0)] * (width - len(places))


def slow_encoder_row(row, width):
    places = []
    for segment, (inputs, _) in enumerate(row, 1):
        places += [(token, segment, position) for position, token in enumerate(inputs.ids)]
    return places + [(0, 0, 0)] * (width - len(places))


IDS = st.integers(0, 9)  # 0 too: a real token may have the id of padding
WEIGHTS = st.sampled_from([0.0, 0.25, 1.0])
TOKENS = st.lists(st.tuples(IDS, WEIGHTS), min_size=1, max_size=6)


@pytest.mark.parametrize("as_arrays", [False, True])
@pytest.mark.parametrize("layout", ["encoder_decoder", "decoder"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=st.lists(st.lists(st.tuples(TOKENS, TOKENS), max_size=4), max_size=4), start=IDS)
def test_arrays_are_those_of_the_definition(layout, as_arrays, rows, start):
    dtypes = (np.int32, np.float32, np.int8)

    def made(pairs):
        columns = [*zip(*pairs, strict=True), [3] * len(pairs)]
        if as_arrays:
            columns = [np.array(c, dtype) for c, dtype in zip(columns, dtypes, strict=True)]
        return preprocess.Tokens(*map(list, columns) if not as_arrays else columns)

    rows = [[preprocess.Example(made(a), made(b)) for a, b in row] for row in rows]
    if layout == "decoder":
        batch = converters.decoder(rows, decoder_length=25)
    else:
        lengths = {"encoder_length": 25, "decoder_length": 25}
        batch = converters.encoder_decoder(rows, start_id=start, **lengths)
        names = ("input_tokens", "segment_ids", "positions")
        got = [batch[f"encoder_{name}"] for name in names]
        want = [slow_encoder_row(row, 25) for row in rows]
        np.testing.assert_array_equal(
            np.stack(got, -1).reshape(-1, 25, 3), np.reshape(want, (-1, 25, 3))
        )
    names = ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")
    got = [batch[f"decoder_{name}"] for name in names]
    want = [slow_decoder_row(row, layout, 25, start) for row in rows]
    np.testing.assert_array_equal(
        np.stack(got, -1).reshape(-1, 25, 5), np.reshape(want, (-1, 25, 5))
    )
    shapes = converters.shapes(layout, len(rows), encoder_length=25, decoder_length=25)
    assert {n: (a.shape, a.dtype) for n, a in batch.items()} == {
        n: (s.shape, s.dtype) for n, s in shapes.items()
    }


def test_refuses_a_row_that_is_too_long():
    row = [preprocess.Example(preprocess.EMPTY, tokens([3, 4, 5, 6]))]
    with pytest.raises(ValueError, match="row 0 has 3 tokens, at most 2 fit"):
        converters.decoder([row], decoder_length=2)
