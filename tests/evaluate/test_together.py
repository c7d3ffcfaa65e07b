"""Evaluation across processes, and beside a training that writes checkpoints."""

import json
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from train import many

from t5sft.evaluate import results

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = pathlib.Path(__file__).with_name("evaluate_by_two.py")


def environment():
    import os

    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TF_CPP_MIN_LOG_LEVEL": "3"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_together(processes, devices, output):
    port = str(free_port())
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, port, str(processes), str(i), str(devices), str(output)],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for i in range(processes)
    ]  # fmt: skip
    said = [one.communicate(timeout=240)[0] for one in running]
    for one, text in zip(running, said, strict=True):
        assert one.returncode == 0, text.decode()[-2000:]
    return [json.loads(pathlib.Path(f"{output}.{i}").read_text()) for i in range(processes)]


@pytest.mark.slow
def test_figures_do_not_depend_on_the_number_of_hosts(tmp_path):
    (alone,) = run_together(1, 4, tmp_path / "one")
    both = run_together(2, 2, tmp_path / "two")
    for one in both:
        np.testing.assert_allclose(one["scores"], alone["scores"], rtol=1e-5)
        assert one["replies"] == alone["replies"]
    assert len(results.read(f"{tmp_path / 'two'}.run")) == 1  # written by the first process alone


CODING = """
import json, sys, types
import jax
port, index, output = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(index))
from t5sft.evaluate import answering, at_model, coding, sandbox
ran = []
def run(program):
    ran.append(program)
    return sandbox.Ran("passed") if "return 1" in program else sandbox.Ran("failed", "\u00e4")
sandbox.check, sandbox.run = lambda: None, run
answering.prompt = lambda ready, messages: messages
answering.reply = lambda ready, prompts, how: [
    answering.Reply([], f"    return {i % 2}", True) for i in range(len(prompts))
]
options = at_model.Options(
    questions=f"{output}.jsonl", allow_code_execution=True, samples=2, temperature=0.5
)
measure = coding.prepare("humaneval", None, options)
scores = measure.run(None).scores
with open(f"{output}.{index}", "w") as file:
    json.dump({"scores": scores, "ran": len(ran)}, file)
"""


@pytest.mark.slow
def test_programs_are_run_by_one_process_and_all_know_the_verdicts(tmp_path):
    """Each process ran every program of HumanEval: with 32 hosts, 32 times."""
    rows = [
        {"task_id": f"T/{i}", "prompt": f"def f{i}():\n", "entry_point": f"f{i}", "test": "pass"}
        for i in range(3)
    ]
    (tmp_path / "out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    port = str(free_port())
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CODING, port, str(i), str(tmp_path / "out")],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]  # fmt: skip
    said = [one.communicate(timeout=240)[0].decode()[-2000:] for one in running]
    assert [one.returncode for one in running] == [0, 0], said
    first, second = (json.loads((tmp_path / f"out.{i}").read_text()) for i in range(2))
    assert (first["ran"], second["ran"]) == (6, 0)
    assert first["scores"] == second["scores"]
    assert first["scores"][0] == {"pass@1": 0.5}
    assert first["scores"][2][0]["reasons"] == ["\u00e4", ""]


def start_generating(folder, output, processes):
    """The verb, on 4 devices in so many processes; prompts of 3 to 60 characters."""
    rows = [{"prompt": "Say Rosa. " * (1 + i * 7 % 6) + str(i), "id": i} for i in range(24)]
    inputs = folder / "in.jsonl"
    inputs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    port, started = many.free_port(), []
    for i in range(processes):
        place = ["--coordinator", f"127.0.0.1:{port}", "--num_processes", str(processes)]
        started.append(
            subprocess.Popen(
                [
                    *[sys.executable, "-m", "t5sft", "generate", "--inputs", str(inputs)],
                    *["--model_dir", str(ROOT / "tasks/village/base_decoder")],
                    *["--output", str(output), "--batch_size", "4", "--max_new_tokens", "24"],
                    *["--temperature", "1", "--top_p", "0.9", "--seed", "5"],
                    *(place + ["--process_id", str(i)] if processes > 1 else []),
                ],
                env=many.environment(folder, 4 // processes), cwd=folder, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    return started


def ended(started):
    """What each told, all having ended well."""
    told = [one.communicate(timeout=240) for one in started]
    for one, (_, said) in zip(started, told, strict=True):
        assert one.returncode == 0, said[-3000:]
    return told


@pytest.mark.slow
def test_two_processes_answer_as_one_and_go_on_after_a_kill(tmp_path):
    """More prompts than rows: finished ones make room, on both hosts for the same ones."""
    ended(start_generating(tmp_path, tmp_path / "one.jsonl", 1))
    want = (tmp_path / "one.jsonl").read_text()
    rows = [json.loads(line) for line in want.splitlines()]
    assert [row["index"] for row in rows] == list(range(24))
    assert len({len(row["response"]) for row in rows}) > 5
    output = tmp_path / "two.jsonl"
    killed = start_generating(tmp_path, output, 2)
    while not output.exists() or len(output.read_text().splitlines()) < 3:
        assert killed[0].poll() is None, killed[0].communicate()
        time.sleep(0.02)
    for one in killed:
        one.kill()
        one.communicate()
    num_kept = len(output.read_text().splitlines())
    assert num_kept < 24
    (_, said), (second, _) = ended(start_generating(tmp_path, output, 2))
    assert "of 24 were answered already" in said and "{" not in second
    assert output.read_text() == want


@pytest.mark.slow
def test_checkpoints_are_evaluated_while_training_writes_them(tmp_path):
    """The watch starts beside the training, sees every step once and ends with the last."""
    gin = tmp_path / "run.gin"
    gin.write_text(
        "include 'gin/models/tiny_t5.gin'\ninclude 'gin/optim/adafactor.gin'\n"
        "include 'gin/runs/sft.gin'\nTASK = 'toy'\nTASK_MODULES = ('toy_task',)\n"
        "VOCABULARY = 'bytes'\nTEMPLATE = 'plain'\nSTEPS = 6\nBATCH_SIZE = 8\n"
        "LEARNING_RATE = 0.01\nWARMUP_STEPS = 1\nMAX_NEW_TOKENS = 8\nSAVE_EVERY = 2\n"
        "ENCODER_LENGTH = 32\nDECODER_LENGTH = 16\nEVAL_EVERY = 100\n"
    )
    run = tmp_path / "run"
    common = [sys.executable, "-m", "t5sft"]
    flags = ["--gin_file", str(gin), "--gin_import", "toy_task", "--model_dir", str(run)]
    env = {**environment(), "T5SFT_CACHE": str(tmp_path / "cache")}
    watching = subprocess.Popen(
        [*common, "evaluate", *flags, "--watch", "--wait_seconds", "200", "--num_examples", "3"],
        env=env, cwd=ROOT, stderr=subprocess.PIPE,
    )  # fmt: skip
    subprocess.run([*common, "train", *flags], env=env, cwd=ROOT, check=True, timeout=280)
    _, said = watching.communicate(timeout=280)
    assert watching.returncode == 0, said.decode()[-2000:]
    lines = results.read(run)
    steps = [one["step"] for one in lines if one["task"] == "toy_copy"]
    assert steps == sorted(set(steps)) and steps[-1] == 6
    removed = said.decode().count("was removed before")
    assert len(steps) + removed <= 3
    for one in lines:
        assert one["n"] == 3 and one["metrics"].keys() == {"exact_match"}
        assert one["vocabulary_sha256"] and one["template_sha256"] and one["versions"]["seqio"]
