"""One of several processes that score and answer together; writes what it found.

evaluate_by_two.py PORT PROCESSES INDEX DEVICES OUTPUT
"""

import json
import pathlib
import sys

import jax

port, processes, index, devices, output = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_default_matmul_precision", "highest")
if int(processes) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes=int(processes), process_id=int(index)
    )

from oracles import tiny  # noqa: E402

from t5sft.data import records, templates, vocab  # noqa: E402
from t5sft.evaluate import answering, results  # noqa: E402
from t5sft.parallel import mesh as mesh_lib  # noqa: E402
from t5sft.train import start  # noqa: E402

known = vocab.load("bytes")
model = tiny.DECODER.__class__(**{**vars(tiny.DECODER), "vocab_size": known.size + 4})
mesh = mesh_lib.resolve(mesh_lib.MeshSpec(data=2, fsdp=2))
ready = answering.Ready(model, None, known, templates.get("lines"), batch_size=4, mesh=mesh)
like = start.like(model, mesh, ready.rules)
params = jax.tree.map(
    lambda host, leaf: jax.make_array_from_callback(host.shape, leaf.sharding, lambda i: host[i]),
    tiny.hot(model),
    like,
)
ready = ready._replace(params=params)
messages = [
    (records.Message("user", f"say {i}" * (i + 1)), records.Message("assistant", "yes" * i + "."))
    for i in range(6)
]
rows = [answering.continuation(ready, records.Record(one)) for one in messages]
scores = answering.log_likelihoods(ready, rows)
prompts = [answering.prompt(ready, one[:1]) for one in messages]
replies = answering.reply(ready, prompts, answering.Decoding(max_new_tokens=6))
line = {"scores": scores, "replies": [one.tokens for one in replies]}
pathlib.Path(f"{output}.{index}").write_text(json.dumps(line))
about = {"metrics": {"score": sum(scores)}, "standard_errors": {}, "about": {}}
one = results.record(suite="s", task="t", task_sha256="", split=None, step=1, n=len(rows), **about)
results.write(output + ".run", [one])
