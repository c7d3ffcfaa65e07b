"""The output of the verb generate: lines as they finish, in order at the end, taken up if killed.

Beside FILE lies FILE.settings.json: what the answers are of. A run that finds it made by the same
inputs and settings goes on; another one is refused.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from t5sft import errors


class AnswersFile:
    """Answers by row number, kept in a file as they come.

    Args:
      output: its path; None: nothing is written.
      rows: as they were read.
      prompts, seeds: what each row is asked by.
      about: other things the answers depend on, JSON values.

    Raises:
      ConfigError: the file holds answers of other inputs or settings, or something else.
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
        if self._path.exists():
            self._take_up()
        if jax.process_index() == 0:
            self._open()

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
            self._stream.write(self._line(index))
            self._stream.flush()

    def finish(self) -> list[dict]:
        """Puts the lines in the order of the inputs, and returns all rows in it."""
        answered = [self.done[i] for i in sorted(self.done)]
        if self._stream is None or self._path is None:
            return answered
        self._stream.close()
        whole = self._path.with_name(f"{self._path.name}.partial")
        lines = "".join(self._line(index) for index in sorted(self.done))
        whole.write_text(lines, encoding="utf-8")
        os.replace(whole, self._path)
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
        self._settings.write_text(json.dumps(self._about, indent=1) + "\n", encoding="utf-8")
        kept = self._path.with_name(f"{self._path.name}.partial")
        kept.write_text("".join(self._line(i) for i in sorted(self.done)), encoding="utf-8")
        os.replace(kept, self._path)
        self._stream = open(self._path, "a", encoding="utf-8")

    def _take_up(self) -> None:
        """Reads the answers that are there already."""
        assert self._path is not None
        try:
            theirs = json.loads(self._settings.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise errors.ConfigError(
                f"{self._path} exists and no run of generate is known to have written it; "
                "--output; name another file, or remove it"
            ) from None
        ours = json.loads(json.dumps(self._about))
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise errors.ConfigError(
                    f"{self._path} holds answers of {name} = {theirs.get(name)}, not "
                    f"{ours[name]}; --output; name another file, or remove it"
                )
        for line in self._path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:  # the line a kill cut short, or the end
                continue
            self.done[row.pop(self._key)] = row
