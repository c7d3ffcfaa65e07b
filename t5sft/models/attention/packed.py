"""Packed attention on a mesh: every device computes its own rows, heads and queries."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5sft import errors
from t5sft.models.attention import blockwise, cudnn, fused, splash, triton, views
from t5sft.parallel import rules

IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "blockwise": blockwise.attend,
    "cudnn": cudnn.attend,
    "fused": fused.attend,
    "splash": splash.attend,
    "triton": triton.attend,
}


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    view: views.Packed | views.Either,
    *,
    soft_cap: float | None = None,
) -> jax.Array:
    """Attention by the view's implementation: [B, T, N, H]; a query that sees no key gets zero.

    Args:
      query: [B, T, N, H], scaled already.
      key, value: [B, S, K, H].
      soft_cap: bound of the scores, before the bias.
    """
    if isinstance(view, views.Either):
        branches = [
            functools.partial(attend, view=each, soft_cap=soft_cap)
            for each in (view.first, view.second)
        ]
        return jax.lax.cond(view.is_first, *branches, query, key, value)
    run = functools.partial(
        IMPLEMENTATIONS[view.implementation],
        limits=views.Limits(view.causal, view.window, soft_cap),
    )
    arrays = (query, key, value, view.query_segments, view.key_segments, view.line)
    active = rules.active()
    return run(*arrays) if active is None else _on_mesh(run, arrays, active[1])


def _on_mesh(run, arrays, table) -> jax.Array:
    """Runs on every device's part of the arrays; keys and values are whole along S.

    The compiler cannot split a kernel, and splits loops over blocks badly.
    """
    query, key, value, *rest = arrays
    query_spec = rules.spec(("batch", "length", "heads", "head_dim"), table)
    key_spec = rules.spec(("batch", None, "kv_heads", "head_dim"), table)
    if query_spec[2] != key_spec[2]:  # query heads are split further than their keys
        key, value = (jnp.repeat(x, query.shape[2] // x.shape[2], axis=2) for x in (key, value))
        key_spec = PartitionSpec(*key_spec[:2], *query_spec[2:])
    specs = (
        query_spec,
        key_spec,
        key_spec,
        PartitionSpec(*query_spec[:2]),
        PartitionSpec(*key_spec[:2]),
        None if rest[-1] is None else PartitionSpec(query_spec[2], None),
    )
    _check(query, query_spec)
    over = query_spec[1]
    is_split = rules.split_ways("length") > 1

    def local(*parts):
        offset = jax.lax.axis_index(over) * parts[0].shape[1] if is_split else 0
        return run(*parts, offset=offset)

    return rules.on_parts(local, specs, query_spec)(query, key, value, *rest)


def _check(query: jax.Array, spec: PartitionSpec) -> None:
    names = {"rows": "batch", "tokens": "length", "heads": "heads"}
    for size, (what, name), over in zip(query.shape, names.items(), spec, strict=False):
        ways = rules.split_ways(name)
        if size % ways:
            axes = " x ".join(rules.axes_of(over))
            raise errors.ConfigError(
                f"{size} {what} do not divide over {axes} = {ways}; attention on a "
                f"mesh; use a multiple of {ways}, or attention = 'reference'"
            )
