"""The description of a run on other machines: one TOML file, for all that can start it."""

import dataclasses
import pathlib
import re
import shlex
import tomllib
from typing import Any

from t5sft import errors, verbs

# What a t5sft that was stopped before its last step ends with in our scripts (EX_TEMPFAIL).
STOPPED = 75
FINAL = (1, 2, 3, 4, 5, 6, 7, 9)  # exit codes that another try does not mend


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuVm:
    """A slice of TPU VMs, asked for as a queued resource.

    Args:
      accelerator_type, runtime_version: as `gcloud compute tpus` names them.
      slices: how many; joined over the network.
      spot: cheaper, and may be taken away at any time.
      bucket: mounted at ~/bucket on all workers (gcsfuse).
    """

    project: str
    zone: str
    accelerator_type: str
    runtime_version: str
    slices: int = 1
    spot: bool = False
    bucket: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gke:
    """A JobSet on Google Kubernetes Engine.

    Args:
      image: has t5sft and jax[tpu] or jax[cuda12] installed.
      accelerator, topology: of a TPU node pool, as tpu-v5-lite-podslice and 4x4; of GPUs: as
        nvidia-h100-80gb, without topology.
      nodes: of each slice; of TPUs they follow from the topology.
      chips_per_node: 4, or all of a smaller slice; 8 GPUs.
      bucket: mounted at /bucket (Cloud Storage FUSE); claim: a volume claim, mounted at /shared.
      secret: whose keys become environment variables.
      queue: of Kueue.
    """

    image: str
    accelerator: str
    topology: str = ""
    nodes: int = 0
    chips_per_node: int = 0
    slices: int = 1
    spot: bool = False
    service_account: str = ""
    bucket: str = ""
    claim: str = ""
    secret: str = ""
    queue: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm:
    """A batch job of GPU nodes, one process each.

    Args:
      time: limit, as Slurm writes it; before, the run saves and goes to the queue again.
      activate: line that makes t5sft available on a node, as "source ~/venv/bin/activate".
    """

    nodes: int
    gpus_per_node: int
    time: str
    partition: str = ""
    account: str = ""
    cpus_per_task: int = 16
    activate: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What is run where.

    Args:
      name: of the job.
      command: what follows `t5sft`.
      requirement: what pip installs on TPU VMs, as "t5sft[tpu]" or the path of a wheel.
      environment: variables; secrets do not belong here.
      save_seconds: longest time that a checkpoint takes.
      restarts: after failures; being preempted does not count.
    """

    name: str
    command: tuple[str, ...]
    target: TpuVm | Gke | Slurm
    requirement: str = "t5sft[tpu]"
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    save_seconds: int = 120
    restarts: int = 10

    @property
    def grace_seconds(self) -> int:
        """From the notice to the end: the step in progress, the save, and some air."""
        return self.save_seconds + 60

    def line(self) -> str:
        """Returns the command, quoted for a shell."""
        return shlex.join(("t5sft", *self.command, "--json"))


TARGETS: dict[str, Any] = {"tpu_vm": TpuVm, "gke": Gke, "slurm": Slurm}


def read(path: str) -> Description:
    """Reads a description.

    Raises:
      ConfigError: names the key and what is wrong with it.
    """
    try:
        table = tomllib.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise errors.ConfigError(f"no file {path}; description; name another") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path} is no TOML ({error}); description; mend it") from None
    targets = [name for name in TARGETS if name in table]
    if len(targets) != 1:
        raise errors.ConfigError(
            f"{path} has {len(targets)} targets; description; give one of the tables "
            + ", ".join(f"[{name}]" for name in TARGETS)
        )
    target = _fill(TARGETS[targets[0]], table.pop(targets[0]), path, f"[{targets[0]}] ")
    found = _fill(Description, {**table, "target": target}, path, "")
    _check(found, path)
    return found


def _fill(kind: Any, table: Any, path: str, where: str) -> Any:
    """Makes a dataclass of a table; names what is missing, unknown or of another type."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(table, dict):
        raise errors.ConfigError(f"{where.strip()} is no table; {path}; write it as [tpu_vm]")
    unknown = [name for name in table if name not in fields]
    if unknown:
        hint = errors.suggest(unknown[0], fields)
        raise errors.ConfigError(f"unknown key {where}{unknown[0]}{hint}; {path}; correct it")
    lacking = [n for n, f in fields.items() if n not in table and _is_required(f)]
    if lacking:
        raise errors.ConfigError(f"{where}{lacking[0]} is missing; {path}; add it")
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in table.items()}
    for name, value in values.items():
        wanted = fields[name].type
        if wanted in (str, int, bool) and type(value) is not wanted:
            kinds = {str: "a text", int: "a number", bool: "true or false"}
            raise errors.ConfigError(f"{where}{name} is {value!r}; {path}; give {kinds[wanted]}")
    return kind(**values)


def _is_required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|(^|_)KEY($|_)", re.IGNORECASE)
_LOOKS_SECRET = re.compile(r"^(hf_|ghp_|gho_|sk-|AKIA|ya29\.)|-----BEGIN ")


def _check(found: Description, path: str) -> None:
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", found.name):
        raise errors.ConfigError(
            f"name is {found.name!r}; {path}; use at most 40 of a-z, 0-9 and -, a letter first"
        )
    if not found.command or found.command[0] not in verbs.MANY:
        many = ", ".join(verbs.MANY)
        raise errors.ConfigError(
            f"command begins with no verb of {many}; {path}; give what follows t5sft"
        )
    if not all(isinstance(word, str) for word in found.command):
        raise errors.ConfigError(f"command holds other than texts; {path}; quote its words")
    for name, value in found.environment.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or not isinstance(value, str):
            raise errors.ConfigError(
                f"environment.{name}; {path}; give a text to a variable's name"
            )
        if _SECRET.search(name) or _LOOKS_SECRET.search(value):
            raise errors.ConfigError(
                f"environment.{name} looks like a secret; {path}; keep it out of this file: in a "
                "Secret of Kubernetes (gke.secret), or in a file on the machine"
            )
    numbers = [(n, v) for n, v in vars(found.target).items() if type(v) is int]
    low = [n for n, v in numbers if v < (0 if n in ("nodes", "chips_per_node") else 1)]
    if low or found.save_seconds < 1 or found.restarts < 0:
        raise errors.ConfigError(
            f"{low[0] if low else 'save_seconds or restarts'} is too small; {path}; give 1 or more"
        )
