"""The line between the processes of a run: who is there, do they agree, is everyone alive.

A star of TCP connections to process 0, one JSON object a line. JAX has a key-value store and
heartbeats of its own, but cannot tell a reason. Measured with jax 0.10.2: a process that never
comes, dies or freezes makes `jax.distributed` end the others in C++ (SIGABRT, exit 134), after 15 s
where the limit was 8, without a name. So the processes meet before JAX is asked (`meeting`), and a
loss is told here before JAX's own, longer limit.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from t5sft import errors
from t5sft.parallel import meeting


class Peers:
    """Watches the other processes while a run lasts.

    Process 0 hears everyone and decides; the others hear process 0. Clocks of hosts are never
    compared: each measures what it hears by its own.

    Args:
      links, names: of `meeting.meet`.
      peer_seconds: a process that is not heard of for so long is lost.
      stall_seconds: a process that is so long behind the step of the others is lost, too.
      end: what a loss calls, from another thread than the main one.
    """

    def __init__(
        self,
        process_id: int,
        links: dict[int, meeting.Link],
        names: list[str],
        *,
        peer_seconds: float,
        stall_seconds: float,
        end: Callable[[errors.DistributedError], NoReturn],
    ):
        self.process_id, self.names = process_id, names
        self._links = links
        self._peer_seconds, self._stall_seconds = peer_seconds, stall_seconds
        self._end = end
        self._changed = threading.Condition()
        # process -> (what its last beat said, when its step last changed)
        self._beats: dict[int, tuple[dict, float]] = {process_id: ({}, time.monotonic())}
        self._views: dict[str, dict[int, dict]] = {}  # subject -> what each process has
        self._verdicts: dict[str, str] = {}  # subject -> difference, or ""
        self._left: set[int] = set()
        self._is_ending = threading.Event()  # by an error of its own: what happens then is no loss
        self._is_over = threading.Event()
        self._is_lost = threading.Event()
        for peer in links:
            threading.Thread(target=self._listen, args=(peer,), daemon=True, name="peer").start()
        threading.Thread(target=self._beat, daemon=True, name="beat").start()

    def report(self, **figures: Any) -> None:
        """Sets what the next beats tell process 0: `step`, and figures of this host."""
        with self._changed:
            self._note(self.process_id, figures)

    def figures(self) -> dict[int, dict]:
        """Returns the last figures of all processes; only process 0 knows those of others."""
        with self._changed:
            return {i: beat for i, (beat, _) in sorted(self._beats.items())}

    def agree(self, subject: str, values: Mapping[str, Any]) -> None:
        """Raises DistributedError, on all processes, where one has other values than process 0.

        Args:
          subject: of what, as "configuration"; all processes ask in the same order.
          values: key -> what JSON can hold.
        """
        values = json.loads(json.dumps(values, default=str))
        with self._changed:
            if self.process_id:
                meeting.tell(self._links, agree=subject, values=values)
            else:
                views = self._views.setdefault(subject, {})
                views[0] = values
                if not self._wait(lambda: len(views) == len(self.names)):
                    absent = [i for i in range(len(self.names)) if i not in views]
                    self._verdicts[subject] = f"{self._named(absent)} did not tell its {subject}"
                else:
                    self._verdicts[subject] = self._difference(subject, views)
                meeting.tell(self._links, agreed=subject, difference=self._verdicts[subject])
            if not self._wait(lambda: subject in self._verdicts, more=self._peer_seconds):
                self._verdicts[subject] = f"process 0 compared no {subject}"
        if difference := self._verdicts[subject]:
            self._is_ending.set()  # all processes end with these words: none has lost another
            raise errors.DistributedError(
                f"{difference}; all hosts must run the same; start them with the same command, "
                "files and versions"
            )

    def fail(self, message: str) -> None:
        """Tells the others that this process ends with an error, so that they need not wait."""
        if self._is_ending.is_set():
            return
        self._is_ending.set()
        if self.process_id:
            meeting.tell(self._links, failed=message)
        else:
            meeting.tell(self._links, lost=f"{self.names[0]} ended: {message}")

    def close(self) -> None:
        """Waits until all processes are done."""
        meeting.tell(self._links, bye=True)
        with self._changed:
            self._wait(lambda: self._left >= set(self._links))
        self._is_over.set()
        for link in self._links.values():
            link.end()

    def wait_for_loss(self, seconds: float) -> None:
        """Returns after `seconds`; if a process was lost, this one ends before."""
        if self._is_lost.wait(seconds):
            threading.Event().wait()  # the thread that found it ends the process

    def _wait(self, condition: Callable[[], bool], more: float = 0) -> bool:
        return self._changed.wait_for(condition, timeout=self._stall_seconds + more)

    def _named(self, which: list[int]) -> str:
        return ", ".join(self.names[i] for i in which[:8]) + (" and others" if which[8:] else "")

    def _difference(self, subject: str, views: Mapping[int, dict]) -> str:
        for i in range(1, len(self.names)):
            for key in sorted(views[0].keys() | views[i].keys()):
                mine, other = (view.get(key, "not set") for view in (views[0], views[i]))
                if mine != other:
                    return (
                        f"hosts differ in {subject}: {key} is {_short(mine)} on {self.names[0]}, "
                        f"{_short(other)} on {self.names[i]}"
                    )
        return ""

    def _listen(self, peer: int) -> None:
        link = self._links[peer]
        try:
            while message := link.receive(self._peer_seconds):
                self._handle(peer, message)
            reason = "ended without a word: killed, or its host went away"
        except TimeoutError:
            reason = f"has not been heard of for {self._peer_seconds:g} s: frozen or cut off"
        except (OSError, ValueError) as error:
            reason = f"was lost ({error})"
        if peer not in self._left:
            self._lose(f"{self.names[peer]} {reason}{self._last_step(peer)}")
        link.close()
        with self._changed:
            self._left.add(peer)
            self._changed.notify_all()

    def _handle(self, peer: int, message: dict) -> None:
        with self._changed:
            if "beat" in message:
                self._note(peer, message["beat"])
            elif "agree" in message:
                self._views.setdefault(message["agree"], {})[peer] = message["values"]
            elif "agreed" in message:
                self._verdicts[message["agreed"]] = message["difference"]
            elif "bye" in message:
                self._left.add(peer)
            self._changed.notify_all()
        if "lost" in message:
            self._lose(message["lost"])
        elif "failed" in message:
            self._lose(f"{self.names[peer]} ended: {message['failed']}")

    def _note(self, process: int, figures: dict) -> None:
        before, moved = self._beats.get(process, ({}, 0.0))
        is_same = before.get("step") == figures.get("step")
        self._beats[process] = (figures, moved if is_same else time.monotonic())

    def _last_step(self, peer: int) -> str:
        step = self._beats.get(peer, ({}, 0.0))[0].get("step")
        return "" if step is None else f"; it was at step {step}"

    def _beat(self) -> None:
        interval = min(self._peer_seconds / 4, 5.0)
        while not self._is_over.wait(interval):
            meeting.tell(self._links, beat=self.figures()[self.process_id])
            if self.process_id == 0 and (reason := self._stalled()):
                self._lose(reason)

    def _stalled(self) -> str:
        """Returns who is behind the others for too long, or ""."""
        with self._changed:
            steps = {i: beat["step"] for i, (beat, _) in self._beats.items() if "step" in beat}
            if len(steps) < len(self.names) or max(steps.values()) == min(steps.values()):
                return ""
            behind = [i for i, step in sorted(steps.items()) if step == min(steps.values())]
            moved = max(self._beats[i][1] for i in behind)
        if time.monotonic() - moved < self._stall_seconds:
            return ""
        return (
            f"{self._named(behind)} stayed at step {min(steps.values())} for "
            f"{self._stall_seconds:g} s, others came to step {max(steps.values())}"
        )

    def _lose(self, reason: str) -> None:
        with self._changed:
            if self._is_lost.is_set() or self._is_ending.is_set():
                return
            self._is_lost.set()
        if self.process_id == 0:
            meeting.tell(self._links, lost=reason)
        self._end(
            errors.DistributedError(
                f"{reason}; this run cannot go on without it; look at its log, and start all again:"
                " they resume from the last checkpoint"
            )
        )


def end_process(error: errors.DistributedError) -> NoReturn:
    """Tells the error and ends the process: its main thread waits in a collective for ever."""
    print(f"t5sft: error[{error.name}]: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(error.exit_code)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
