"""Where a run stands in its data, and what it remembers of them: a checkpoint's data/data.json."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from t5sft import errors
from t5sft.data import batches
from t5sft.train import guard as guard_lib

_FORMAT = 1  # changes when a file of before would be misread


class Position(NamedTuple):
    """Which batch comes next, and which of those before it were learnt.

    Batches are numbered from the first row of the data on: batch n is rows n * B to (n + 1) * B.
    """

    rows: batches.Position = batches.Position()  # where the next batch starts
    batch: int = 0  # its number
    identity: Mapping[str, Any] = {}  # of the data (Batches.identity): B is "batch_size"
    skips: Sequence[guard_lib.Range] = ()  # ranges of batches that are left out
    unlearnt: Sequence[int] = ()  # batches that the guard undid
    guard: Mapping[str, list] = {}  # what it remembers of good ones (guard.to_json)
    period: Mapping[str, list] = {}  # of the metrics: what is added up already

    def has_learnt(self, ranges: Sequence[guard_lib.Range], identity: Mapping[str, Any]) -> bool:
        """Whether a batch of these ranges was learnt; they count batches of other data's size."""
        changed = differences(self.identity, identity)
        if set(changed) - {"batch_size"}:
            return False  # of other data
        ours, theirs = (self._size, identity["batch_size"]) if changed else (1, 1)
        return any(
            number not in self.unlearnt and not guard_lib.is_left_out(number, self.skips)
            for first, last in ranges
            for number in range(first * theirs // ours, min(-(-last * theirs // ours), self.batch))
        )

    def carried_over(self, identity: Mapping[str, Any]) -> "Position":
        """Returns where to go on in the data of `identity`, counted in their batches.

        Example: 30 batches of 8 rows are done, 50 to 52 are to be left out
          batch_size 16   batch 15 is next, 25 to 26 are left out: none of those rows is learnt
          batch_size 7    refused: 240 rows are no whole number of batches of 7

        Raises:
          ConfigError: the rows so far are no whole number of batches of the size wanted.
        """
        changed = differences(self.identity, identity)
        if set(changed) - {"batch_size"}:  # a place in other data means nothing
            return Position(identity=identity, guard=self.guard)
        if not changed:
            return self
        ours, theirs = self._size, identity["batch_size"]
        batch, rest = divmod(self.batch * ours, theirs)
        if rest:
            more = next(n for n in range(1, theirs) if (self.batch + n) * ours % theirs == 0)
            raise errors.ConfigError(
                f"{self.batch} batches of {ours} rows are no whole number of batches of {theirs}; "
                f"batch_size; train {more} more with batch_size {ours} before it becomes {theirs}"
            )
        ahead = [(max(a, self.batch), b) for a, b in self.skips if b > self.batch]
        skips = [(a * ours // theirs, -(-b * ours // theirs)) for a, b in ahead]
        # What was undone or left out is counted as learnt: at worst a run goes back too far.
        return self._replace(batch=batch, identity=identity, skips=skips, unlearnt=())

    @property
    def _size(self) -> int:
        return self.identity["batch_size"]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the names of what is another now."""
    return [name for name in now if before.get(name) != now[name]]


def to_json(position: Position) -> dict:
    """Returns what data.json holds: flat, with the identity among the rest."""
    fields = position._asdict()
    where, identity = fields.pop("rows")._asdict(), fields.pop("identity")
    return {"format": _FORMAT, **where, **fields, **identity}


def from_json(saved: Mapping[str, Any], step: int) -> Position:
    """Returns the position that a checkpoint of `step` holds.

    Raises:
      CheckpointError: another version wrote it.
    """
    rest = dict(saved)
    if (written := rest.pop("format", _FORMAT)) != _FORMAT:  # the first versions wrote none
        raise errors.CheckpointError(
            f"written by another version: its data.json is of format {written}, this t5sft reads "
            f"{_FORMAT}; step {step}; use the version that wrote it"
        )
    rows = batches.Position(rest.pop("block", 0), rest.pop("row", 0))
    names = set(Position._fields) - {"rows", "identity"}
    known = {name: rest.pop(name) for name in names & rest.keys()}
    known["skips"] = [tuple(pair) for pair in known.get("skips", [])]
    return Position(rows, **{"batch": step, **known}, identity=rest)
