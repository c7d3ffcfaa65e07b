"""What a setting costs, by arithmetic: good enough to choose what is worth compiling.

Tokens, widths and shards give memory and work within some 30 %; `search` then corrects them by what
the compiler said of the settings it has seen.
"""

import dataclasses
import math
from typing import Any

from t5sft.parallel import mesh as mesh_lib
from t5sft.plan import flops, measure, roofline, topology

# Of the forward pass, what the backward pass computes again; and what it keeps of a layer, as
# multiples of (the residual stream D, all inputs of matrix products). That of "none" is what the
# compiler asked for at Llama 2 7B: much is kept twice, or in float32.
_AGAIN = {
    "full": 1.0,
    "dots": 0.2,
    "dots_attention": 0.15,
    "none": 0.0,
    "full_offload": 1.0,
    "dots_offload": 0.2,
}
_KEPT = {
    "full": (1.0, 0.0),
    "dots": (1.0, 1.0),
    "dots_attention": (1.0, 1.2),
    "none": (10.0, 5.0),
    "full_offload": (0.0, 0.0),
    "dots_offload": (1.0, 0.0),
}
# Of the same, what goes to the memory of the host, and comes back.
_SENT = {"full_offload": (1.0, 0.0), "dots_offload": (0.0, 1.0)} | dict.fromkeys(
    ("full", "dots", "dots_attention", "none"), (0.0, 0.0)
)
# What a search tries: this arithmetic cannot tell "dots_attention" from "dots".
REMATS = tuple(name for name in _AGAIN if name != "dots_attention")


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
    """Bytes per device, and what a device does in a step.

    Args:
      state: parameters and optimizer; temp: the rest.
      flops, hbm, ici, dcn, host: as of `roofline.step_seconds`.
    """

    state: float
    temp: float
    flops: float
    hbm: float
    ici: float
    dcn: float
    host: float

    @property
    def bytes(self) -> float:
        return self.state + self.temp

    def seconds(self, place: topology.Topology) -> roofline.StepSeconds:
        return roofline.step_seconds(
            place,
            flops=self.flops,
            hbm_bytes=self.hbm,
            ici=self.ici,
            dcn=self.dcn,
            host=self.host,
        )


def estimate(
    recipe: measure.Recipe,
    place: topology.Topology,
    setting: Setting,
    *,
    num_parameters: int,
    state_bytes: int,
    step_flops: int,
) -> Estimate:
    """Estimates one setting; told what is the same for all, it traces nothing.

    Args:
      num_parameters: of the model; state_bytes: of parameters and optimizer, on all devices.
      step_flops: what the model asks for, as of `flops.step_flops`.
    """
    model, sizes = recipe.model, setting.mesh
    num_layers = getattr(model, "num_layers", 0) or (
        model.num_encoder_layers + model.num_decoder_layers
    )
    tokens = flops.tokens(recipe.shapes) / setting.rows / sizes.context  # of a device, per step
    at_once = tokens / setting.microbatches
    stream, inner = _widths(model)
    inner /= sizes.tensor
    of_stream, of_inner = _KEPT[setting.remat]
    kept = 2 * at_once * num_layers * (of_stream * stream + of_inner * inner)
    logits = 6 * at_once * model.vocab_size / sizes.tensor
    gradients = (4 if setting.microbatches > 1 else 2) * num_parameters / setting.shards
    layer = 3 * 2 * num_parameters / num_layers / sizes.tensor  # gathered: weights and a gradient
    passes = 3 + _AGAIN[setting.remat]  # forward, twice backward, and again
    ici, dcn = _wire(setting, num_layers, tokens, stream, num_parameters)
    weights = 2 * num_parameters / sizes.tensor
    state = state_bytes / setting.shards
    of_stream, of_inner = _SENT[setting.remat]
    return Estimate(
        state=state,
        temp=kept + max(logits, layer) + gradients,
        flops=step_flops / place.num_devices * passes / 3,
        # Weights are written and read in each of three gathers, activations in every pass; what is
        # kept of them once more.
        hbm=(6 * weights + 2 * kept) * setting.microbatches
        + 2 * state
        + 4 * tokens * num_layers * (inner + 4 * stream) * passes,
        ici=ici,
        dcn=dcn,
        host=2 * tokens * num_layers * (of_stream * stream + of_inner * inner),
    )


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
