"""The mistakes a user can make, each with the exit code the command line ends with.

A message reads "what; where; what to do". The command line prints
`t5sft: error[NAME]: message`; a traceback only with --verbose.
"""

import difflib
from collections.abc import Iterable


class T5sftError(Exception):
    """Any failure that t5sft explains itself; raised through its subclasses only."""

    name = "T5SFT"
    exit_code = 1


class ConfigError(T5sftError):
    """A wrong command line, gin file or setting: nothing has been computed yet."""

    name = "CONFIG"
    exit_code = 2


class DataError(T5sftError):
    """A record, vocabulary or cache that cannot be used as it is."""

    name = "DATA"
    exit_code = 3


class NonFiniteError(T5sftError):
    """A loss or gradient that is NaN or infinite, or a run that diverged."""

    name = "NONFINITE"
    exit_code = 4


class CheckpointError(T5sftError):
    """A checkpoint that is damaged, foreign, or does not fit the model."""

    name = "CHECKPOINT"
    exit_code = 5


class DamageError(CheckpointError):
    """A checkpoint that is not what was written: an earlier one may be."""


class StorageError(T5sftError):
    """A disk or bucket that is full, read-only, or cannot be reached."""

    name = "STORAGE"
    exit_code = 6


class OwnerError(T5sftError):
    """A model directory that another run holds, or that belongs to another configuration."""

    name = "OWNER"
    exit_code = 7


class DistributedError(T5sftError):
    """Hosts that cannot find each other, disagree, or were lost."""

    name = "DISTRIBUTED"
    exit_code = 8


class SandboxError(T5sftError):
    """A machine that cannot run programs of a model without danger; nothing was run."""

    name = "SANDBOX"
    exit_code = 9


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the known name nearest to `name`, or "".

    Case is ignored, because a name in the wrong case is the nearest of all.

    Example:
      suggest("drop_rate", ["dropout_rate", "dtype"])   " (did you mean 'dropout_rate'?)"
      suggest("xyz", ["dropout_rate", "dtype"])         ""
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[nearest[0]]!r}?)" if nearest else ""
