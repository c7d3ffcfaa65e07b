"""Several processes, one run: where this process stands among them, and JAX told so.

Where the place comes from, the first that fits:
  given     --coordinator, --num_processes, --process_id, or JAX_COORDINATOR_ADDRESS,
            JAX_NUM_PROCESSES, JAX_PROCESS_ID; in a Job or JobSet of Kubernetes the id is
            JOB_INDEX * pods of a job + JOB_COMPLETION_INDEX
  Slurm     srun's variables; process 0 is on the first node
  TPU       of Google Kubernetes Engine: TPU_WORKER_*, MEGASCALE_*; of a TPU VM: its metadata server
Otherwise there is one process, and nothing is done.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, NoReturn

from t5sft import errors
from t5sft.parallel import meeting, metadata, peers

_TPU_PORT = 8482  # of jax.distributed on TPUs; ours is always the next one
_current: peers.Peers | None = None  # one per process, as jax.distributed is


class Place(NamedTuple):
    """Where a process stands.

    Args:
      coordinator: host:port of process 0, where jax.distributed listens; we use the next port.
      source: who says so, for the user.
      local_devices: of a GPU host that several processes share; None: all.
    """

    num_processes: int
    process_id: int
    coordinator: str
    source: str
    local_devices: tuple[int, ...] | None = None


def find(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> Place | None:
    """Returns the place of this process; None where it is alone.

    Raises:
      DistributedError: what is given or found is incomplete or contradicts itself.
    """
    environ = os.environ if environ is None else environ
    given = _given(coordinator, num_processes, process_id, environ)
    if given or num_processes == 1:
        return given
    place = _slurm(environ) or _tpu(environ)
    return place if place and place.num_processes > 1 else None


def _given(coordinator, num_processes, process_id, environ) -> Place | None:
    coordinator = coordinator or environ.get("JAX_COORDINATOR_ADDRESS")
    count = num_processes if num_processes is not None else _number(environ, "JAX_NUM_PROCESSES")
    own = process_id if process_id is not None else _number(environ, "JAX_PROCESS_ID")
    source = "given"
    if own is None and coordinator and count and "JOB_COMPLETION_INDEX" in environ:
        jobs, job = _number(environ, "NUM_JOBS", 1), _number(environ, "JOB_INDEX", 0)
        own = job * (count // jobs) + _number(environ, "JOB_COMPLETION_INDEX")
        source = "Kubernetes"
    if count == 1 or (coordinator, count, own) == (None, None, None):
        return None
    named = {"coordinator": coordinator, "num_processes": count, "process_id": own}
    lacking = [f"--{name}" for name, value in named.items() if value is None]
    if lacking:
        raise errors.DistributedError(
            f"{', '.join(lacking)} not given; several processes; give --coordinator HOST:PORT, "
            "--num_processes and --process_id, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID"
        )
    if not 0 <= own < count:
        raise errors.DistributedError(
            f"process_id is {own}; num_processes {count}; number the processes 0 to {count - 1}"
        )
    _split(coordinator)
    return Place(count, own, coordinator, source)


def _number(environ: Mapping[str, str], name: str, default: int | None = None):
    text = environ.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise errors.DistributedError(f"{name} is {text!r}; environment; set it to a number")
    return int(text)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65535:
        raise errors.DistributedError(
            f"coordinator is {address!r}; several processes; write HOST:PORT of process 0, the "
            "port below 65535"
        )
    return host.strip("[]"), int(port)


def _slurm(environ: Mapping[str, str]) -> Place | None:
    """srun sets these for each task; sbatch and salloc alone do not set the step's."""
    if "SLURM_STEP_NODELIST" not in environ or "SLURM_PROCID" not in environ:
        return None
    count = _number(environ, "SLURM_STEP_NUM_TASKS") or _number(environ, "SLURM_NTASKS", 1)
    job = _number(environ, "SLURM_JOB_ID", 0)
    # Jobs that share a node must not share ports: two of each job's own, below the ephemeral ones.
    port = _number(environ, "JAX_COORDINATOR_PORT") or 20000 + 2 * (job % 5000)
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0].split(",")[0]
    local = None
    # One process for each GPU, all of them visible to it: it takes its own.
    if tasks not in ("", "1") and len(environ.get("CUDA_VISIBLE_DEVICES", "").split(",")) > 1:
        local = (_number(environ, "SLURM_LOCALID", 0),)
    address = f"{first_node(environ['SLURM_STEP_NODELIST'])}:{port}"
    return Place(count, _number(environ, "SLURM_PROCID"), address, f"Slurm job {job}", local)


