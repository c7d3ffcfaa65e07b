"""Rejects: bad rows stop the reading, or are counted and kept aside up to a limit."""

import json
import pathlib
from collections import Counter
from typing import IO, Literal, NamedTuple

from t5sft import errors

OnBadRecord = Literal["error", "skip"]
MAX_COUNT = 1000  # rejects of one reading
MAX_SHARE = 0.05  # of the rows read
_FEW = 10  # rejects that are let pass whatever their share
_KEPT_CHARACTERS = 2000  # of a rejected row


class Bad(NamedTuple):
    """A row that cannot be used."""

    file: str
    reason: str  # a short name; counted by it
    message: str
    line: int | None = None  # 1 is the first; None where the kind of file has no lines
    column: int | None = None  # in characters, 1 is the first
    row: int | None = None  # 0 is the first; None where rows are told by their line
    text: str = ""  # how the row starts

    @property
    def where(self) -> str:
        """The place, as editors and compilers write it."""
        row = "" if self.row is None else f"[{self.row}]"
        if self.line and self.column:
            return f"{self.file}:{self.line}:{self.column}{row}"
        return f"{self.file}{row or f':{self.line}'}"


class Rejects:
    """Decides what happens to bad rows, and remembers them.

    Args:
      on_bad_record: "error": the first one raises; "skip": they are counted, up to the limits.
      path: where rejects are written in mode "skip", one JSON object each with file, line, column,
        row, reason, message and the text's beginning; nowhere if None. Replaced by each reading.
      max_count: more rejects than these are an error.
      max_share: of the rows read, likewise, once there are more than ten rejects.

    `counts` has the number of rejects by reason.
    """

    def __init__(
        self,
        on_bad_record: OnBadRecord = "error",
        path: pathlib.Path | str | None = None,
        *,
        max_count: int = MAX_COUNT,
        max_share: float = MAX_SHARE,
    ):
        if on_bad_record not in ("error", "skip"):
            raise errors.ConfigError(
                f"unknown on_bad_record {on_bad_record!r}; reading files; use error or skip"
            )
        self.on_bad_record = on_bad_record
        self.path = path and pathlib.Path(path)
        self.max_count, self.max_share = max_count, max_share
        self.counts: Counter[str] = Counter()
        self._file: IO[str] | None = None

    def add(self, bad: Bad):
        """Takes a bad row.

        Raises:
          DataError: in mode "error", or when there are too many.
        """
        if self.on_bad_record == "error":
            raise errors.DataError(
                f'{bad.message}; {bad.where}; mend the row, or set on_bad_record to "skip"'
            )
        self.counts[bad.reason] += 1
        if self.path:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "w", encoding="utf-8")
            # What our own reader would refuse is written as Python shows it: \x00, \udce9.
            shown = bad.text[:_KEPT_CHARACTERS].encode("utf-8", "backslashreplace").decode()
            kept = bad._replace(text=shown.replace("\0", "\\x00"))
            self._file.write(json.dumps(kept._asdict()) + "\n")
            self._file.flush()
        if self.counts.total() > self.max_count:
            self._fail(f"more than {self.max_count} rows are bad", bad.file)

    def finish(self, num_read: int, where: str):
        """Ends a reading of `num_read` rows, the bad ones included.

        Raises:
          DataError: the share of bad rows is too large.
        """
        self._close()
        bad = self.counts.total()
        if bad > _FEW and bad > self.max_share * num_read:
            self._fail(f"{bad} of {num_read} rows are bad", where)

    def _close(self):
        if self._file:
            self._file.close()
            self._file = None

    def _fail(self, what: str, where: str):
        self._close()
        why = ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())
        kept = f" (kept in {self.path})" if self.path else ""
        raise errors.DataError(f"{what}: {why}; {where}; mend the file{kept}")
