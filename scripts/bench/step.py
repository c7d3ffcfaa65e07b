"""The training step against the floor: a plain JAX loop of the same model, batch and precision.

python scripts/bench/step.py [--layouts decoder encoder_decoder] [--steps 10] [--repeats 5]

Model: D 256, 4 layers (4 + 4), N 4, H 64, F 1024, V 8192, float32. Batch: 8 x 512 tokens, or
8 x (256 + 256), every place filled, 8 examples packed into a row; the floor (floor.py) takes the
rows for one example each. AdamW without clipping in both. Ours also masks segments, weighs tokens
and computes accuracy and the gradient norm, as every run of t5sft does. Windows alternate in one
process. Goal: at least 0.95 of the floor's tokens per second.
"""

import argparse
import json
from collections.abc import Callable

import floor
import jax
import numpy as np
import windows

from t5sft.data import converters, preprocess
from t5sft.models import decoder, t5
from t5sft.objectives import sft
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules
from t5sft.train import guard, optim, resume, state
from t5sft.train import step as step_lib

BATCH, TOKENS = 8, 512  # rows, tokens per row (encoder and decoder together)
RATE, DECAY = 1e-4, 0.01  # learning rate, weight decay


def make_model(layout: str, **fields):
    """Returns the model that all benchmarks train."""
    # The floor and PyTorch have no loop over layers: unrolled, nor has ours. As a loop the
    # encoder-decoder loses 5 to 10 % on a CPU, and compiles sooner.
    sizes = {"vocab_size": 8192, "emb_dim": 256, "mlp_dim": 1024, "num_heads": 4, "head_dim": 64}
    sizes |= {"scan_unroll": 4} | fields
    if layout == "decoder":
        return decoder.Decoder(num_layers=4, num_kv_heads=4, **sizes)
    return t5.T5(num_encoder_layers=4, num_decoder_layers=4, **sizes)


def make_batch(layout: str, segments: int) -> dict[str, np.ndarray]:
    """Returns full rows of `segments` random examples each; the same tokens for any number."""
    random = np.random.default_rng(0)
    places = TOKENS if layout == "decoder" else TOKENS // 2
    # A decoder's example of n tokens takes n - 1 places.
    length = places // segments + (layout == "decoder")

    def tokens(count):
        return preprocess.Tokens(random.integers(4, 8192, count), np.ones(count), np.zeros(count))

    def example():
        inputs = preprocess.EMPTY if layout == "decoder" else tokens(length)
        return preprocess.Example(inputs, tokens(length))

    rows = [[example() for _ in range(segments)] for _ in range(BATCH)]
    if layout == "decoder":
        return converters.decoder(rows, decoder_length=places)
    return converters.encoder_decoder(
        rows, encoder_length=places, decoder_length=places, start_id=0
    )


def ours(model, judging: guard.Guard = guard.DEFAULT) -> tuple[state.State, Callable]:
    """Returns the first state and the compiled step of t5sft."""
    optimizer = optim.adamw(
        learning_rate=optim.schedule(peak=RATE, total_steps=1, shape="constant"),
        weight_decay=DECAY,
        clip_norm=None,
    )
    places = TOKENS if model.layout == "decoder" else TOKENS // 2
    program = step_lib.build(
        model,
        sft.sft,
        optimizer,
        batch_shapes=converters.shapes(
            model.layout, BATCH, encoder_length=places, decoder_length=places
        ),
        microbatches=1,
        seed=0,
        mesh=mesh_lib.make_mesh(data=1, devices=jax.devices()[:1]),
        rules=rules.DEFAULT_RULES,
        guard=judging,
    )
    now = state.create(model, optimizer, program.like, seed=0)
    return resume.remembering(now, program.like, judging, {}), program.update


def compare(layout: str, steps: int, repeats: int, warmup: int, **fields) -> dict:
    """Times both programs in turn and returns their results and the ratio."""
    model = make_model(layout, **fields)
    now, update = ours(model)
    params = floor.parameters(now.params, model)
    init, floor_update = floor.make_update(model, RATE, DECAY)
    states = {"floor": (params, init(params)), "t5sft": now}
    updates = {"floor": floor_update, "t5sft": update}

    def run(name: str, batch, count: int):
        for _ in range(count):
            states[name], result = updates[name](states[name], batch)
        return jax.block_until_ready((states[name], result))[1]

    one = jax.device_put(make_batch(layout, segments=1))
    want, (total, weight) = run("floor", one, 1), run("t5sft", one, 1)["loss"]
    np.testing.assert_allclose(total / weight, want, rtol=1e-4, err_msg="not the same model")

    batch = jax.device_put(make_batch(layout, segments=8))
    for name in states:
        run(name, batch, warmup)
    found: dict[str, list] = {name: [] for name in states}
    for _ in range(repeats):
        for name in states:
            begun = windows.now()
            run(name, batch, steps)
            found[name].append(windows.since(begun, steps, steps * BATCH * TOKENS))
    return {
        "results": [windows.summary(f"{name}/{layout}", found[name]) for name in states],
        "ratio": windows.ratios(found["t5sft"], of=found["floor"]),
        "parameters": state.num_params(params),
        "loss": round(float(want), 4),
        "jax": jax.__version__,
        **fields,
    }


def main() -> None:
    layouts = ("decoder", "encoder_decoder")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layouts", nargs="+", choices=layouts, default=layouts)
    parser.add_argument("--steps", type=int, default=10, help="steps in a window")
    parser.add_argument("--repeats", type=int, default=5, help="windows of each program")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first window")
    parser.add_argument("--scan_unroll", type=int, default=4, help="layers unrolled; 4 is all")
    arguments = vars(parser.parse_args())
    for layout in arguments.pop("layouts"):
        result = compare(layout, **arguments)
        print(json.dumps({"bench": "step", "layout": layout, **result}), flush=True)
        print(windows.table(result["results"]))
        print(windows.row("t5sft / floor", **result["ratio"]))


if __name__ == "__main__":
    main()
