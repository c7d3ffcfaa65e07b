"""Choices: hashed draws that depend on their key alone, never on what was drawn before."""

import hashlib
import json
from collections.abc import Iterator


def number(count: int, *key) -> int:
    """Returns a number in [0, count) made of the key, every one equally likely.

    Adding, removing or reordering tasks and examples changes no other example's choice.

    Example:
      number(10, seed, "rte", 3, "template")   the same for ever
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:16], "big") % count


def draw(count: int, *key) -> Iterator[int]:
    """Yields the numbers [0, count) in a random order made of the key, each once.

    A Fisher-Yates shuffle that remembers only what it moved: the first k numbers cost O(k).
    """
    moved: dict[int, int] = {}
    for position in range(count):
        other = position + number(count - position, *key, position)
        yield moved.pop(other, other)
        if other != position:
            moved[other] = moved.pop(position, position)
