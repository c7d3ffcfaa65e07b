"""Records: what a SeqIO task yields, read into conversations before any token exists."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from t5sft import errors

ROLES = ("system", "user", "assistant", "text")


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # one of ROLES
    content: str
    context: str = ""  # material the turn refers to: Alpaca's input
    weight: float = 1.0  # scales its loss


class Record(NamedTuple):
    """A conversation (or one plain text) and where it came from."""

    messages: tuple[Message, ...]
    source: str = ""  # SeqIO task
    number: int = -1  # position in the task's split


class Dropped(Exception):
    """A record that has nothing to learn; the reason is counted, training goes on."""


def _text(value: Any) -> str:
    """Decodes what SeqIO yields (bytes) to text."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return "" if value is None else str(value)


def from_features(features: Mapping[str, Any], *, source: str = "", number: int = -1) -> Record:
    """Reads one example of a SeqIO task; the fields that are present say which format it is.

    Args:
      features: field -> value, as `task.get_dataset().as_numpy_iterator()` yields them. Known
        formats, the first that fits: plain `text`; Alpaca `instruction`, `output`, optional
        `input`; `inputs`/`targets` text (or SeqIO's `inputs_pretokenized`/`targets_pretokenized`);
        `prompt`/`completion`.

    Raises:
      Dropped: the response (or text) is empty.
      DataError: no known format has these fields.
    """
    where = f"{source or 'record'}[{number}]"
    if "text" in features:
        text = _text(features["text"])
        if not text.strip():
            raise Dropped("empty text")
        return Record((Message("text", text),), source, number)
    for prompt, response, context in (
        ("instruction", "output", "input"),
        ("inputs_pretokenized", "targets_pretokenized", ""),
        ("inputs", "targets", ""),
        ("prompt", "completion", ""),
    ):
        if prompt in features and response in features:
            answer = _text(features[response])
            if not answer.strip():
                raise Dropped("empty response")
            user = Message("user", _text(features[prompt]), _text(features.get(context)))
            return Record((user, Message("assistant", answer)), source, number)
    raise errors.DataError(
        f"no known format has the fields {sorted(features)}; {where}; "
        "give text, instruction/output, inputs/targets or prompt/completion"
    )
