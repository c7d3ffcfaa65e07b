"""Keys and values kept while decoding, and the attention of one new token over them.

A step only reads the kept arrays; what the new token adds is attended beside them and written once,
for all layers, after the last one. So a scan over layers copies one token and not the whole cache.
Heads lie before slots, [K, S, H]: a batch of plain matrix products, 5 times as fast on a CPU as
[S, K, H].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5sft import errors
from t5sft.models.attention.views import MASKED
from t5sft.parallel import rules

DTYPES = ("float32", "bfloat16", "int8")
_NAMES = ("layers", "batch", "kv_heads", None, "head_dim")


class Kept(NamedTuple):
    """Keys and values of S slots; every array has its rows on axis 1 while layers are stacked."""

    key: jax.Array  # [(L,) B, K, S, H], float or int8
    value: jax.Array  # [(L,) B, K, S, H]
    key_scale: jax.Array | None = None  # [(L,) B, K, S] float32: int8 times this is the key
    value_scale: jax.Array | None = None  # [(L,) B, K, S] float32


class Aimed(NamedTuple):
    """What one layer keeps, [1, B, K, S, H], and the slots [B] where it puts the new token.

    It does so before it attends: written after having been read, XLA would copy the whole array.
    """

    kept: Kept
    slots: jax.Array


def check_dtype(dtype: str | None) -> None:
    """Raises ConfigError for a dtype that a cache cannot have."""
    if dtype not in (None, *DTYPES):
        hint = errors.suggest(str(dtype), DTYPES)
        raise errors.ConfigError(
            f"cache_dtype = {dtype!r} is unknown; generation; use {', '.join(DTYPES)}{hint}"
        )


def keep(kv: jax.Array, dtype: str) -> Kept:
    """Turns keys and values [..., B, S, 2, K, H] into what a cache of `dtype` keeps of them."""
    key, value = jnp.moveaxis(jnp.swapaxes(kv, -4, -2), -3, 0)  # S <-> K: [2, ..., B, K, S, H]
    if dtype != "int8":
        return Kept(key.astype(dtype), value.astype(dtype))
    (key, key_scale), (value, value_scale) = quantise(key), quantise(value)
    return Kept(key, value, key_scale, value_scale)


def quantise(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rounds [..., H] to int8 with one scale per vector: at most scale / 2 off, scale max|x| / 127.

    Example (H = 2):
      x  1.27 -0.004      int8  127 0      scale 0.01
    """
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=-1) / 127.0
    steps = x / jnp.where(scale > 0, scale, 1.0)[..., None]
    return jnp.round(steps).astype(jnp.int8), scale


def empty(config: Any, num_layers: int, num_rows: int, max_length: int, dtype: str) -> Kept:
    """Returns zeros for `max_length` slots of every layer and row."""
    shape = (num_layers, num_rows, config.num_kv_heads, max_length, config.head_dim)
    zeros = rules.constrain(jnp.zeros(shape, dtype), _NAMES)
    if dtype != "int8":
        return Kept(zeros, zeros)
    scale = rules.constrain(jnp.zeros(shape[:-1], jnp.float32), _NAMES[:-1])
    return Kept(zeros, zeros, scale, scale)


def lengthen(kept: Kept, max_length: int) -> Kept:
    """Adds empty slots behind the S of [L, B, K, S, H], up to max_length."""

    def one(x: jax.Array) -> jax.Array:
        missing = [(0, 0)] * x.ndim
        missing[3] = (0, max_length - x.shape[3])
        return rules.constrain(jnp.pad(x, missing), _NAMES[: x.ndim])

    return jax.tree.map(one, kept)


def num_slots(kept: Kept | list[Kept]) -> int:
    """Returns S."""
    return (kept[0] if isinstance(kept, list) else kept).key.shape[-2]


def apart(cache: dict[str, Any]) -> dict[str, Any]:
    """Takes the layers of a cache apart: each `Kept` becomes a list of L, of [1, B, K, S, H]."""

    def one(x: Any) -> Any:
        if not isinstance(x, Kept):
            return x
        return [jax.tree.map(lambda y: y[i : i + 1], x) for i in range(len(x.key))]  # noqa: B023

    return {name: one(x) for name, x in cache.items()}


def only(kept: Kept) -> Kept:
    """Takes off the axis of one layer: [1, B, K, S, H] -> [B, K, S, H]."""
    return jax.tree.map(lambda x: x[0], kept)


def together(cache: dict[str, Any]) -> dict[str, Any]:
    """Puts the layers of a cache together again."""
    stacked = lambda *layers: jnp.concatenate(layers)  # noqa: E731
    return {
        name: jax.tree.map(stacked, *x) if isinstance(x, list) else x for name, x in cache.items()
    }


