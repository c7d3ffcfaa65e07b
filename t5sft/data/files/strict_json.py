"""Strict JSON: texts that every parser reads the same way; anything else is a Fault with a place.

Python's own parser keeps the last of two equal keys, and lets NaN, Infinity, 1e999, NUL and half a
surrogate pair through; the first is silently wrong, the others fail much later. RFC 8259 says what
is JSON, and leaves open what a parser does with these.
"""

import json
import math
import re
from typing import Any

MAX_DEPTH = 200  # Python's parser raises RecursionError somewhere past this
_MAX_DIGITS = 4300  # of an integer; Python refuses to read longer ones


class Fault(ValueError):
    """What is wrong with a text, and where.

    Args:
      reason: a short name, the same for all faults of one kind: they are counted by it.
      position: characters before the fault.
      detail: which key, byte or length.
    """

    def __init__(self, reason: str, position: int = 0, detail: str = ""):
        super().__init__(f"{reason}{f': {detail}' if detail else ''}")
        self.reason, self.position = reason, position


def loads(text: str) -> Any:
    """Reads one JSON text.

    Raises:
      Fault: it is no JSON (RFC 8259), or holds equal keys, a number that is not finite, NUL, a lone
        surrogate, an integer of more than 4,300 digits, or more than MAX_DEPTH levels.

    Example:
      loads('{"a": 1, "a": 2}')   Fault("duplicate key: 'a'", position=9)
    """
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise find_fault(text) or Fault("not JSON", 0, str(error)) from error
    if is_suspect(text):
        fault = find_fault(text)
        if fault:
            raise fault
    return value


def scan(text: str, start: int) -> tuple[Any, int]:
    """Reads the value that starts at `start`; returns it and where it ends.

    Raises:
      ValueError, RecursionError: something is wrong, or the text goes on beyond its end.
    """
    value, end = _DECODER.raw_decode(text, start)
    if is_suspect(text[start:end]):
        fault = find_fault(text[start:end])
        if fault:
            raise fault
    return value, end


def is_suspect(text: str) -> bool:
    """Tells whether a text that Python read needs the slow look: a depth, a NUL or a surrogate."""
    if "\\u" in text and _ODD_ESCAPE.search(text):
        return True
    if not text.isascii() and _SURROGATE.search(text):
        return True
    return text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKET.finditer(text):
        if found[0][0] != '"':
            depth += 1 if found[0] in "{[" else -1
            deepest = max(deepest, depth)
    return deepest


def end_of_value(text: str, start: int) -> int | None:
    """Returns where the object or list at `start` ends by its brackets alone, or None."""
    depth = 0
    for found in _BRACKET.finditer(text, start):
        if found[0][0] != '"':
            depth += 1 if found[0] in "{[" else -1
            if depth <= 0:
                return found.end()
    return None


_ODD_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRING = r'"(?:[^"\\]++|\\.)*+"'
_BRACKET = re.compile(rf"{_STRING}|[{{}}\[\]]", re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?+([eE][-+]?[0-9]++)?+")
_LITERAL = re.compile(r"true|false|null")
_NOT_A_NUMBER = re.compile(r"-?Infinity|NaN")
_IN_STRING = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|"')


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Fault("duplicate key")
    return made


def _refuse(constant: str):
    raise Fault("number is not finite", 0, constant)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Fault("number is not finite", 0, digits[:20])
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite, strict=True
)


def find_fault(text: str) -> Fault | None:
    """Reads a text symbol by symbol and returns its first fault: slow, and knows the place."""
    at = 0
    keys: list[set[str] | None] = []  # of the open objects; None for an open list
    expected = "value"
    try:
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            if at == len(text):
                return None if expected == "end" else Fault("not JSON", at, "the text ends early")
            if expected == "end":
                return Fault("not JSON", at, "more text after the value")
            expected, at = _symbol(text, at, expected, keys)
    except Fault as fault:
        return fault


