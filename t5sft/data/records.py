"""Records: what a SeqIO task yields, read into conversations before any token exists.

A task yields text features. Formats of one or two texts travel as they are (`text`,
`instruction`/`input`/`output`, `inputs`/`targets`, `prompt`/`completion`); everything else travels
as one feature `record`, the JSON of a Record.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from t5sft import errors

ROLES = ("system", "user", "assistant", "tool", "text")


class ToolCall(NamedTuple):
    """A tool that an assistant's message asks for."""

    name: str
    arguments: str  # JSON text
    id: str = ""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # one of ROLES
    content: str
    context: str = ""  # material the turn refers to: Alpaca's input
    weight: float = 1.0  # scales its loss
    thinking: str = ""  # what an assistant reasoned before the content, without its tags
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""  # of the tool that speaks, in role "tool"


class Candidate(NamedTuple):
    """One of several continuations of a record's messages."""

    messages: tuple[Message, ...]
    label: (
        float  # pair: chosen 1, rejected 0; unpaired: wanted 1, unwanted 0; ranked: higher better
    )


class Record(NamedTuple):
    """A conversation (or one plain text) and where it came from."""

    messages: tuple[Message, ...]
    source: str = ""  # SeqIO task
    number: int = -1  # position in the task's split
    tools: str = ""  # JSON text: the list of tools the conversation may call
    candidates: tuple[Candidate, ...] = ()  # a pair, one labelled answer, or K ranked answers
    answer: str = ""  # what a checkable answer is compared with
    metadata: Mapping[str, str] = {}  # what rides along: template, cluster, category


class Dropped(Exception):
    """A record that has nothing to learn; the reason is counted, training goes on."""


def alternatives(record: Record) -> list[Record]:
    """Returns the conversations a record stands for: itself, or one for each candidate."""
    if not record.candidates:
        return [record]
    return [
        record._replace(messages=record.messages + candidate.messages, candidates=())
        for candidate in record.candidates
    ]


def to_json(record: Record | Dropped) -> str:
    """Writes a record as JSON text: the feature `record` of a task. Defaults are left out.

    A row that a task drops travels, too, so that it is counted with its reason.
    """
    if isinstance(record, Dropped):
        return _ENCODER.encode({"dropped": str(record)})
    return _ENCODER.encode(_plain(record))


_ENCODER = json.JSONEncoder(ensure_ascii=False)


def _plain(value: Any) -> Any:
    if value.__class__ is str or value.__class__ is float:
        return value
    if hasattr(value, "_fields"):
        defaults = value._field_defaults
        return {
            name: _plain(field)
            for name, field in zip(value._fields, value, strict=True)
            if name not in defaults or field != defaults[name]
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def from_json(text: str) -> Record:
    """Reads what `to_json` wrote.

    Raises:
      Dropped: the task dropped the row, and says why.
    """
    fields = json.loads(text)
    if "dropped" in fields:
        raise Dropped(fields["dropped"])
    candidates = (
        Candidate(_messages(one["messages"]), one["label"]) for one in fields.pop("candidates", ())
    )
    messages = _messages(fields.pop("messages"))
    return Record(messages, candidates=tuple(candidates), **fields)


def _messages(rows) -> tuple[Message, ...]:
    for row in rows:
        if "tool_calls" in row:
            row["tool_calls"] = tuple(ToolCall(**call) for call in row["tool_calls"])
    return tuple([Message(**row) for row in rows])


def _text(value: Any) -> str:
    """Decodes what SeqIO yields (bytes) to text."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return "" if value is None else str(value)


def from_features(features: Mapping[str, Any], *, source: str = "", number: int = -1) -> Record:
    """Reads one example of a SeqIO task; the fields that are present say which format it is.

    Args:
      features: field -> value, as `task.get_dataset().as_numpy_iterator()` yields them. Known
        formats, the first that fits: `record`, the JSON of `to_json`; plain `text`; Alpaca
        `instruction`, `output`, optional `input`; `inputs`/`targets` text (or SeqIO's
        `inputs_pretokenized`/`targets_pretokenized`); `prompt`/`completion`.

    Raises:
      Dropped: the response (or text) is empty.
      DataError: no known format has these fields.
    """
    where = f"{source or 'record'}[{number}]"
    if "record" in features:
        try:
            found = from_json(_text(features["record"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.DataError(
                f"feature 'record' is not the JSON of a Record ({error}); {where}; "
                "write it by records.to_json"
            ) from error
        return found._replace(source=source, number=number)
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
        "give record, text, instruction/output, inputs/targets or prompt/completion"
    )
