"""A sandbox for programs that a model wrote: a process without network, files, or time to waste.

Chen et al. 2021 (arXiv:2107.03374), section 2.3, name the danger. Each program runs in a process of
its own, see `sandbox_child`: new user, mount, network, process, IPC and host name spaces; a root in
memory that holds nothing but Python's own files, read-only; no capability; limits of memory, CPU
time, processes, file size and open files; an empty environment; a wall-clock limit. All processes
of a program die with it. It has passed if it gave back a token drawn for it, never by exit code: a
program that ends the process early has failed. (One written against this very file could find the
token and vouch for itself, but still do nothing else.)

Where the kernel does not grant all of this, nothing runs: SandboxError, exit code 9.
"""

import dataclasses
import functools
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import tempfile
from typing import Literal, NamedTuple

from t5sft import errors

_CHILD = pathlib.Path(__file__).with_name("sandbox_child.py")
_MAX_OUTPUT = 1 << 16  # bytes kept of what a program printed


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 29
    file_bytes: int = 1 << 20
    processes: int = 4


class Ran(NamedTuple):
    """What became of a program."""

    outcome: Literal["passed", "failed", "timed out"]
    reason: str = ""  # of a failure: the last line it printed


def run(program: str, limits: Limits = Limits()) -> Ran:  # noqa: B008 (frozen)
    """Runs a Python program; it passes if it reaches its end.

    Raises:
      SandboxError: this machine cannot give the sandbox.
    """
    check()
    return _run(program, limits)


@functools.cache
def check() -> None:
    """Finds out, once, whether the sandbox holds here: canaries must fail inside of it.

    Raises:
      SandboxError: it cannot be made, or something inside could reach out.
    """
    if not sys.platform.startswith("linux"):
        raise _refused(f"{sys.platform} has no namespaces of Linux")
    with tempfile.TemporaryDirectory() as folder:
        outside = pathlib.Path(folder) / "secret"
        outside.write_text("canary")
        works = _run("assert sum(range(5)) == 10")
        if works.outcome != "passed":
            raise _refused(f"a harmless program did not run ({works.reason})")
        for name, program in canaries(outside).items():
            if _run(program).outcome == "passed":
                raise _refused(f"a program inside could {name}")
        if outside.read_text() != "canary":
            raise _refused("a program inside changed a file outside")


def canaries(outside: pathlib.Path) -> dict[str, str]:
    """Returns programs that pass only if the sandbox leaks, by what they try.

    Args:
      outside: a file with the text "canary".
    """
    return {
        "read a file outside": f"assert open({str(outside)!r}).read() == 'canary'",
        "write a file outside": f"open({str(outside)!r}, 'a').write('x')",
        "read the users of the machine": "open('/etc/passwd')",
        "write to its own root": "open('/usr/x', 'w')",
        "see other processes": "open('/proc/1/status')",
        "signal other processes": f"import os; os.kill({os.getpid()}, 0)",
        "reach a network": "import socket\n"
        "try: socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except ConnectionRefusedError: pass",
        "find a network device": "import socket\n"
        "assert [name for _, name in socket.if_nameindex() if name != 'lo']",
        "read the environment": "import os; assert set(os.environ) - {'LC_CTYPE'}",
        "become root": "import os; os.setuid(0)",
        "mount": "import ctypes\n"
        "assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, b'') == 0",
    }


def _run(program: str, limits: Limits = Limits()) -> Ran:  # noqa: B008 (frozen)
    token = secrets.token_hex(16)
    settings = [str(getattr(limits, field.name)) for field in dataclasses.fields(limits)[1:]]
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as verdict:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CHILD), str(verdict.fileno()), *settings],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=subprocess.STDOUT,
            pass_fds=(verdict.fileno(),),
            env={},
            start_new_session=True,
            cwd="/",
        )
        given = f"{token}\n".encode() + program.encode("utf-8", "replace")
        try:
            process.communicate(given, timeout=limits.wall_seconds)
        except subprocess.TimeoutExpired:
            return Ran("timed out", f"longer than {limits.wall_seconds} s")
        finally:
            _kill(process)
        verdict.seek(0)
        if verdict.read(64) == token.encode():
            return Ran("passed")
        return Ran("failed", _last_line(printed) or f"exit code {process.returncode}")


def _last_line(printed) -> str:
    printed.seek(0)
    lines = printed.read(_MAX_OUTPUT).decode("utf-8", "replace").rstrip().split("\n")
    return lines[-1][:200]


def _kill(process: subprocess.Popen) -> None:
    """Kills all of it: with the first process of its name space every other dies."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _refused(reason: str) -> errors.SandboxError:
    return errors.SandboxError(
        f"no sandbox for programs of a model: {reason}; this machine; run it where user name "
        "spaces are allowed (a virtual machine, or a container that may create them)"
    )
