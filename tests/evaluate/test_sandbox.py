"""Programs of a model reach nothing, last no longer than allowed, and cannot pass by an early end.

Skipped where the kernel grants no name spaces: there `check` itself refuses to run anything.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from t5sft import errors
from t5sft.evaluate import sandbox


def held():
    try:
        sandbox.check()
    except errors.SandboxError:
        return False
    return True


needs_sandbox = pytest.mark.skipif(not held(), reason="this machine has no user name spaces")
LEAKS = sandbox.canaries(pathlib.Path("/nowhere"))


@needs_sandbox
@pytest.mark.parametrize(
    "program, outcome",
    {
        "x = sorted([2, 1]); assert x == [1, 2]": "passed",
        "import math, re, json, typing, hashlib, random, datetime": "passed",
        "open('/tmp/x', 'w').write('1'); assert open('/tmp/x').read() == '1'": "passed",
        "assert 1 == 2": "failed",
        "import os; os._exit(0)": "failed",
        "import sys; sys.exit(0)": "failed",
        "raise SystemExit": "failed",
        "def f(:": "failed",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "failed",
        "x = bytearray(1 << 30)": "failed",
        "open('/tmp/x', 'wb').write(bytes(1 << 22))": "failed",
        "import os; os.execv('/bin/true', ['true'])": "failed",
        "import os\nfor fd in range(3, 64):\n try: os.write(fd, b'done')\n except OSError: pass\n"
        "os._exit(0)": "failed",
    }.items(),
)  # fmt: skip
def test_only_a_program_that_reaches_its_end_passes(program, outcome):
    assert sandbox.run(program).outcome == outcome


@needs_sandbox
@pytest.mark.parametrize("attempt", LEAKS)
def test_nothing_is_reached(attempt, tmp_path):
    """Each canary passes outside of the sandbox or is pointless there; inside it must fail."""
    secret = tmp_path / "secret"
    secret.write_text("canary")
    os.chmod(tmp_path, 0o755)
    assert sandbox.run(sandbox.canaries(secret)[attempt]).outcome == "failed"
    assert secret.read_text() == "canary"


def test_the_canaries_would_tell_a_leak(tmp_path, monkeypatch):
    """Run without a sandbox, those that try something a program may do at home succeed."""
    secret = tmp_path / "secret"
    secret.write_text("canary")
    programs = sandbox.canaries(secret)
    for name in ("read a file outside", "read the users of the machine", "read the environment",
                 "signal other processes", "see other processes"):  # fmt: skip
        exec(programs[name], {})


@needs_sandbox
def test_time_is_bounded_and_nothing_stays_behind():
    limits = sandbox.Limits(wall_seconds=0.5)
    begun = time.monotonic()
    assert sandbox.run("while True: pass", limits).outcome == "timed out"
    assert sandbox.run("import os, time\nos.fork(); time.sleep(60)", limits).outcome == "timed out"
    assert time.monotonic() - begun < 5
    assert sandbox.run("while True: pass", sandbox.Limits(cpu_seconds=1)).outcome == "failed"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@needs_sandbox
def test_a_fork_bomb_is_stopped():
    bomb = "import os\nfor _ in range(50): os.fork()"
    assert sandbox.run(bomb, sandbox.Limits(wall_seconds=3)).outcome == "failed"
    assert sandbox.run("assert True").outcome == "passed"


HARMFUL = {
    "fork bomb": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "time": "while True: pass",
    "sleep": "import time; time.sleep(60)",
    "output": "while True: print('x' * 100_000)",
    "error output": "import sys\nwhile True: sys.stderr.write('x' * 100_000)",
    "files": "for i in range(10**6): open(f'/tmp/{i}', 'wb').write(bytes(1 << 19))",
    "write outside": "open('/usr/x', 'w')",
    "network": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
    "a process that stays": "import os\nif os.fork(): raise SystemExit\nos.setsid()\n"
    "while True: pass",
}


@needs_sandbox
@pytest.mark.parametrize("name", HARMFUL)
def test_harm_is_bounded(name):
    begun = time.monotonic()
    ran = sandbox.run(HARMFUL[name], sandbox.Limits(wall_seconds=0.8, cpu_seconds=1))
    assert ran.outcome in ("failed", "timed out") and len(ran.reason) <= 200
    assert time.monotonic() - begun < 6
    with pytest.raises(ChildProcessError):  # nothing stays behind
        os.waitpid(-1, os.WNOHANG)


AS_NOBODY = """
import json, os, sys
sys.path.insert(0, {folder!r})
from t5sft.evaluate import sandbox
sandbox.check()
limits = sandbox.Limits(wall_seconds=1.5, cpu_seconds=1)
programs = json.loads({programs!r})
print(json.dumps([os.getuid(), sandbox.run("assert True").outcome,
                  [sandbox.run(one, limits).outcome for one in programs]]))
"""


@pytest.mark.slow
@needs_sandbox
@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_it_holds_for_a_user_without_rights_too(tmp_path):
    """Root maps two users and drops to one; others map themselves: another path of the child."""
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        os.chmod(folder, 0o755)
        package = pathlib.Path(folder) / "t5sft"
        (package / "evaluate").mkdir(parents=True)
        source = pathlib.Path(errors.__file__).parent
        for name in ("errors.py", "evaluate/sandbox.py", "evaluate/sandbox_child.py"):
            shutil.copyfile(source / name, package / name)
        programs = [*HARMFUL.values(), *sandbox.canaries(tmp_path / "x").values()]
        script = AS_NOBODY.format(folder=folder, programs=json.dumps(programs))
        for python in (sys.executable, "/usr/bin/python3"):  # a virtual one may lie in /root
            try:
                done = subprocess.run(
                    [python, "-I", "-c", script], cwd="/", capture_output=True, text=True,
                    timeout=120, **nobody,
                )  # fmt: skip
                break
            except PermissionError:
                continue
        else:
            pytest.skip("no Python that nobody may run")
    assert done.returncode == 0, done.stderr
    user, harmless, outcomes = json.loads(done.stdout)
    assert (user, harmless) == (65534, "passed")
    assert "passed" not in outcomes and len(outcomes) == len(programs)


def test_without_a_sandbox_nothing_runs(monkeypatch):
    ran = []

    def broken(program, limits=None):
        ran.append(program)
        return sandbox.Ran("failed", "unshare: Operation not permitted")

    monkeypatch.setattr(sandbox, "_run", broken)
    sandbox.check.cache_clear()
    with pytest.raises(errors.SandboxError, match="unshare: Operation not permitted") as raised:
        sandbox.run("open('/tmp/evil', 'w')")
    assert raised.value.exit_code == 9
    assert "evil" not in "".join(ran)
    sandbox.check.cache_clear()


def test_a_leak_stops_everything(monkeypatch):
    monkeypatch.setattr(sandbox, "_run", lambda program, limits=None: sandbox.Ran("passed"))
    sandbox.check.cache_clear()
    with pytest.raises(errors.SandboxError, match="could read a file outside"):
        sandbox.run("pass")
    sandbox.check.cache_clear()
