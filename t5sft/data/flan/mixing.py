"""Mixing: rates from sizes, and FLAN v2's weights as data."""

from collections.abc import Mapping

from t5sft import errors

FLAN2021_CAP = 3_000  # google-research/FLAN, flan/mixtures.py
# FLAN v2: flan/v2/mixtures.py and run_example.py.
FLAN2022_CAPS = {
    "flan2021": 30_000,
    "t0": 20_000,
    "cot": 100_000,
    "niv2": 5_000,
    "dialog": 200_000,
}
FLAN2022_WEIGHTS = {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03}
FLAN2022_INVERSION = 0.3  # rate of the input-inversion tasks beside the plain ones (cot, dialog)
FLAN2022_STYLES = {  # equal parts within a submix: zero- and few-shot, with and without options
    "flan2021": ("zs_opt", "fs_opt", "zs_noopt", "fs_noopt"),
    "t0": ("zs_opt", "fs_opt", "zs_noopt", "fs_noopt"),
    "niv2": ("zs_opt", "fs_opt"),
    "cot": ("zs_opt", "fs_opt"),
    "dialog": ("zs_opt", "fs_opt"),
}


def proportional(
    sizes: Mapping[str, int], *, cap: int | None = None, temperature: float = 1.0
) -> dict[str, float]:
    """Returns rates that add up to 1: min(size, cap) ** (1 / temperature), as T5 mixes.

    Temperature 1 mixes in proportion to the examples, an infinite one gives equal parts
    (arXiv:1910.10683, section 3.5.2).

    Example (cap 3,000):
      sizes 1,000, 3,000, 400,000   rates 1/7, 3/7, 3/7
    """
    if temperature <= 0:
        raise errors.ConfigError(f"temperature is {temperature}; mixing; give a number above 0")
    for task, size in sizes.items():
        if size <= 0:
            raise errors.ConfigError(f"task {task!r} has {size} examples; mixing; leave it out")
    weights = {
        task: float(size if cap is None else min(size, cap)) ** (1.0 / temperature)
        for task, size in sizes.items()
    }
    return explicit(weights)


def explicit(weights: Mapping[str, float]) -> dict[str, float]:
    """Returns the given weights brought to the sum 1."""
    total = sum(weights.values())
    if not weights or min(weights.values()) < 0 or total <= 0:
        raise errors.ConfigError(f"weights are {dict(weights)}; mixing; give numbers above 0")
    return {task: weight / total for task, weight in weights.items()}
