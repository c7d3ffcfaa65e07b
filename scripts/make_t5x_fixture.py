"""Makes tests/convert/t5x_fixture.zip: small T5s saved by T5X itself, and T5X's logits of them.

python scripts/make_t5x_fixture.py      in an environment with T5X (github.com/google-research/t5x)

"plain" is of T5X's examples/t5, "scan" of examples/scalable_t5, whose layers are stacked: there the
position biases of all layers are made equal, for a T5 has one for all. The optimizer's arrays are
left out of the file.
"""

import pathlib
import shutil
import tempfile
import zipfile

import flax
import jax
import jax.numpy as jnp
import numpy as np
from t5x import adafactor, checkpoints, partitioning, train_state
from t5x.examples.scalable_t5 import network as scanned
from t5x.examples.t5 import network as plain

FILE = pathlib.Path(__file__).resolve().parent.parent / "tests/convert/t5x_fixture.zip"
SIZES = dict(vocab_size=40, emb_dim=12, num_heads=3, head_dim=6, mlp_dim=16,
             num_encoder_layers=2, num_decoder_layers=3)  # fmt: skip


def write(folder: pathlib.Path, name: str, network) -> None:
    """Saves a random model by T5X's Checkpointer, and logits beside it."""
    config = network.T5Config(dtype="float32", mlp_activations=("gelu", "linear"),
                              dropout_rate=0.0, logits_via_embedding=False, **SIZES)  # fmt: skip
    model = network.Transformer(config)
    source, target = (jax.random.randint(jax.random.key(i), (2, n), 1, 40)
                      for i, n in enumerate((9, 6)))  # fmt: skip
    variables = model.init(jax.random.key(2), source, target, target, enable_dropout=False)

    def changed(path, value):
        path = jax.tree_util.keystr(path)
        value = value * (1 + 0.3 * jax.random.normal(jax.random.key(len(path)), value.shape))
        stacked = "rel_embedding" in path and value.ndim == 3
        return jnp.repeat(value[:, :1], value.shape[1], axis=1) if stacked else value

    params = jax.tree_util.tree_map_with_path(changed, flax.core.unfreeze(variables["params"]))
    variables = flax.core.freeze({**variables, "params": params})
    rules = adafactor.standard_logical_factor_rules()
    optimizer = adafactor.Adafactor(1e-3, logical_factor_rules=rules)
    state = train_state.FlaxOptimTrainState.create(optimizer, variables)
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    checkpoints.Checkpointer(state, partitioner, str(folder / name)).save(state)
    inputs = jnp.pad(target, ((0, 0), (1, 0)))[:, :-1]  # begins with the pad token
    logits = model.apply({"params": params}, source, inputs, target, enable_dropout=False)
    np.savez(folder / f"{name}.npz", source=source, target=target, logits=logits)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write(folder, "plain", plain)
        write(folder, "scan", scanned)
        for path in folder.glob("*/*/state.*"):
            shutil.rmtree(path)
        with zipfile.ZipFile(FILE, "w", zipfile.ZIP_DEFLATED) as out:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    out.write(path, path.relative_to(folder).as_posix())


if __name__ == "__main__":
    main()
