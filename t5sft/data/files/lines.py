"""Lines of text files and rows of JSON files, in bounded memory."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NoReturn

from t5sft import errors
from t5sft.data.files import strict_json
from t5sft.data.files.rejects import Bad
from t5sft.data.files.strict_json import Fault

MAX_ROW_BYTES = 16 << 20  # a longer line is a fault, and is not kept in memory
MAX_OBJECT_BYTES = 256 << 20  # of a .json file that is one object: it is read as a whole
CONTAINERS = ("Instances", "instances", "examples", "data")  # fields of an object that hold rows

Located = tuple[int | None, int | None, Any]  # line, row, and a value or Bad


def raw_lines(
    stream: BinaryIO, max_bytes: int = MAX_ROW_BYTES, *, with_ends: bool = False
) -> Iterator[tuple[int, bytes | None]]:
    """Yields (number, line) without its line end; None for a line longer than `max_bytes`.

    Only a line feed ends a line, and one carriage return before it belongs to the line end.

    Args:
      with_ends: lines keep their ends.
    """
    number = 0
    while True:
        line = stream.readline(max_bytes + 2)
        if not line:
            return
        number += 1
        whole = line.removesuffix(b"\n").removesuffix(b"\r") if line[-1] == 10 else line
        if len(whole) <= max_bytes:
            yield number, line if with_ends else whole
            continue
        while line and line[-1] != 10:
            line = stream.readline(1 << 16)
        yield number, None


def text_lines(
    name: str, stream: BinaryIO, max_bytes: int = MAX_ROW_BYTES, *, with_ends: bool = False
) -> Iterator[Located]:
    """Yields the lines of a UTF-8 file as (line, None, text or Bad)."""
    for number, raw in raw_lines(stream, max_bytes, with_ends=with_ends):
        if raw is None:
            message = f"a line of more than {max_bytes} bytes"
            yield number, None, Bad(name, "line is too long", message, number)
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            good = raw[: error.start].decode("utf-8")
            message = f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start} of the line"
            shown = raw.decode("utf-8", "backslashreplace")
            yield number, None, Bad(name, "not UTF-8", message, number, len(good) + 1, text=shown)
            continue
        yield number, None, text


def json_lines(name: str, stream: BinaryIO, max_bytes: int = MAX_ROW_BYTES) -> Iterator[Located]:
    """Yields the rows of a JSONL file; empty lines are passed over."""
    for number, _, text in text_lines(name, stream, max_bytes):
        if isinstance(text, Bad):
            yield number, None, text
        elif text and not text.isspace():
            try:
                row = strict_json.loads(text)
            except Fault as fault:
                column = fault.position + 1
                yield number, None, Bad(name, fault.reason, str(fault), number, column, text=text)
                continue
            yield number, None, _object(name, row, number, None, text)


def _object(name: str, row: Any, line: int | None, number: int | None, text: str):
    if isinstance(row, dict):
        return row
    kind = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    message = f"a row is {kind.get(type(row), 'a number')}, not an object"
    return Bad(name, "row is no object", message, line, None, number, text)


class _Window:
    """The part of a JSON file that is in memory, and its place in the file."""

    def __init__(self, stream: BinaryIO, max_bytes: int):
        self._stream, self._max = stream, max_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._line, self._column = 1, 1  # of `at`
        self.text, self.at, self.is_whole = "", 0, False  # what lies before `at` is done with

    def grow(self) -> bool:
        """Reads more; returns False at the end of the file or when the window is full."""
        left = self.text[self.at :]
        if self.is_whole or len(left) > self._max:
            return False
        raw = self._stream.read(max(1 << 16, len(left)))
        self.is_whole = not raw
        self.text, self.at = left + self._decoder.decode(raw, self.is_whole), 0
        return not self.is_whole

    def go(self, end: int):
        """Moves on to `end`. The text before it is let go when the window grows, not row by row."""
        self._line, self._column = self.place(end)
        self.at = end

    def place(self, position: int) -> tuple[int, int]:
        """Returns line and column of a position in the window, `at` or after it."""
        newlines = self.text.count("\n", self.at, position)
        if not newlines:
            return self._line, self._column + position - self.at
        return self._line + newlines, position - self.text.rfind("\n", self.at, position)

    def skip_space(self) -> str:
        """Passes over white space; returns the next character, or "" at the end of the file."""
        while True:
            end = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            self.go(end)
            if end < len(self.text):
                return self.text[end]
            if not self.grow():
                return ""


_SPACE = re.compile(r"[ \t\n\r]*+")


def json_file(
    name: str, opened: Callable[[], BinaryIO], max_bytes: int = MAX_ROW_BYTES
) -> Iterator[Located]:
    """Yields the rows of a .json file: a list of objects, one object that holds such a list, or
    (as many a file is misnamed) JSON lines.

    A list is never in memory as a whole.

    Raises:
      DataError: a fault after which the next row cannot be found.
    """
    with opened() as stream:
        first, is_lines = _first_line(stream, max_bytes)
    with opened() as stream:
        if is_lines:
            yield from json_lines(name, stream, max_bytes)
        elif first.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{":
            yield from _json_object(name, stream)
        else:
            yield from _json_list(name, stream, max_bytes)


def _first_line(stream: BinaryIO, max_bytes: int) -> tuple[bytes, bool]:
    """Returns the first line with anything in it, and whether it is a JSON line among others."""
    first = b"\n"
    while first and not first.strip():
        first = stream.readline(max_bytes)
    second = b"\n"
    while second and not second.strip():
        second = stream.readline(1 << 16)
    if not second.lstrip().startswith(b"{"):
        return first, False
    try:
        return first, isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return first, False


def _json_list(name: str, stream: BinaryIO, max_bytes: int) -> Iterator[Located]:
    window = _Window(stream, max_bytes)
    if window.skip_space() != "[":
        _stop(name, window, "neither a list of rows nor an object")
    window.go(window.at + 1)
    number, expected = 0, "a row or ]"
    while True:
        char = window.skip_space()
        if char == "]" and expected != "a row":
            window.go(window.at + 1)
            if window.skip_space():
                _stop(name, window, "more text after the list")
            return
        if number and expected == ", or ]":
            if char != ",":
                _stop(name, window, f"expected {expected}, not {char!r}")
            window.go(window.at + 1)
            expected = "a row"
            continue
        located, end = _element(name, window, number)
        yield located
        window.go(end)
        number, expected = number + 1, ", or ]"


def _element(name: str, window: _Window, number: int) -> tuple[Located, int]:
    """Reads the value at the window's start; returns it and where it ends."""
    while True:
        try:
            row, end = strict_json.scan(window.text, window.at)
            # A number may go on beyond the window: 12 of 12.5e3.
            is_ended = window.text[end : end + 1] in tuple(" \t\r\n,]")
            if isinstance(row, dict) or window.is_whole or is_ended:
                text = window.text[window.at : min(end, window.at + 200)]
                line, _ = window.place(window.at)
                bad_or_row = _object(name, row, line, number, text)
                return (line, number, bad_or_row), end
        except (ValueError, RecursionError):
            opens = window.text.startswith(("{", "["), window.at)
            end = strict_json.end_of_value(window.text, window.at) if opens else None
            if end is not None:
                break
        if not window.grow():
            break
    text = window.text[window.at : end]
    fault = strict_json.find_fault(text) or Fault("not JSON")
    if end is None and not window.is_whole:
        fault = Fault("row is too long", 0, f"more than {len(text)} characters without an end")
    line, column = window.place(window.at + fault.position)
    bad = Bad(name, fault.reason, str(fault), line, column, number, text)
    if end is None:
        _fail(bad)
    return (line, number, bad), end


