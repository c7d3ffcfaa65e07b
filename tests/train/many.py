"""A tiny run on several processes of this machine, through the command line."""

import os
import pathlib
import re
import socket
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent
GIN = """
from __gin__ import dynamic_registration
from t5sft.data import prepare
from t5sft.models import decoder
from t5sft.train import optim
include 'gin/runs/sft.gin'

decoder.Decoder:
  vocab_size = 292
  emb_dim = 16
  mlp_dim = 16
  num_heads = 2
  num_kv_heads = 2
  head_dim = 8
  num_layers = 1
prepare.Data.cache_dir = '{cache}'
optim.schedule:
  peak = 3e-3
  total_steps = 10
  warmup_steps = 2
optim.adamw.learning_rate = @optim.schedule()
MODEL = @decoder.Decoder()
OPTIMIZER = @optim.adamw()
TASK = 'toy'
TASK_MODULES = ('toy_task',)
VOCABULARY = 'bytes'
TEMPLATE = 'plain'
STEPS = 6
BATCH_SIZE = 8
DECODER_LENGTH = 48
ENCODER_LENGTH = 0
LOG_EVERY = 1
EVAL_EVERY = 0
SAVE_EVERY = 0
SEED = 0
"""


def free_port() -> int:
    """A port for jax.distributed whose successor, where the processes meet, is free as well."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def environment(folder: pathlib.Path, devices: int) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM_", "XLA_"))}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "XDG_CACHE_HOME": str(folder / "xdg"),
    }


def start(folder, model_dir, *flags, devices=2, place=(), script=None):
    """One process; `place`: (coordinator port, number of processes, number of this one)."""
    given = []
    if place:
        names = ("--coordinator", "--num_processes", "--process_id")
        values = (f"127.0.0.1:{place[0]}", place[1], place[2])
        given = [str(x) for pair in zip(names, values, strict=True) for x in pair]
    program = ["-m", "t5sft"] if script is None else ["-c", script]
    words = ["train", "--gin_file", str(folder / "run.gin"), "--model_dir", str(model_dir)]
    return subprocess.Popen(
        [sys.executable, *program, *words, *given, *flags],
        env=environment(folder, devices),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for(process, pattern: str) -> str:
    """Reads what a process tells until a line has the pattern; returns all of it."""
    told = ""
    for line in process.stderr:
        told += line
        if re.search(pattern, line):
            return told
    raise AssertionError(f"ended without {pattern!r}: {told}")
