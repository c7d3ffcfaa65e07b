"""Scores: SeqIO metric functions over decoded text."""

from collections.abc import Sequence


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share of predictions that equal their target, but for white space at the ends.

    Example:
      targets "red", "a cat";  predictions "red ", "cat"   exact_match 0.5
    """
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets and {len(predictions)} predictions")
    right = sum(
        target.strip() == prediction.strip()
        for target, prediction in zip(targets, predictions, strict=True)
    )
    return {"exact_match": right / max(len(targets), 1)}
