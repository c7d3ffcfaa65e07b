"""What a setting costs, by arithmetic: good enough to choose what is worth compiling.

Tokens, widths and shards give memory and time within some 30 %; `Calibration` then scales the
temporaries to what the compiler said of the recipe as it stands.
"""

import dataclasses
import math
from typing import Any

from t5sft.parallel import mesh as mesh_lib
from t5sft.plan import flops, measure, roofline, topology

# Of the forward pass, what the backward pass computes again; and what it keeps of a layer, as
# multiples of (the residual stream D, all inputs of matrix products).
_AGAIN = {"full": 1.0, "dots": 0.1, "none": 0.0, "full_offload": 1.0, "dots_offload": 0.1}
_KEPT = {
    "full": (1.0, 0.0),
    "dots": (1.0, 1.0),
    "none": (4.0, 2.0),
    "full_offload": (0.0, 0.0),
    "dots_offload": (1.0, 0.0),
}
# What a search tries. The way to the memory of the host has no roof in `roofline`: a policy that
# offloads would be as fast as one that keeps, and come out first of all.
REMATS = ("none", "dots", "full")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a search varies."""

    mesh: mesh_lib.MeshSpec
    microbatches: int
    remat: str

    @property
    def shards(self) -> int:
        """Into how many parts the state is split."""
        return self.mesh.fsdp * self.mesh.fsdp_inner * self.mesh.tensor

    @property
    def rows(self) -> int:
        """Into how many parts a batch is split."""
        return self.mesh.replica * self.mesh.data * self.mesh.fsdp * self.mesh.fsdp_inner

    def of(self, recipe: measure.Recipe) -> measure.Recipe:
        """Returns the recipe with this setting."""
        model = dataclasses.replace(recipe.model, remat=self.remat)
        told = {"model": model, "mesh": self.mesh, "microbatches": self.microbatches}
        return dataclasses.replace(recipe, **told)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes per device and seconds per step."""

    state: float
    temp: float
    seconds: roofline.StepSeconds

    @property
    def bytes(self) -> float:
        return self.state + self.temp


def estimate(
    recipe: measure.Recipe,
    place: topology.Topology,
    setting: Setting,
    *,
    num_parameters: int,
    state_bytes: int,
) -> Estimate:
    """Estimates one setting.

    Args:
      num_parameters: of the model; state_bytes: of parameters and optimizer, on all devices.
    """
    model, sizes = recipe.model, setting.mesh
    num_layers = getattr(model, "num_layers", 0) or (
        model.num_encoder_layers + model.num_decoder_layers
    )
    tokens = flops.tokens(recipe.shapes) / setting.rows / sizes.context  # of a device, per step
    at_once = tokens / setting.microbatches
    stream, inner = _widths(model)
    of_stream, of_inner = _KEPT[setting.remat]
    kept = 2 * at_once * num_layers * (of_stream * stream + of_inner * inner / sizes.tensor)
    logits = 6 * at_once * model.vocab_size / sizes.tensor
    gradients = (4 if setting.microbatches > 1 else 2) * num_parameters / setting.shards
    layer = 3 * 2 * num_parameters / num_layers / sizes.tensor  # gathered: weights and a gradient
    work = flops.step_flops(model, recipe.shapes) / place.num_devices
    again = _AGAIN[setting.remat]
    ici, dcn = _wire(setting, num_layers, tokens, stream, num_parameters)
    seconds = roofline.step_seconds(
        place, flops=work * (3 + again) / 3, hbm_bytes=0, ici=ici, dcn=dcn
    )
    return Estimate(state_bytes / setting.shards, kept + max(logits, layer) + gradients, seconds)


def _widths(model: Any) -> tuple[int, int]:
    """Returns D, and the numbers per token that a layer's matrix products make."""
    heads = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    return model.emb_dim, heads + 3 * model.mlp_dim


def _wire(setting, num_layers, tokens, stream, num_parameters) -> tuple[float, float]:
    """Returns the bytes a device sends within its slice and to other slices, per step."""
    sizes = setting.mesh
    fsdp, tensor = sizes.fsdp * sizes.fsdp_inner, sizes.tensor
    weights = 2 * num_parameters / tensor  # bfloat16: gathered twice, then scattered as gradients
    wire = 3 * weights * (fsdp - 1) / fsdp * setting.microbatches
    if tensor > 1:  # two sums of activations forward, two backward, two again
        again = 2 if setting.remat == "full" else 0
        wire += (4 + again) * num_layers * 2 * tokens * stream * 2 * (tensor - 1) / tensor
    gradient = 4 * num_parameters / setting.shards
    if sizes.data > 1:
        wire += 2 * gradient * (sizes.data - 1) / sizes.data
    dcn = 2 * gradient * (sizes.replica - 1) / sizes.replica
    return wire, dcn


def settings(recipe: measure.Recipe, place: topology.Topology, remats) -> list[Setting]:
    """Returns the settings worth thinking about, those that divide.

    A state is split over fsdp, as two axes from 16 on, and over tensor up to 8 ways; replicas are
    slices.
    """
    (batch_size,) = {shape.shape[0] for shape in recipe.shapes.values()}
    model, n = recipe.model, place.num_devices // place.num_slices
    found = []
    for tensor in (1, 2, 4, 8):
        whole = (model.num_heads, model.num_kv_heads, model.mlp_dim, model.vocab_size)
        if n % tensor or any(size % tensor for size in whole):
            continue
        for fsdp in _powers(n // tensor):
            if model.emb_dim % fsdp:
                continue
            outer = fsdp if fsdp < 16 else 2 ** math.ceil(math.log2(fsdp) / 2)
            mesh = mesh_lib.MeshSpec(
                replica=place.num_slices,
                data=n // tensor // fsdp,
                fsdp=outer,
                fsdp_inner=fsdp // outer,
                tensor=tensor,
            )
            for microbatches in (1, 2, 4, 8):
                for remat in remats:
                    setting = Setting(mesh, microbatches, remat)
                    if batch_size % (setting.rows * microbatches) == 0:
                        found.append(setting)
    return found


def _powers(n: int) -> list[int]:
    """Returns the divisors of n that leave a power of two, largest first."""
    return [n >> k for k in range(n.bit_length()) if n % (1 << k) == 0]
