"""Strict JSON agrees with a parser written from the grammar, on good texts and on broken ones."""

import json
import math
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft.data.files import strict_json


class Refused(Exception):
    def __init__(self, reason, position):
        super().__init__(reason, position)
        self.reason, self.position = reason, position


class Oracle:
    """RFC 8259 read letter by letter, in the grammar's order, with the same further refusals."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def whole(self):
        value = self.value(0)
        self.space()
        if self.at < len(self.text):
            raise Refused("not JSON", self.at)
        return value

    def peek(self):
        return self.text[self.at] if self.at < len(self.text) else ""

    def space(self):
        while self.peek() and self.peek() in " \t\r\n":
            self.at += 1

    def expect(self, char):
        if self.peek() != char:
            raise self.unexpected()
        self.at += 1

    def unexpected(self):
        char = self.peek()
        if char and 0xDC80 <= ord(char) <= 0xDCFF:
            return Refused("not UTF-8", self.at)
        if char == "\ufeff" and self.at == 0:
            return Refused("byte order mark", 0)
        return Refused("not JSON", self.at)

    def value(self, depth):
        self.space()
        char = self.peek()
        if char == "{" or char == "[":
            if depth == strict_json.MAX_DEPTH:
                raise Refused("nested too deeply", self.at)
            return self.object(depth + 1) if char == "{" else self.list(depth + 1)
        if char == '"':
            return self.string()
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        for word in ("NaN", "Infinity", "-Infinity"):
            if self.text.startswith(word, self.at):
                raise Refused("number is not finite", self.at)
        return self.number()

    def object(self, depth):
        self.expect("{")
        found = {}
        self.space()
        if self.peek() == "}":
            self.at += 1
            return found
        while True:
            self.space()
            start = self.at
            if self.peek() != '"':
                raise self.unexpected()
            key = self.string()
            if key in found:
                raise Refused("duplicate key", start)
            self.space()
            self.expect(":")
            found[key] = self.value(depth)
            self.space()
            if self.peek() == "}":
                self.at += 1
                return found
            self.expect(",")

    def list(self, depth):
        self.expect("[")
        found = []
        self.space()
        if self.peek() == "]":
            self.at += 1
            return found
        while True:
            found.append(self.value(depth))
            self.space()
            if self.peek() == "]":
                self.at += 1
                return found
            self.expect(",")

    def digits(self):
        start = self.at
        while self.peek() and self.peek() in string.digits:
            self.at += 1
        return self.at - start

    def number(self):
        start = self.at
        if self.peek() == "-":
            self.at += 1
        if self.peek() == "0":
            self.at += 1
        elif not self.digits():
            self.at = start
            raise self.unexpected()
        end, is_integer = self.at, True
        if self.peek() == ".":
            self.at += 1
            if self.digits():
                end, is_integer = self.at, False
            self.at = end
        if self.peek() and self.peek() in "eE":
            self.at += 1
            if self.peek() and self.peek() in "+-":
                self.at += 1
            if self.digits():
                end, is_integer = self.at, False
            self.at = end
        digits = self.text[start:end]
        if is_integer:
            if len(digits.strip("-")) > 4300:
                raise Refused("number is too long", start)
            return int(digits)
        if math.isinf(float(digits)):
            raise Refused("number is not finite", start)
        return float(digits)

    def string(self):
        start, out = self.at, []
        self.at += 1
        while True:
            char = self.peek()
            if not char:
                raise Refused("not JSON", start)
            if char == '"':
                self.at += 1
                return "".join(out)
            if ord(char) < 32:
                raise Refused("control character", self.at)
            if 0xD800 <= ord(char) <= 0xDFFF:
                escaped = 0xDC80 <= ord(char) <= 0xDCFF
                raise Refused("not UTF-8" if escaped else "lone surrogate", self.at)
            if char != "\\":
                out.append(char)
                self.at += 1
                continue
            out.append(self.escape())

    def unit(self, at):
        """The UTF-16 code unit that the escape at `at` names, or None."""
        digits = self.text[at + 2 : at + 6]
        if self.text[at : at + 2] == "\\u" and len(digits) == 4:
            if all(x in string.hexdigits for x in digits):
                return int(digits, 16)
        return None

    def escape(self):
        kind = self.text[self.at + 1 : self.at + 2]
        simple = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r"}
        simple["t"] = "\t"
        if kind and kind in simple:
            self.at += 2
            return simple[kind]
        first = self.unit(self.at)
        if first is None:
            raise Refused("not JSON", self.at)
        if first == 0:
            raise Refused("NUL character", self.at)
        if 0xD800 <= first < 0xDC00:
            second = self.unit(self.at + 6)
            if second is not None and 0xDC00 <= second < 0xE000:
                self.at += 12
                return chr(0x10000 + ((first - 0xD800) << 10) + second - 0xDC00)
        if 0xD800 <= first < 0xE000:
            raise Refused("lone surrogate", self.at)
        self.at += 6
        return chr(first)


def outcome(read, text):
    """The value, or why and where it is refused."""
    try:
        value = read(text)
    except Refused as refused:
        return refused.reason, refused.position
    except strict_json.Fault as fault:
        return fault.reason, fault.position
    return json.dumps(value), type(value)


def agree(text):
    expected = outcome(lambda x: Oracle(x).whole(), text)
    assert outcome(strict_json.loads, text) == expected, text
    return expected


CASES = [
    '{"a": 1, "a": 2}', '{"a": {"b": 1, "\\u0062": 2}}', '{"a": NaN}', "[-Infinity]", "[1e999]",
    '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\uD83D\\uDE00\\udfff"', '"a\\u0000"',
    '"\ud800"', '"\udc80"', "\udcff", '{"a\udc80": 1}', '\ufeff{"a": 1}', ' \ufeff1', '"\ufeff"',
    '"a\tb"', '"a\nb"', '"\x7f\u2028\u2029\x85"', '"a\x00b"', "1" * 4300, "1" * 4301,
    "-" + "9" * 5000,
    "[" * 200 + "]" * 200, "[" * 201 + "]" * 201, "[" * 100_000, '{"a":' * 100_000, '"[[[[{{"',
    '["' + "[" * 500 + '"]', "", " ", "{", "[", '"', '{"a"', '{"a":', '{"a": 1', "[1",
    "[1,", "[1,]",
    '{"a": 1,}', "{,}", "[,]", "{1: 2}", "{'a': 1}", "{a: 1}", "01", "1.", ".5", "+1", "1e", "1e+",
    "-", "- 1", "0x1", "1_0", "\u0661", "True", "nul", "nulll", "true false", "[1] [2]", "[1 2]",
    '{"a" 1}', '"\\x"', '"\\u12"', '"\\u12G4"', '"\\', "[1}", '{"a": 1]', "]", "}", "1 ,", "\x0b1",
    "\xa01", "/* */ 1", "1 // x", "1e-999", "-0", "-0.0", "1E5", "0.1e+2",
    ' {"a": [ ] , "b":\t{ } }\r\n',
]  # fmt: skip


@pytest.mark.parametrize("text", CASES, ids=range(len(CASES)))
def test_agrees_with_the_grammar_on_the_known_traps(text):
    agree(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
PIECES = st.sampled_from(
    list('{}[],:"\\ \n\t0123456789.-+eEnulltrue')
    + ["NaN", "Infinity", "\\u", "\\ud83d", "\\ude00", "\\u0000", "\ud800", "\udc80", "\ufeff"]
    + ['"a": 1,', "1e999", "\x00", "\u2028"]
)


@settings(max_examples=200)
@given(VALUES, st.booleans())
def test_reads_what_python_writes(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    expected = agree(text)
    assert expected[0] in (json.dumps(value), "NUL character")


@settings(max_examples=400)
@given(VALUES, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 2), PIECES), max_size=3))
def test_agrees_with_the_grammar_on_damaged_texts(value, cuts):
    text = json.dumps(value, ensure_ascii=False)
    for place, removed, piece in cuts:
        at = place % (len(text) + 1)
        text = text[:at] + piece + text[at + removed :]
    agree(text)


@settings(max_examples=100)
@given(VALUES, st.text(max_size=5))
def test_finds_where_a_value_ends(value, rest):
    text = json.dumps([value]) + rest
    assert strict_json.end_of_value(text, 0) == len(json.dumps([value]))
    assert strict_json.end_of_value(text[: len(json.dumps([value])) - 1], 0) is None


def test_a_fault_says_what_and_where():
    with pytest.raises(strict_json.Fault, match="^duplicate key: 'a'$") as raised:
        strict_json.loads('{"a": 1, "a": 2}')
    assert raised.value.position == 9
