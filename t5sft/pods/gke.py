"""A JobSet manifest for Google Kubernetes Engine.

Facts: JobSet v1alpha2 (github.com/kubernetes-sigs/jobset, api/jobset/v1alpha2/jobset_types.go),
kubernetes.io/docs/concepts/workloads/controllers/job (podFailurePolicy), and
docs.cloud.google.com/kubernetes-engine/docs/how-to/tpus, read in November 2026. GKE gives the pods
of a TPU slice TPU_WORKER_ID, TPU_WORKER_HOSTNAMES and, of several slices, MEGASCALE_*.
"""

import math
from typing import Any

import yaml

from t5sft import errors
from t5sft.pods import description, shell

_PORT = 8476
_INDEX = "metadata.annotations['jobset.sigs.k8s.io/job-index']"


def render(found: description.Description) -> str:
    """Returns the manifest: a Job a slice, all of them started again together."""
    target = found.target
    assert isinstance(target, description.Gke)
    nodes, chips = _nodes(target)
    job = {
        "parallelism": nodes,
        "completions": nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # a pod alone cannot be started again: all others wait for it
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": _codes(description.STOPPED)},
                {"action": "FailJob", "onExitCodes": _codes(*description.FINAL)},
                {"action": "FailJob", "onPodConditions": [_condition("DisruptionTarget")]},
            ]
        },
        "template": _pod(found, target, nodes, chips),
    }
    metadata: dict[str, Any] = {"name": found.name}
    if target.topology:  # a slice is a node pool: one Job each
        key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
        metadata["annotations"] = {key: "cloud.google.com/gke-nodepool"}
    if target.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": target.queue}
    manifest = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": found.restarts, "rules": _rules()},
            "replicatedJobs": [
                {"name": "slice", "replicas": target.slices, "template": {"spec": job}}
            ],
        },
    }
    head = "# Made by: t5sft pod. Start it: kubectl apply -f FILE; try it: --dry-run=server\n"
    return head + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes scripts line by line, and the same list twice."""

    def ignore_aliases(self, _) -> bool:
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)


def _nodes(target: description.Gke) -> tuple[int, int]:
    """Returns nodes of a slice and chips of a node."""
    if not target.topology:
        return target.nodes or 1, target.chips_per_node or 8
    sides = target.topology.split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        raise errors.ConfigError(
            f"topology is {target.topology!r}; [gke]; write chips along each axis, as 4x4 or 2x2x4"
        )
    total = math.prod(map(int, sides))
    chips = target.chips_per_node or min(total, 4)
    if total % chips or (target.nodes and target.nodes != total // chips):
        raise errors.ConfigError(
            f"a slice of {total} chips is not {target.nodes or 'a number of'} nodes of {chips}; "
            "[gke]; correct topology, nodes or chips_per_node"
        )
    return total // chips, chips


def _codes(*codes: int) -> dict:
    return {"containerName": "t5sft", "operator": "In", "values": list(codes)}


def _condition(kind: str) -> dict:
    return {"type": kind, "status": "True"}


def _rules() -> list[dict]:
    """Returns what follows when a Job fails; the first that fits counts.

    Without a rule JobSet starts all again, and counts it: lost hosts (exit code 8).
    """
    reason = {"onJobFailureReasons": ["PodFailurePolicy"]}
    codes = "|".join(map(str, description.FINAL))
    again = "RestartJobSetAndIgnoreMaxRestarts"
    return [
        {
            "name": "mistake",
            "action": "FailJobSet",
            **reason,
            "onJobFailureMessagePatterns": [f".*exit code ({codes}) .*"],
        },
        {"name": "preempted", "action": again, **reason},
    ]


def _pod(found: description.Description, target: description.Gke, nodes: int, chips: int) -> dict:
    resource = "google.com/tpu" if target.topology else "nvidia.com/gpu"
    environment = [{"name": k, "value": v} for k, v in sorted(found.environment.items())]
    if not target.topology:
        environment += _places(found.name, target.slices, nodes)
    script = f'{shell.run(found, "/tmp/result.json")}\nexit "$code"\n'
    container: dict[str, Any] = {
        "name": "t5sft",
        "image": target.image,
        "command": ["bash", "-c", script],
        "env": environment,
        "resources": {"limits": {resource: chips}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if target.secret:
        container["envFrom"] = [{"secretRef": {"name": target.secret}}]
    volumes: list[dict] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    for name, where, volume in (
        ("bucket", "/bucket", _bucket(target.bucket)),
        ("shared", "/shared", {"persistentVolumeClaim": {"claimName": target.claim}}),
    ):
        if getattr(target, {"bucket": "bucket", "shared": "claim"}[name]):
            container["volumeMounts"].append({"name": name, "mountPath": where})
            volumes.append({"name": name, **volume})
    kind = "tpu-accelerator" if target.topology else "accelerator"
    selector = {f"cloud.google.com/gke-{kind}": target.accelerator}
    if target.topology:
        selector["cloud.google.com/gke-tpu-topology"] = target.topology
    if target.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    spec = {
        "restartPolicy": "Never",
        # SIGTERM comes first; then there is this long to finish the step and save.
        "terminationGracePeriodSeconds": found.grace_seconds,
        "nodeSelector": selector,
        "containers": [container],
        "volumes": volumes,
    }
    if target.service_account:
        spec["serviceAccountName"] = target.service_account
    annotations = {"gke-gcsfuse/volumes": "true"} if target.bucket else {}
    return (
        {"metadata": {"annotations": annotations}, "spec": spec} if annotations else {"spec": spec}
    )


def _bucket(bucket: str) -> dict:
    attributes = {"bucketName": bucket, "mountOptions": "implicit-dirs"}
    return {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}


def _places(name: str, jobs: int, nodes: int) -> list[dict]:
    """Returns what tells a GPU pod its place; Kubernetes adds JOB_COMPLETION_INDEX."""
    first = f"{name}-slice-0-0.{name}:{_PORT}"
    values = {"JAX_COORDINATOR_ADDRESS": first, "JAX_NUM_PROCESSES": jobs * nodes, "NUM_JOBS": jobs}
    return [
        *({"name": key, "value": str(value)} for key, value in values.items()),
        {"name": "JOB_INDEX", "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}},
    ]
