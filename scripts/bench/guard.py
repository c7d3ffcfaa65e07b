"""What a guard inside of the step costs: the step with "skip" and with spike detection, in turn.

python scripts/bench/guard.py [--layouts decoder encoder_decoder] [--steps 5] [--repeats 5]

The default, "abort", is outside of the step: that program is the plain one. Model and batch as in
step.py; windows of the three alternate in one process.
"""

import argparse
import json

import jax
import step as step_bench
import windows

from t5sft.train import guard

GUARDS = {
    "abort": guard.DEFAULT,
    "skip": guard.Guard(action="skip"),
    "skip, spikes": guard.Guard(action="skip", spike_sigma=6.0),
}


def compare(layout: str, steps: int, repeats: int) -> dict:
    """Times the three steps in turn and returns their results and the ratios to the plain one."""
    model = step_bench.make_model(layout)
    made = {name: step_bench.ours(model, one) for name, one in GUARDS.items()}
    states = {name: now for name, (now, _) in made.items()}
    batch = jax.device_put(step_bench.make_batch(layout, segments=8))

    def run(name: str, count: int):
        for _ in range(count):
            states[name], metrics = made[name][1](states[name], batch)
        jax.block_until_ready((states[name], metrics))

    found: dict[str, list] = {name: [] for name in GUARDS}
    for name in GUARDS:
        run(name, 2)
    for turn in range(repeats):
        for name in list(GUARDS)[:: 1 if turn % 2 else -1]:
            begun = windows.now()
            run(name, steps)
            tokens = steps * step_bench.BATCH * step_bench.TOKENS
            found[name].append(windows.since(begun, steps, tokens))
    return {
        "results": [windows.summary(f"{name}/{layout}", found[name]) for name in GUARDS],
        "ratios": {n: windows.ratios(found[n], of=found["abort"]) for n in list(GUARDS)[1:]},
    }


def main() -> None:
    layouts = ("decoder", "encoder_decoder")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layouts", nargs="+", choices=layouts, default=layouts)
    parser.add_argument("--steps", type=int, default=5, help="steps in a window")
    parser.add_argument("--repeats", type=int, default=5, help="windows of each")
    arguments = vars(parser.parse_args())
    for layout in arguments.pop("layouts"):
        result = compare(layout, **arguments)
        print(json.dumps({"bench": "guard", "layout": layout, **result}), flush=True)
        print(windows.table(result["results"]))
        for name, ratio in result["ratios"].items():
            print(windows.row(f"{name} / abort", **ratio))


if __name__ == "__main__":
    main()
