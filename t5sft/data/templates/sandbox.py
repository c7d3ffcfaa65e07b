"""Runs a foreign Jinja template in a process of its own, within limits of memory and time."""

import atexit
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from t5sft import errors

TIMEOUT_SECONDS = 10.0  # for the renderings of one conversation


class Sandbox:
    """One template, rendered by `renderer` in a child of this process."""

    def __init__(self, source: str, name: str, timeout_seconds: float = TIMEOUT_SECONDS):
        self.source, self.name, self.timeout_seconds = source, name, timeout_seconds
        self._child: subprocess.Popen | None = None
        self._owner = 0

    def render(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
        """Renders each request: {"text": ...} or {"error": why not}.

        Args:
          requests: {"variables": ..., "marks": what {% generation %} writes around its body}.

        Raises:
          DataError: the template is no Jinja, or takes too long.
        """
        if self._child is None or self._owner != os.getpid():  # a fork has no child of its own
            self._start()
        return self._ask(list(requests))

    def _start(self):
        # -I: what is imported is what this process would import, whatever the environment says.
        run = f"import sys; sys.path[:] = {[p for p in sys.path if p]!r}; " + (
            "from t5sft.data.templates import renderer; renderer.main()"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-c", run],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", "")},
        )
        self._owner = os.getpid()
        atexit.register(_kill, self._child, self._owner)
        answer = self._ask({"source": self.source})
        if "error" in answer:
            raise errors.DataError(
                f"the chat template is no Jinja ({answer['error']}); {self.name}; mend the template"
            )

    def _ask(self, request) -> Any:
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        deadline = time.monotonic() + self.timeout_seconds
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = b""
            while not line.endswith(b"\n"):
                left = max(deadline - time.monotonic(), 0.0)
                if not select.select([child.stdout], [], [], left)[0]:
                    raise errors.DataError(
                        f"the chat template takes more than {self.timeout_seconds:g} s for one "
                        f"conversation; {self.name}; use another template"
                    )
                more = os.read(child.stdout.fileno(), 1 << 20)
                if not more:
                    raise BrokenPipeError
                line += more
        except BrokenPipeError as error:
            self.close()
            raise errors.DataError(
                f"the process that renders the chat template died; {self.name}; it may need too "
                "much memory: use another template"
            ) from error
        except errors.DataError:
            self.close()
            raise
        return json.loads(line)

    def close(self):
        """Ends the child; the next rendering starts another."""
        if self._child is not None and self._owner == os.getpid():
            _kill(self._child, self._owner)
        self._child = None


def _kill(child: subprocess.Popen, owner: int):
    if os.getpid() == owner:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