def mask(slots: jax.Array, max_length: int, window: int | None = None) -> jax.Array:
    """Lets the token of slot p see slots 0 to p - 1 and itself, or the last `window` of these.

    [B] slots -> [B, 1, 1, max_length + 1]; the last place is the token itself.
    """
    behind = slots[:, None] - jnp.arange(max_length)[None, :]
    seen = (behind > 0) if window is None else (behind > 0) & (behind < window)
    return jnp.pad(seen, ((0, 0), (0, 1)), constant_values=True)[:, None, None, :]


def aim(kept: Any, slots: jax.Array) -> Any:
    """Tells layers that are apart the slot [B] of the token to come."""
    return [Aimed(one, slots) for one in kept] if isinstance(kept, list) else kept


def write(kept: Any, new: Any, slots: jax.Array) -> Any:
    """Puts the token [L, B, 1, 2, K, H] of each row at its slot [B]; a slot beyond S is dropped.

    Layers that are apart have done it: theirs is `new`.
    """
    if isinstance(kept, list):
        return new
    rows, by_rows = jnp.arange(slots.shape[0]), rules.platform() == "tpu"

    def one(x: jax.Array, y: jax.Array) -> jax.Array:  # indices apart: their axis comes first
        if by_rows:
            return _write_rows(x, y, slots)
        return x.at[:, rows, :, slots].set(jnp.moveaxis(y[:, :, :, 0], 1, 0))

    return jax.tree.map(one, kept, keep(new, kept.key.dtype.name))


def _write_rows(x: jax.Array, y: jax.Array, slots: jax.Array) -> jax.Array:
    """`write` of one array, one row after another, where they lie.

    A scatter on TPUs wants slots before heads: XLA copied the whole cache into that order before a
    loop of steps, and back after it.
    """

    def rows(x: jax.Array, y: jax.Array, slots: jax.Array) -> jax.Array:
        def one(b: jax.Array, x: jax.Array) -> jax.Array:
            place = (0, b, 0, slots[b], 0)[: x.ndim]
            new = jax.lax.dynamic_slice_in_dim(y, b, 1, axis=1)
            old = jax.lax.dynamic_slice(x, place, new.shape)  # beyond the end: of the last slot
            new = jnp.where(slots[b] < x.shape[3], new.astype(x.dtype), old)
            return jax.lax.dynamic_update_slice(x, new, place)

        return jax.lax.fori_loop(0, x.shape[1], one, x)

    now = rules.active()
    if now is None:
        return rows(x, y, slots)
    of_cache, of_rows = (rules.spec(names, now[1]) for names in (_NAMES[: x.ndim], ("batch",)))
    return rules.on_parts(rows, (of_cache, of_cache, of_rows), of_cache)(x, y, slots)


def attend(
    query: jax.Array, kept: Kept, mask: jax.Array, bias: jax.Array | None, new: jax.Array | None,
    soft_cap: float | None,
) -> jax.Array:  # fmt: skip
    """Attention of one token per row, [B, 1, N, H], over the kept slots and the token itself.

    Args:
      query: [B, 1, N, H], scaled.
      kept: of one layer.
      mask: [B, 1, 1, S], with `new` [B, 1, 1, S + 1]: the last place is the token itself.
      bias: float32, the shape of the mask with N heads, added to the scores.
      new: the token's own key and value [B, 1, 2, K, H]; None in cross-attention.
      soft_cap: bounds the scores.
    """
    b, _, n, h = query.shape
    k = kept.key.shape[1]
    query = query.reshape(b, k, n // k, h)
    scores = _products("BKGH,BKSH->BKGS", query, kept.key)
    if kept.key_scale is not None:
        scores = scores * kept.key_scale[:, :, None, :]
    if new is not None:
        own = _products("BKGH,BKH->BKG", query, new[:, 0, 0])
        scores = jnp.concatenate([scores, own[..., None]], axis=-1)
    scores = scores.reshape(b, n, 1, -1)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).reshape(b, k, n // k, -1)
    slots = kept.value.shape[2]
    of_slots = weights[..., :slots]
    if kept.value_scale is not None:
        of_slots = of_slots * kept.value_scale[:, :, None, :]
    out: jax.Array = _products("BKGS,BKSH->BKGH", of_slots.astype(query.dtype), kept.value)
    if new is None:  # a row without memory adds nothing, as in a whole forward pass
        out = jnp.where(mask.any(axis=-1)[..., None], out, 0.0)
    else:
        out = out + weights[..., slots:] * new[:, 0, 1, :, None, :].astype(jnp.float32)
    return out.astype(query.dtype).reshape(b, 1, n, h)


def _products(letters: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(letters, x, y.astype(x.dtype), preferred_element_type=jnp.float32)