def first_node(nodes: str) -> str:
    """Returns the first host of a list of Slurm's.

    Example:
      first_node("gpu[007-015,31]-a,login1")   "gpu007-a"
    """
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def _tpu(environ: Mapping[str, str]) -> Place | None:
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if hosts and "TPU_WORKER_ID" in environ:
        values, source = environ, "TPU of Kubernetes"
        workers, worker = [h.strip() for h in hosts.split(",")], _number(environ, "TPU_WORKER_ID")
    elif metadata.has_tpu(environ):
        found = metadata.read(environ)
        values, source = {**found.values, **environ}, "TPU metadata"
        workers, worker = found.workers, found.worker
    else:
        return None
    slices = _number(values, "MEGASCALE_NUM_SLICES", 1)
    of_slice = _number(values, "MEGASCALE_SLICE_ID", 0)
    first = values.get("MEGASCALE_COORDINATOR_ADDRESS") if slices > 1 else None
    port = _number(environ, "JAX_COORDINATOR_PORT", _TPU_PORT)
    address = f"{(first or workers[0]).split(':')[0]}:{port}"
    own = of_slice * len(workers) + worker
    return Place(slices * len(workers), own, address, source)


def current() -> peers.Peers | None:
    """Returns the line to the other processes; None where this one is alone."""
    return _current


@contextlib.contextmanager
def joined(
    place: Place | None,
    *,
    join_seconds: float = 300,
    peer_seconds: float = 60,
    stall_seconds: float = 1800,
    end: Callable[[errors.DistributedError], NoReturn] = peers.end_process,
) -> Iterator[None]:
    """Joins the processes of a run before JAX touches a device, and watches them meanwhile.

    Args:
      join_seconds: how long to wait until all are there; the others: see `peers.Peers`.
      end: tells that a process was lost and ends this one.

    Raises:
      DistributedError: not all came.
    """
    global _current
    if place is None:
        yield
        return
    host, port = _split(place.coordinator)
    who = f"process {place.process_id} of {place.num_processes} ({place.source})"
    print(f"{who}, coordinator {place.coordinator}", file=sys.stderr, flush=True)
    address = (host, port + 1)
    links, names = meeting.meet(address, place.num_processes, place.process_id, join_seconds)
    limits = {"peer_seconds": peer_seconds, "stall_seconds": stall_seconds}
    _current = peers.Peers(place.process_id, links, names, **limits, end=end)
    _end_quietly_on_abort(end, names[0])
    try:
        _initialize(place, join_seconds, peer_seconds)
        yield
        _current.close()
        _shut_down()
    except BaseException as error:
        _explain_loss(_current, error, peer_seconds)
        _current.fail(f"{type(error).__name__}: {error}"[:500])
        raise


def leave(code: int) -> None:
    """Ends this process after an error, if others take part: JAX would wait for them, and abort."""
    if _current is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _initialize(place: Place, join_seconds: float, peer_seconds: float) -> None:
    import jax

    if not os.environ.get("JAX_PLATFORMS") or "cpu" in os.environ["JAX_PLATFORMS"]:
        # The only collectives between processes that JAX has for CPUs; no other device minds.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        place.coordinator,
        place.num_processes,
        place.process_id,
        local_device_ids=list(place.local_devices) if place.local_devices else None,
        cluster_detection_method="deactivate",
        initialization_timeout=round(join_seconds),
        # Ours come first: they know a name.
        heartbeat_timeout_seconds=round(max(100, 3 * peer_seconds)),
    )


def _shut_down() -> None:
    import jax

    jax.distributed.shutdown()
    signal.signal(signal.SIGABRT, signal.SIG_DFL)


def _explain_loss(line: peers.Peers, error: BaseException, seconds: float) -> None:
    """Waits a little where a collective failed: if a peer was lost, that is the reason to tell."""
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):
        line.wait_for_loss(min(seconds, 10))


_handler = None  # must outlive the call: C keeps a pointer to it


def _end_quietly_on_abort(end: Callable[[errors.DistributedError], NoReturn], first: str) -> None:
    """Makes JAX's abort an exit with a reason.

    When process 0 is gone, the coordination client of JAX calls abort() at once (measured: in the
    same millisecond as our own connection closes), and nothing in JAX's interface prevents it.
    Python's own handlers run too late: abort() does not return to the interpreter.
    """
    global _handler
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return

    def aborted(_):
        time.sleep(2)  # our own thread may know the reason, and then ends the process
        message = f"JAX gave this process up: {first} or its network was lost; see above"
        end(errors.DistributedError(message))

    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_handler, ctypes.c_void_p))