def _stop(name: str, window: _Window, message: str) -> NoReturn:
    line, column = window.place(window.at)
    fault = strict_json.find_fault(window.text[window.at : window.at + 1])
    if fault and fault.reason in ("byte order mark", "not UTF-8"):
        message = str(fault)
    _fail(Bad(name, "not JSON", f"not JSON: {message}", line, column))


def _fail(bad: Bad) -> NoReturn:
    raise errors.DataError(
        f"{bad.message}; {bad.where}; mend the file: the rows after this place cannot be found"
    )


def _json_object(name: str, stream: BinaryIO) -> Iterator[Located]:
    raw = stream.read(MAX_OBJECT_BYTES + 1)
    if len(raw) > MAX_OBJECT_BYTES:
        limit = f"an object of more than {MAX_OBJECT_BYTES} bytes"
        raise errors.DataError(f"{limit}; {name}; write its rows as JSON lines")
    text = raw.decode("utf-8", "surrogateescape")
    try:
        rows = unfold(strict_json.loads(text))
    except Fault as fault:
        line = text.count("\n", 0, fault.position) + 1
        column = fault.position - text.rfind("\n", 0, fault.position)
        _fail(Bad(name, fault.reason, str(fault), line, column))
    for number, row in enumerate(rows):
        yield None, number, _object(name, row, None, number, repr(row)[:200])


def unfold(value: dict) -> list:
    """Returns the rows that an object holds: each with the object's other fields beside its own.

    Natural Instructions' tasks hold them in `Instances`, Self-Instruct's in `instances`,
    BIG-Bench Hard's in `examples`.

    Raises:
      Fault: no field holds rows, or several do.
    """
    found = [name for name in CONTAINERS if isinstance(value.get(name), list)]
    if len(found) != 1:
        raise Fault(
            "not a list of rows",
            0,
            f"an object with {'several' if found else 'none'} of the fields {', '.join(CONTAINERS)}"
            " (use .jsonl for one object a line)",
        )
    shared = {name: field for name, field in value.items() if name != found[0]}
    return [{**shared, **row} if isinstance(row, dict) else row for row in value[found[0]]]
