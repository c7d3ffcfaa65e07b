"""A batch script of Slurm for GPU nodes.

Facts: slurm.schedmd.com/sbatch.html (--signal without B goes to the steps, not to the batch shell;
--requeue, SLURM_RESTART_COUNT) and srun.html (--kill-on-bad-exit), read in November 2026.
"""

import shlex

from t5sft.pods import description, shell


def render(found: description.Description) -> str:
    """Returns the script: one process a node, told before the limit, queued again until done."""
    target = found.target
    assert isinstance(target, description.Slurm)
    options = {
        "job-name": found.name,
        "nodes": target.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": target.gpus_per_node,
        "cpus-per-task": target.cpus_per_task,
        "time": target.time,
        "partition": target.partition,
        "account": target.account,
        "signal": f"TERM@{found.grace_seconds}",
        "output": f"{found.name}-%j.log",
        "open-mode": "append",
    }
    header = "\n".join(f"#SBATCH --{name}={value}" for name, value in options.items() if value)
    final = " | ".join(map(str, description.FINAL))
    work = f"exec {found.line()} > {found.name}-$SLURM_JOB_ID-$SLURM_PROCID.json"
    return f"""\
#!/bin/bash
# Made by: t5sft pod. Start it: sbatch FILE; try it: sbatch --test-only FILE
{header}
#SBATCH --requeue
set -uo pipefail
{shell.exports(found)}
{target.activate}
code=0
# One process a node takes all of its GPUs; t5sft finds the others by Slurm's variables.
srun --kill-on-bad-exit=1 bash -c {shlex.quote(work)} || code=$?
{shell.check(f'"{found.name}-$SLURM_JOB_ID-0.json"')}
echo "t5sft ended with $code, restart ${{SLURM_RESTART_COUNT:-0}}"
case "$code" in
  0) exit 0 ;;
  {final}) exit "$code" ;;
  {description.STOPPED}) scontrol requeue "$SLURM_JOB_ID" ;; # told to stop, and saved
  *) # a host was lost: from the last checkpoint
    [ "${{SLURM_RESTART_COUNT:-0}}" -lt {found.restarts} ] || exit "$code"
    scontrol requeue "$SLURM_JOB_ID"
    ;;
esac
"""
