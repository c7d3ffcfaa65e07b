"""Rows of TFRecord and ArrayRecord files: tf.train.Example messages or JSON texts.

Read without TensorFlow: a TFRecord is length, checksum, bytes, checksum (tensorflow.org/tutorials/
load_data/tfrecord), an Example a protocol buffer of four message types.
"""

import functools
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from t5sft import errors
from t5sft.data.files import strict_json
from t5sft.data.files.lines import Located
from t5sft.data.files.rejects import Bad

_BATCH_RECORDS = 256


def tfrecord_rows(name: str, stream: BinaryIO, max_bytes: int) -> Iterator[Located]:
    """Yields the rows of a TFRecord file.

    Raises:
      DataError: a length or checksum is wrong: nothing after it can be read.
    """
    number = 0
    while header := stream.read(12):
        record = _record(stream, header, max_bytes)
        if record is None:
            raise errors.DataError(
                f"damaged or cut off, or a record of more than {max_bytes} bytes; {name}[{number}];"
                " mend or remove the file"
            )
        yield None, number, _row(name, number, record)
        number += 1


def _record(stream: BinaryIO, header: bytes, max_bytes: int) -> bytes | None:
    if len(header) != 12:
        return None
    length, checksum = struct.unpack("<QI", header)
    if _masked_crc(header[:8]) != checksum or length > max_bytes:
        return None
    record, footer = stream.read(length), stream.read(4)
    if len(record) != length or len(footer) != 4:
        return None
    return record if _masked_crc(record) == struct.unpack("<I", footer)[0] else None


@functools.cache
def _tables() -> tuple[list[int], list[int]]:
    """The tables of CRC-32C (Castagnoli) for one byte and for two bytes at once."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    first = table[np.arange(65536) & 255] ^ (np.arange(65536, dtype=np.uint32) >> 8)
    return table.tolist(), (table[first & 255] ^ (first >> 8)).tolist()


def _masked_crc(data: bytes) -> int:
    """Returns the CRC-32C as TFRecord stores it: rotated, and a constant added."""
    bytewise, pairwise = _tables()
    crc, even = 0xFFFFFFFF, len(data) & ~1
    for pair in np.frombuffer(data, "<u2", even // 2).tolist():
        crc = pairwise[(crc ^ pair) & 0xFFFF] ^ (crc >> 16)
    if even != len(data):
        crc = bytewise[(crc ^ data[-1]) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def array_record_rows(path: pathlib.Path) -> Iterator[Located]:
    """Yields the rows of an ArrayRecord file.

    Raises:
      DataError: the file is damaged.
    """
    from array_record.python import array_record_module

    number = 0
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        try:
            total = reader.num_records()
            while number < total:
                for record in reader.read(number, min(total, number + _BATCH_RECORDS)):
                    yield None, number, _row(str(path), number, record)
                    number += 1
        finally:
            reader.close()
    except (ValueError, RuntimeError, IndexError) as error:
        raise errors.DataError(
            f"unreadable: {error}; {path}[{number}]; mend or remove the file"
        ) from error


def _row(name: str, number: int, record: bytes) -> dict | Bad:
    try:
        if record[:1] == b"{":  # no Example starts so: the byte would open a group
            row = strict_json.loads(record.decode("utf-8"))
            return row if isinstance(row, dict) else _bad(name, number, "row is no object")
        return parse_example(record)
    except strict_json.Fault as fault:
        column = fault.position + 1
        return Bad(name, fault.reason, str(fault), None, column, number, repr(record[:200]))
    except UnicodeDecodeError as error:
        return _bad(name, number, "not UTF-8", f": {error}")
    except (ValueError, IndexError, struct.error) as error:
        return _bad(name, number, "no tf.train.Example", f": {error}")


def _bad(name: str, number: int, reason: str, detail: str = "") -> Bad:
    return Bad(name, reason, reason + detail, None, None, number)


def parse_example(message: bytes) -> dict[str, Any]:
    """Reads a serialised tf.train.Example: one value stays a value, several become a list.

    Raises:
      ValueError: it is none.
    """
    row: dict[str, Any] = {}
    for _, features in _fields(message, {1}):
        for _, entry in _fields(features, {1}):
            parts = dict(_fields(entry, {1, 2}))
            values = _values(parts.get(2, b""))
            row[parts[1].decode("utf-8")] = values[0] if len(values) == 1 else values
    return row


def _values(feature: bytes) -> list:
    values: list = []
    for kind, content in _fields(feature, {1, 2, 3}):
        if kind == 1:
            values += [value.decode("utf-8") for _, value in _fields(content, {1})]
        elif kind == 2:
            for _, packed in _fields(content, {1}):
                values += struct.unpack(f"<{len(packed) // 4}f", packed)
        else:
            for _, packed in _fields(content, {1}):
                values += _integers(packed)
    return values


def _integers(packed: bytes) -> list[int]:
    at, values = 0, []
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value - (1 << 64) if value >> 63 else value)
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without end")


def _fields(message: bytes, known: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yields (number, content) of a message's fields; lone numbers come as they do packed."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _, end = _varint(message, at)
        elif wire == 2:
            length, at = _varint(message, at)
            end = at + length
        elif wire in (1, 5):
            end = at + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if end > len(message) or number not in known:
            raise ValueError("cut off" if end > len(message) else f"unknown field {number}")
        yield number, message[at:end]
        at = end
