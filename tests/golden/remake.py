"""Makes the golden series again, after a change that is meant to change the losses:

python tests/golden/remake.py
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
NUM_STEPS = 10


def losses(name: str) -> list[float]:
    """Ten losses, in nats per target token, of a tiny model on a stream made from seeds."""
    from golden import stream

    model, optimizer = stream.BOTH[name], stream.adamw()
    program = stream.program(model, optimizer, batch_size=6)
    now, out = stream.start(model, optimizer, program.like), []
    for number in range(NUM_STEPS):
        now, metrics = program.update(now, stream.batch(model.layout, 6, seed=number % 3))
        total, weight = metrics["loss"]
        out.append(float(total) / float(weight))
    return out


def path(name: str) -> pathlib.Path:
    return HERE / f"sft_{name}.json"


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
    import conftest  # noqa: F401  the settings that every test runs under
    from golden import stream

    for model_name in stream.BOTH:
        path(model_name).write_text(json.dumps(losses(model_name), indent=1) + "\n")
