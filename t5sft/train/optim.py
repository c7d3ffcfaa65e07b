"""Optimizers and learning-rate schedules, from Optax."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import optax

from t5sft import errors

Shape = Literal["constant", "linear", "cosine", "inverse_sqrt"]


class Optimizer(NamedTuple):
    """An Optax transformation and the schedule inside it (for the log)."""

    transform: optax.GradientTransformation
    schedule: Callable  # step -> learning rate


def schedule(
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    shape: Shape = "linear",
    end_fraction: float = 0.0,
) -> Callable:
    """Returns step -> learning rate: a linear rise from 0 to `peak`, then the shape.

    Args:
      peak: the highest rate.
      total_steps: where "linear" and "cosine" arrive at end_fraction * peak.
      warmup_steps: steps of the rise; step 0 already learns at peak / warmup_steps.
      shape: "constant", "linear", "cosine", or "inverse_sqrt": peak * sqrt(warmup / step), T5's.

    Example (peak 1, total 6, warmup 2, "linear"):
      step  0   1   2    3    4    5
      rate  .5  1.  .8   .6   .4   .2
    """
    if shape not in get_args(Shape):
        raise errors.ConfigError(
            f"unknown schedule shape {shape!r}{errors.suggest(shape, get_args(Shape))}; "
            f"optim.schedule.shape; use one of {', '.join(get_args(Shape))}"
        )
    warmup_steps = max(warmup_steps, 1)  # without a rise the first step learns at the peak
    decay_steps = max(total_steps - warmup_steps + 1, 1)
    reach = float(max(warmup_steps, 1))
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, end_fraction * peak, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps, alpha=end_fraction),
        "inverse_sqrt": lambda step: peak * (reach / (reach + step)) ** 0.5,
    }[shape]

    def rate(step):
        rise = peak * (step + 1) / warmup_steps
        return jax.numpy.where(step < warmup_steps, rise, after(step - warmup_steps + 1))

    return rate


def _with_clipping(transform, clip_norm: float | None):
    if clip_norm is None:
        return transform
    return optax.chain(optax.clip_by_global_norm(clip_norm), transform)


def rate(optimizer: Optimizer, opt_state, step) -> jax.Array:
    """Returns the learning rate of the next update, for the log.

    It goes by the updates that Optax has counted: a batch that left no trace is a step, but none.
    """
    name = optax.ScaleByScheduleState.__name__
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "count")
    counts = [count for path, count in found if getattr(path[-1], "tuple_name", "") == name]
    return jax.numpy.asarray(optimizer.schedule(counts[0] if counts else step), jax.numpy.float32)


def adamw(
    *,
    learning_rate: Callable,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> Optimizer:
    """AdamW (arXiv:1711.05101) after clipping by global norm; scales and biases do not decay."""
    transform = optax.adamw(
        learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=_decays
    )
    return Optimizer(_with_clipping(transform, clip_norm), learning_rate)


def _decays(params):
    """Returns True for kernels. By name: stacked over layers, a norm's scale is a matrix too."""
    others = ("norm", "scale", "bias")  # also q_bias, relative_bias
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not str(getattr(path[-1], "key", "")).endswith(others), params
    )


def adafactor(
    *,
    learning_rate: Callable,
    decay_rate: float = 0.8,
    clip_norm: float | None = None,
    multiply_by_parameter_scale: bool = True,
    weight_decay: float | None = None,
) -> Optimizer:
    """Adafactor (arXiv:1804.04235) as T5 uses it: factored second moments, relative step size."""
    transform = optax.adafactor(
        learning_rate,
        decay_rate=decay_rate,
        multiply_by_parameter_scale=multiply_by_parameter_scale,
        weight_decay_rate=weight_decay,
        weight_decay_mask=_decays,
    )
    return Optimizer(_with_clipping(transform, clip_norm), learning_rate)
