"""How the processes of a run meet: all others come to process 0, and each hears who is there.

One JSON object a line over TCP. It is done before JAX is asked, because JAX ends a process that
waits in vain in C++, without a name: see `peers`.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from t5sft import errors, paths

PROTOCOL = 1
_LONGEST = 1 << 22  # bytes of a line
_HELLO_SECONDS = 2.0


class Link:
    """One connection: objects out under a lock, objects in within a limit of time."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        with self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> dict | None:
        """Returns the next object, or None at the end. Raises TimeoutError, OSError, ValueError."""
        self._socket.settimeout(seconds)
        line = self._lines.readline(_LONGEST)
        return paths.parse_object(line) if line else None

    def end(self) -> None:
        """Makes `receive` return None on both sides."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def meet(
    address: tuple[str, int], num_processes: int, process_id: int, seconds: float
) -> tuple[dict[int, Link], list[str]]:
    """Waits until all processes have met at `address`, where process 0 listens.

    Args:
      seconds: how long to wait for the others.

    Returns:
      Connections by process: to all others on process 0, to process 0 elsewhere; and what each
      process is called.

    Raises:
      DistributedError: names the processes that did not come, or process 0.
    """
    me: dict[str, Any] = {"protocol": PROTOCOL, "id": process_id, "num": num_processes}
    me |= {"host": socket.gethostname(), "pid": os.getpid()}
    if process_id == 0:
        links, hellos = _gather(address[1], me, seconds)
        tell(links, go=hellos)
    else:
        link, hellos = _join(address, me, seconds)
        links = {0: link}
    return links, [f"process {i} (host {h['host']}, pid {h['pid']})" for i, h in enumerate(hellos)]


def tell(links: Mapping[int, Link], **message: Any) -> None:
    """Sends to all that can be reached."""
    for link in links.values():
        try:
            link.send(**message)
        except OSError:
            continue  # whoever listens to it notices


def _gather(port: int, me: dict, seconds: float) -> tuple[dict[int, Link], list[dict]]:
    """Accepts all other processes; on failure those that came are told, too."""
    deadline = time.monotonic() + seconds
    links: dict[int, Link] = {}
    hellos = {0: me}
    try:
        listener = socket.create_server(("", port), backlog=max(me["num"], 128))
    except OSError as error:
        raise errors.DistributedError(
            f"port {port} cannot be opened ({error}); process 0 on {me['host']}; choose another "
            "coordinator port, or end what uses it"
        ) from error
    with listener:
        while len(hellos) < me["num"]:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                link = Link(listener.accept()[0])
            except OSError:  # none came, or one that went again
                if time.monotonic() > deadline:
                    break
                continue
            hello = _greeting(link)
            if hello is None:
                link.close()
                continue
            if wrong := _reject(hello, me, hellos):
                raise _tell_all([*links.values(), link], wrong)
            links[hello["id"]], hellos[hello["id"]] = link, hello
    missing = [i for i in range(me["num"]) if i not in hellos]
    if missing:
        many = f"processes {_listed(missing)}" if missing[1:] else f"process {missing[0]}"
        raise _tell_all(
            links.values(),
            f"{many} of {me['num']} did not come within {seconds:g} s; process 0 waited on "
            f"{me['host']} port {port}; look at their logs, and start all together",
        )
    return links, [hellos[i] for i in range(me["num"])]


def _greeting(link: Link) -> dict | None:
    """Returns what a process says of itself; None of a port scanner or another stranger."""
    try:
        hello = link.receive(_HELLO_SECONDS) or {}
    except (OSError, ValueError):
        return None
    return hello if isinstance(hello.get("id"), int) else None


def _reject(hello: dict, me: dict, hellos: Mapping[int, dict]) -> str:
    """Returns why this process cannot take part, or ""."""
    who = f"a process on {hello.get('host')} (pid {hello.get('pid')})"
    if (hello.get("protocol"), hello.get("num")) != (me["protocol"], me["num"]):
        return (
            f"{who} counts {hello.get('num')} processes, process 0 counts {me['num']}; joining; "
            "give all the same --num_processes, and the same t5sft"
        )
    if hello["id"] not in range(1, me["num"]) or hello["id"] in hellos:
        other = hellos.get(hello["id"], me)
        return (
            f"{who} says it is process {hello['id']}, as {other['host']} (pid {other['pid']}) "
            f"does; joining; give each its own --process_id below {me['num']}"
        )
    return ""


def _tell_all(links: Iterable[Link], reason: str) -> errors.DistributedError:
    """Tells and leaves all; returns the error."""
    for link in links:
        tell({0: link}, fail=reason)
        link.close()
    return errors.DistributedError(reason)


def _join(address: tuple[str, int], me: dict, seconds: float) -> tuple[Link, list[dict]]:
    """Connects to process 0, however late it starts, and waits until all are there."""
    begun = time.monotonic()
    problem: object = "no answer"
    while True:
        left = seconds - (time.monotonic() - begun)
        if left <= 0:
            raise errors.DistributedError(
                f"process 0 did not answer within {seconds:g} s ({problem}); coordinator "
                f"{address[0]}, port {address[1]}; is it running there, and is the port open?"
            )
        link = None
        try:
            link = Link(socket.create_connection(address, timeout=min(left, 10.0)))
            link.send(**me)
            # Process 0 may have begun to wait just now: its limit ends later than ours.
            answer = link.receive(seconds + 2 * _HELLO_SECONDS)
        except (OSError, ValueError) as error:
            problem, answer = error, None
        if link is not None and answer is not None and "go" in answer:
            return link, answer["go"]
        if link is not None:
            link.close()
        if answer is None:
            time.sleep(0.2)
            continue
        raise errors.DistributedError(str(answer.get("fail", "process 0 is no t5sft")))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:16])) + (" and more" if numbers[16:] else "")
