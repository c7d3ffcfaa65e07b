"""A stack of equal blocks, scanned over their stacked parameters."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from t5sft.models import attention, layers
from t5sft.models.attention import cache as cached
from t5sft.parallel import explicit

INPUT = "block_input"


def _keep_but_gathered(primitive: Any, *_: Any, **parameters: Any) -> bool:
    """Keeps all but gathered weights: they would be the whole model on every device."""
    return primitive.name != "all_gather" and parameters.get("name") != explicit.GATHERED


_policies = jax.checkpoint_policies
_TO_HOST = {"offload_src": "device", "offload_dst": "pinned_host"}
POLICIES = {
    "none": _keep_but_gathered,
    "dots": _policies.dots_with_no_batch_dims_saveable,
    "dots_attention": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names("attention"),  # what the kernels name so
    ),
    "dots_offload": _policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "full": _policies.nothing_saveable,
    "full_offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[INPUT], **_TO_HOST
    ),
}


class Sight(NamedTuple):
    """What every block of a stack is given besides its input."""

    own: attention.AnyView  # of self-attention
    local: attention.AnyView | None = None  # of self-attention, in the layers with a sliding window
    other: attention.AnyView | None = None  # of cross-attention
    encoded: jax.Array | None = None  # [B, S, D] encoder output, where no cache holds its keys


class Block(nn.Module):
    """Self-attention, cross-attention if asked for, and the feed-forward layer."""

    config: Any
    crossing: bool = False

    def setup(self) -> None:
        self.self_attention = attention.Attention(self.config)
        if self.crossing:
            self.cross_attention = attention.Attention(self.config)
        self.mlp = layers.Mlp(self.config)

    def __call__(
        self,
        x: jax.Array,
        sight: Sight,
        cache: dict[str, cached.Kept] | None,
        is_local: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Maps [B, T, D] to [B, T, D] and the new keys and values, None without a cache."""
        x = checkpoint_name(x, INPUT)
        own = sight.own
        if sight.local is not None:
            own = attention.choose(is_local, sight.local, own)
        x, new = self.self_attention(x, own, cache and cache["kv"])
        if sight.other is not None and cache:
            x = self.cross_attention.cross_kept(x, cache["memory"], sight.other)
        elif sight.other is not None:
            memory = self.cross_attention.keys_values(sight.encoded)
            x = self.cross_attention.cross(x, memory, sight.other)
        return self.mlp(x), new


def apart(params: dict[str, Any]) -> dict[str, Any]:
    """Takes the layers of a stack's parameters apart: "layers" becomes a list, one for each."""
    stacked = params["layers"]
    num_layers = len(jax.tree.leaves(stacked)[0])
    layers = [jax.tree.map(lambda x: x[i], stacked) for i in range(num_layers)]  # noqa: B023
    return params | {"layers": layers}


class Stack(nn.Module):
    """Blocks one after another, then the final norm."""

    config: Any
    num_layers: int
    crossing: bool = False

    def setup(self) -> None:
        block, unroll = Block, min(self.config.scan_unroll, self.num_layers)
        if self.config.remat != "none" or explicit.is_split(("embed",)):
            # Inside a loop XLA cannot merge what is computed again with what was computed first.
            whole = unroll == self.num_layers
            block = nn.remat(Block, policy=POLICIES[self.config.remat], prevent_cse=whole)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0, 0),
            length=self.num_layers,
            unroll=unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(self.config, self.crossing)
        self.norm = layers.norm_scale(self)

    def __call__(
        self,
        x: jax.Array,
        sight: Sight,
        cache: dict[str, cached.Kept] | None = None,
        is_local: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Maps [B, T, D] to [B, T, D] and the new keys and values [L, B, T, 2, K, H].

        Args:
          x: [B, T, D].
          sight: what the tokens see, the same in all layers.
          cache: what all layers keep: "kv", with cross-attention also "memory"; {}: nothing yet,
            but the new keys and values are wanted.
          is_local: [L] bool, the layers that use sight.local; layers stay alike, and are scanned.
        """
        if cache and isinstance(cache["kv"], list):
            x, new = self._apart(x, sight, cache, is_local)
        else:
            x, new = self.layers(layers.dropout(self, x), sight, cache, is_local)
        x = layers.rms_norm(x, self.norm, self.config.norm_epsilon)
        return layers.dropout(self, x), new

    def _apart(self, x: jax.Array, sight: Sight, cache, is_local) -> tuple[jax.Array, list]:
        """The layers of a cached step whose parameters and cache are apart."""
        block, added = Block(self.config, self.crossing, parent=None), []
        for i, params in enumerate(self.variables["params"]["layers"]):
            kept = {"kv": cache["kv"][i]}
            if self.crossing:
                kept["memory"] = cached.only(cache["memory"][i])
            here = None if is_local is None else is_local[i]
            x, new = block.apply({"params": params}, x, sight, kept, here)
            added.append(new)
        return x, added