def _symbol(text: str, at: int, expected: str, keys: list[set[str] | None]) -> tuple[str, int]:
    """Reads the symbol at `at`; returns what may follow it and where it ends."""
    char = text[at]
    after = {True: "comma or end of object", False: "comma or end of list"}
    if "value" in expected and char in "{[":
        keys.append(set() if char == "{" else None)
        if len(keys) > MAX_DEPTH:
            raise Fault("nested too deeply", at, f"more than {MAX_DEPTH} levels")
        return ("key or end of object" if char == "{" else "value or end of list"), at + 1
    if (char == "}" and "end of object" in expected) or (char == "]" and "end of list" in expected):
        keys.pop()
        return (after[keys[-1] is not None] if keys else "end"), at + 1
    if char == "," and "comma" in expected:
        return ("key" if keys[-1] is not None else "value"), at + 1
    if char == ":" and expected == "colon":
        return "value", at + 1
    if char == '"' and "key" in expected:
        end = _string(text, at)
        key, known = json.loads(text[at:end]), keys[-1]
        assert known is not None
        if key in known:
            raise Fault("duplicate key", at, repr(key[:40]))
        known.add(key)
        return "colon", end
    if "value" in expected and "key" not in expected:
        end = _string(text, at) if char == '"' else _word(text, at)
        return (after[keys[-1] is not None] if keys else "end"), end
    raise _unexpected(text, at, expected)


def _unexpected(text: str, at: int, expected: str) -> Fault:
    if text[at] == "\ufeff" and at == 0:
        return Fault("byte order mark", at, "save the file as UTF-8 without BOM")
    if "\udc80" <= text[at] <= "\udcff":
        return Fault("not UTF-8", at, f"byte 0x{ord(text[at]) - 0xDC00:02x}")
    return Fault("not JSON", at, f"expected {expected}, not {text[at]!r}")


def _word(text: str, at: int) -> int:
    found = _LITERAL.match(text, at)
    if found:
        return found.end()
    found = _NOT_A_NUMBER.match(text, at)
    if found:
        raise Fault("number is not finite", at, found[0])
    found = _NUMBER.match(text, at)
    if not found:
        raise _unexpected(text, at, "value")
    if found[1] is None and found[2] is None:
        digits = len(found[0].lstrip("-"))
        if digits > _MAX_DIGITS:
            raise Fault("number is too long", at, f"an integer of {digits} digits")
    elif math.isinf(float(found[0])):
        raise Fault("number is not finite", at, found[0][:20])
    return found.end()


def _string(text: str, start: int) -> int:
    """Returns where the string that opens at `start` ends."""
    at = start + 1
    while at < len(text):
        found = _IN_STRING.match(text, at)
        if not found:
            raise _bad_character(text, at)
        if found[0] == '"':
            return found.end()
        if found[0][:2] == "\\u":
            at = _escape(text, at)
        else:
            at = found.end()
    raise Fault("not JSON", start, "a string without end")


def _bad_character(text: str, at: int) -> Fault:
    char = text[at]
    if char == "\\":
        return Fault("not JSON", at, f"unknown escape {text[at : at + 2]!r}")
    if char < " ":
        return Fault("control character", at, f"U+{ord(char):04X} must be escaped")
    if char <= "\udc7f" or char > "\udcff":
        return Fault("lone surrogate", at, f"U+{ord(char):04X}")
    return Fault("not UTF-8", at, f"byte 0x{ord(char) - 0xDC00:02x}")


_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def _escape(text: str, at: int) -> int:
    pair = _PAIR.match(text, at)
    if pair:
        return pair.end()
    code = int(text[at + 2 : at + 6], 16)
    if code == 0:
        raise Fault("NUL character", at)
    if 0xD800 <= code <= 0xDFFF:
        raise Fault("lone surrogate", at, text[at : at + 6])
    return at + 6
