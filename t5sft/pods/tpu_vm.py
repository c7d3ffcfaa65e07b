"""A script that runs t5sft on all workers of TPU VM slices, and again when they were preempted.

Facts: docs.cloud.google.com/tpu/docs/queued-resources and .../preemptible, read in November 2026:
states of a queued resource (ACCEPTED, PROVISIONING, ACTIVE, SUSPENDING, SUSPENDED, FAILED), and
that a preempted one is deleted and asked for again.
"""

import re
import shlex

from t5sft.pods import description, shell

_SCRIPT = """\
#!/bin/bash
# Made by: t5sft pod. Usage: FILE [all|create|setup|run|stop|delete]; DRY_RUN=1 only prints.
# all: asks for the slice, installs, runs; again from the last checkpoint when it was preempted.
set -euo pipefail
name=@name@
at=(--project=@project@ --zone=@zone@)
nodes=(@names@)

say() { printf '%s %s\\n' "$(date +%T)" "$*" >&2; }

do_it() {
  if [[ -n "${DRY_RUN:-}" ]]; then
    printf '+'; printf ' %q' "$@"; printf '\\n'
  else
    "$@"
  fi
}

state() {
  gcloud compute tpus queued-resources describe "$name" "${at[@]}" \\
    --format='value(state.state)' 2> /dev/null || echo ABSENT
}

on_all() { # on all workers of all slices, side by side; the first error counts
  local node pids=() code=0
  for node in "${nodes[@]}"; do
    do_it gcloud compute tpus tpu-vm ssh "$node" "${at[@]}" --worker=all --command="$1" &
    pids+=("$!")
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  return "$code"
}

create() {
  do_it gcloud compute tpus queued-resources create "$name" "${at[@]}" @nodes@ \\
    --accelerator-type=@accelerator_type@ \\
    --runtime-version=@runtime_version@@spot@
  [[ -n "${DRY_RUN:-}" ]] && return
  while true; do
    case "$(state)" in
      ACTIVE) return ;;
      FAILED | SUSPENDED | ABSENT) say "no slice was given"; return 1 ;;
      *) sleep 30 ;;
    esac
  done
}

delete() {
  do_it gcloud compute tpus queued-resources delete "$name" "${at[@]}" --force --quiet
}

setup() { on_all @setup@; }

run() { # t5sft's exit code, of worker 0; 8 where no worker told one
  on_all @work@ || true
  [[ -n "${DRY_RUN:-}" ]] && return
  local code
  code=$(gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${at[@]}" --worker=0 \\
    --command='cat t5sft.code' 2> /dev/null | tail -n 1) || true
  [[ "$code" =~ ^[0-9]+$ ]] || code=8
  return "$code"
}

stop() { on_all 'pkill -TERM -o -f "bin/t5sft "'; } # finishes the step and saves

all() {
  local failures=0 code
  if [[ -n "${DRY_RUN:-}" ]]; then create; setup; run; return; fi
  while true; do
    if [[ "$(state)" != ACTIVE ]]; then
      [[ "$(state)" == ABSENT ]] || delete
      create || { sleep 60; continue; }
      setup || { say "setup failed"; sleep 60; }
    fi
    code=0
    run || code=$?
    say "t5sft ended with $code"
    case "$code" in
      0) return 0 ;;
      @final@) return "$code" ;;
    esac
    if [[ "$(state)" == ACTIVE && "$code" -ne @stopped@ ]]; then
      failures=$((failures + 1))
      [[ "$failures" -le @restarts@ ]] || return "$code"
    fi
    sleep 20
  done
}

"${1:-all}"
"""


def render(found: description.Description) -> str:
    """Returns the script; it runs on the user's machine."""
    target = found.target
    assert isinstance(target, description.TpuVm)
    final = " | ".join(map(str, description.FINAL))
    nodes = '--node-id="$name"'
    names = '"$name"'
    if target.slices > 1:
        nodes = f'--node-count={target.slices} --node-prefix="$name"'
        names = " ".join(f'"$name-{i}"' for i in range(target.slices))
    spot = " --spot" if target.spot else ""
    values = {
        "name": shlex.quote(found.name),
        "project": shlex.quote(target.project),
        "zone": shlex.quote(target.zone),
        "names": names,
        "nodes": nodes,
        "accelerator_type": shlex.quote(target.accelerator_type),
        "runtime_version": shlex.quote(target.runtime_version),
        "spot": spot,
        "setup": shlex.quote(_setup(found, target)),
        "work": shlex.quote(_work(found)),
        "final": final,
        "stopped": str(description.STOPPED),
        "restarts": str(found.restarts),
    }
    return re.sub("@([a-z_]+)@", lambda name: values[name[1]], _SCRIPT)


def _setup(found: description.Description, target: description.TpuVm) -> str:
    """Returns what each worker does once."""
    lines = [
        "set -eu",
        "[ -x ~/venv/bin/python ] || python3 -m venv ~/venv",
        f"~/venv/bin/pip install -q {shlex.quote(found.requirement)}",
    ]
    if target.bucket:
        lines += [
            "command -v gcsfuse > /dev/null || sudo apt-get install -y -q gcsfuse",
            "mkdir -p ~/bucket",
            "mountpoint -q ~/bucket || "
            f"gcsfuse --implicit-dirs {shlex.quote(target.bucket)} ~/bucket",
        ]
    return "\n".join(lines)


def _work(found: description.Description) -> str:
    """Returns what each worker does in a run; t5sft finds the others by the metadata server."""
    lines = [
        "rm -f t5sft.code",
        'export PATH="$HOME/venv/bin:$PATH"',
        shell.exports(found),
        shell.run(found, "t5sft.json"),
        'echo "$code" > t5sft.code',
    ]
    return "\n".join(line for line in lines if line)
