"""Inside the sandbox: closes the door, then runs the program. Run by `sandbox`, never imported.

Four processes: this one, which leaves its name spaces; a helper that stayed outside and names the
users within; the first process of the new process name space, which builds the root; and, without
any power, the one that runs the program. Standard library only.
"""

import ctypes
import os
import resource
import signal
import sys

NEW = {"NS": 0x00020000, "UTS": 0x04000000, "IPC": 0x08000000, "USER": 0x10000000,
       "PID": 0x20000000, "NET": 0x40000000}  # fmt: skip
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH = 2
SET_PDEATHSIG, CAPBSET_DROP, SET_NO_NEW_PRIVS, SET_DUMPABLE = 1, 24, 38, 4
SIZE = "size=16m,mode=755"
libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source, target, kind, flags, options=""):
    words = (source.encode(), target.encode(), kind.encode() if kind else None)
    call("mount", *words, ctypes.c_ulong(flags), options.encode())


def leave():
    """Leaves all name spaces. Inside, the program's user is 1: nobody, or whoever started it."""
    user, group = os.geteuid(), os.getegid()
    is_root = user == 0
    if is_root:
        os.setgroups([])
    left, heard = os.pipe()
    helper = os.fork()
    if helper == 0:  # only a process outside may name two users
        os.close(heard)
        os.read(left, 1)
        process = f"/proc/{os.getppid()}"
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", "0 0 1\n1 65534 1" if is_root else f"1 {user} 1"),
            ("gid_map", "0 0 1\n1 65534 1" if is_root else f"1 {group} 1"),
        ):
            with open(f"{process}/{name}", "w") as file:
                file.write(text)
        os._exit(0)
    call("unshare", sum(NEW.values()))
    os.write(heard, b"x")
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError("users cannot be mapped")
    return is_root


def enclose():
    """Changes to a root in memory with Python's files, read-only, and an empty /tmp."""
    mount("none", "/", None, REC | PRIVATE)
    root = "/tmp"
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, SIZE)
    # Only what an interpreter loads from, and no directory that could hold somebody's data.
    libraries = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
    for folder in (*libraries, os.path.dirname(os.__file__)):
        inside = root + folder
        if not os.path.isdir(folder) or os.path.lexists(inside):
            continue
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if os.path.islink(folder):
            os.symlink(os.readlink(folder), inside)
            continue
        os.mkdir(inside)
        mount(folder, inside, None, BIND)
        mount("none", inside, None, BIND | REMOUNT | RDONLY | NOSUID | NODEV)
    os.mkdir(f"{root}/tmp")
    os.mkdir(f"{root}/old")
    os.chdir(root)
    call("pivot_root", b".", b"old")
    os.chdir("/")
    call("umount2", b"/old", DETACH)
    os.rmdir("/old")
    mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV | NOEXEC, "size=16m,mode=1777")
    mount("none", "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    os.chdir("/tmp")


def drop(is_root):
    """Gives up every capability and, for root, the user: no later exec or set-uid brings one."""
    for capability in range(64):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    if is_root:
        os.setresgid(1, 1, 1)
        os.setresuid(1, 1, 1)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    call("capset", header, (ctypes.c_uint32 * 6)())
    call("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", SET_DUMPABLE, 0, 0, 0, 0)


def limit(cpu, memory, file, processes):
    for name, value in (
        ("CPU", cpu), ("AS", memory), ("FSIZE", file), ("NPROC", processes), ("CORE", 0),
        ("NOFILE", 64),
    ):  # fmt: skip
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def execute(program, vouch):
    """Runs the program; only one that reaches its end comes to `vouch`."""
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
    except BaseException as error:
        print(f"\n{type(error).__name__}: {error}"[:500], flush=True)
        os._exit(1)
    vouch()
    os._exit(0)


def supervise(verdict, limits, is_root):
    """The first process of the name space: when it ends, all others end."""
    call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    token, _, program = sys.stdin.buffer.read().partition(b"\n")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    enclose()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.close(verdict)
        limit(*limits)
        drop(is_root)
        execute(program, lambda: os.write(write, token))
    os.close(write)
    os.waitpid(child, 0)
    os.set_blocking(read, False)
    if os.read(read, 64) == token:
        os.write(verdict, token)
    os._exit(0)


def main():
    verdict, *limits = (int(float(text)) for text in sys.argv[1:])
    is_root = leave()
    child = os.fork()
    if child == 0:
        try:
            supervise(verdict, limits, is_root)
        except BaseException as error:
            print(f"\nsandbox: {error}", flush=True)
        finally:
            os._exit(1)
    os.waitpid(child, 0)


main()
