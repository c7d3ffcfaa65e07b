"""The output of the verb generate: lines as they finish, in order at the end, taken up if killed.

Beside FILE lies FILE.settings.json: what the answers are of. A run that finds it made by the same
inputs and settings goes on; another one is refused.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from t5sft import errors, paths


class AnswersFile:
    """Answers by row number, kept in a file as they come.

    Of several processes the first reads and writes the file; all have what it held.

    Args:
      output: its path; None: nothing is written.
      rows: as they were read.
      prompts, seeds: what each row is asked by.
      about: other things the answers depend on, JSON values.

    Raises:
      ConfigError: the file holds answers of other inputs or settings, or something else.
      StorageError: it cannot be written.
    """

    def __init__(
        self, output: str | None, rows: Sequence[dict], prompts: Sequence[Sequence[int]],
        seeds: Sequence[int], about: dict[str, Any],
    ):  # fmt: skip
        self.done: dict[int, dict] = {}
        self._rows = rows
        self._key = "index"  # of a row's place; rows with a field of this name keep it
        while any(self._key in row for row in rows):
            self._key = f"row_{self._key}"
        self._path = None if output is None else pathlib.Path(output).expanduser()
        asked = json.dumps([list(map(int, one)) for one in prompts] + [list(seeds)])
        content = json.dumps(list(rows), sort_keys=True, default=str)
        digest = hashlib.sha256((asked + content).encode()).hexdigest()
        self._about = {"rows": len(rows), "inputs_sha256": digest, **about}
        self._stream: Any = None
        if self._path is None:
            return
        if jax.process_index() == 0:
            with self._writing():
                if self._path.exists():
                    self._take_up()
                self._open()
        self.done = dict(of_the_first(list(self.done.items())))

    def add(self, index: int, samples: Sequence[tuple[str, bool]]) -> None:
        """Keeps the answers of a row: (text, finished) of each sample."""
        row = dict(self._rows[index])
        if len(samples) == 1:
            row["response"], row["finished"] = samples[0]
        else:
            row["responses"] = [text for text, _ in samples]
            row["finished"] = [finished for _, finished in samples]
        self.done[index] = row
        if self._stream is not None:
            with self._writing():
                self._stream.write(self._line(index))
                self._stream.flush()

    def finish(self) -> list[dict]:
        """Puts the lines in the order of the inputs, and returns all rows in it."""
        answered = [self.done[i] for i in sorted(self.done)]
        if self._stream is None or self._path is None:
            return answered
        with self._writing():
            self._stream.close()
            self._replace(self._path, "".join(self._line(index) for index in sorted(self.done)))
        return answered

    def _line(self, index: int) -> str:
        return json.dumps({self._key: index, **self.done[index]}, ensure_ascii=False) + "\n"

    @property
    def _settings(self) -> pathlib.Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.name}.settings.json")

    def _open(self) -> None:
        """Rewrites what is whole (a killed run may have left half a line), then appends."""
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._replace(self._settings, json.dumps(self._about, indent=1) + "\n")
        self._replace(self._path, "".join(self._line(i) for i in sorted(self.done)))
        self._stream = open(self._path, "a", encoding="utf-8")

    def _replace(self, path: pathlib.Path, text: str) -> None:
        """Writes a whole file, or leaves the one that is there."""
        partial = path.with_name(f"{path.name}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            stream, self._stream = self._stream, None
            with contextlib.suppress(OSError):  # it would try again, and complain, at the end
                stream and stream.close()
            raise errors.StorageError(
                f"cannot write the answers ({error.strerror or error}); {self._path}; make room "
                "or name another file; the same command goes on with what is missing"
            ) from error

    def _take_up(self) -> None:
        """Reads the answers that are there already."""
        assert self._path is not None
        try:
            theirs = paths.read_object(self._settings)
        except (OSError, ValueError):
            raise errors.ConfigError(
                f"{self._path} exists and no run of generate is known to have written it; "
                "--output; name another file, or remove it"
            ) from None
        ours = json.loads(json.dumps(self._about))
        for name in ours:
            if name == "weights_xxh3" and theirs.get(name) != ours[name]:
                raise errors.ConfigError(
                    f"{self._path} holds answers of other weights that lay at {ours['weights']}; "
                    "--output; name another file, or remove it"
                )
            if theirs.get(name) != ours[name]:
                raise errors.ConfigError(
                    f"{self._path} holds answers of {name} = {theirs.get(name)}, not "
                    f"{ours[name]}; --output; name another file, or remove it"
                )
        for line in self._path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                self.done[row.pop(self._key)] = row
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # the line a kill cut short, or the end


def of_the_first(value: Any) -> Any:
    """Returns what process 0 has, on every process: a file may be seen by it alone.

    Args:
      value: what JSON can hold; looked at on process 0 only.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int64(len(text))))
    mine = text if jax.process_index() == 0 else np.zeros(size, np.uint8)
    told = np.asarray(multihost_utils.broadcast_one_to_all(mine))
    return json.loads(told.tobytes())
