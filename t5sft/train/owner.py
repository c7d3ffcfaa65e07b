"""One owner per model directory: two runs that write to one directory mix their steps silently."""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

import jax

from t5sft import errors

_LOG = logging.getLogger(__name__)
_NAME = "owner.json"


@contextlib.contextmanager
def own(directory) -> Iterator[None]:
    """Holds MODEL_DIR/owner.json while the block runs.

    An owner killed on this host is found by its process id and start time, and replaced. One on
    another host cannot be looked at from here: it counts as alive.

    Args:
      directory: MODEL_DIR; created when missing. In a distributed run the first process takes it
        for all; the others return at once.

    Raises:
      OwnerError: another live run holds it; names its host, process and start.
      StorageError: the directory cannot be written.
    """
    if jax.process_index() != 0:
        yield
        return
    path = pathlib.Path(directory).expanduser() / _NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path.parent):
            _refuse_if_held(path)
            mine = _identity()
            unfinished = path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(mine))
            unfinished.replace(path)
    except OSError as error:
        raise errors.StorageError(
            f"cannot write ({error}); {path.parent}; choose another model_dir or free it"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text()) == mine:
                path.unlink()


def _refuse_if_held(path: pathlib.Path) -> None:
    try:
        owner = json.loads(path.read_text())
        host, pid, ticks = owner["host"], owner["pid"], owner["start_ticks"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        _LOG.warning("%s cannot be read: taking the directory over", path)
        return
    if host == socket.gethostname() and not _is_running(pid, ticks):
        _LOG.warning(
            "taking over %s from process %d, begun %s, which is gone",
            path.parent,
            pid,
            owner["since"],
        )
        return
    raise errors.OwnerError(
        f"another run holds this model directory: host {host}, process {pid}, since "
        f"{owner['since']}; {path.parent}; stop that run, or choose another model_dir (if it is "
        f"gone together with its host, delete {path})"
    )


def _is_running(pid: int, ticks: int | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process, which may have inherited the number
        pass
    # Numbers are used again; number and start time together are not.
    return ticks is None or _start_ticks(pid) in (ticks, None)


def _identity() -> dict:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start_ticks": _start_ticks(os.getpid()),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _start_ticks(pid: int) -> int | None:
    """Start of the process in clock ticks since boot; None where there is no /proc."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the program's name may hold blanks
    return -1 if fields[0] == "Z" else int(fields[19])  # a zombie owns nothing


@contextlib.contextmanager
def _one_at_a_time(directory: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time look and take, so that two cannot both replace a dead owner."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no flock
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
