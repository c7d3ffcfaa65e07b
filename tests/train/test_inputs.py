"""What a run refuses to learn from."""

import types

import pytest

from t5sft import errors
from t5sft.train import inputs


def card(*longest):
    """A split whose tasks have these longest examples, in tokens."""
    lengths = [{"inputs": {}, "targets": {"max": size} if size else {}} for size in longest]
    return {"tasks": {f"t{i}": {"lengths": one} for i, one in enumerate(lengths)}}


@pytest.mark.parametrize("most", [None, 64, 100])
def test_examples_within_the_positions_of_the_weights_may_share_longer_rows(most):
    model = types.SimpleNamespace(max_position_embeddings=most)
    inputs.check_positions("train", card(0, 65, 12), model)  # the first token is never predicted


def test_an_example_beyond_the_positions_of_the_weights_is_refused():
    model = types.SimpleNamespace(max_position_embeddings=4096)
    message = r"takes 4,097 places, the weights were made for 4,096 .*'t1', validation; .*LENGTH to"
    with pytest.raises(errors.ConfigError, match=message):
        inputs.check_positions("validation", card(12, 4098), model)
