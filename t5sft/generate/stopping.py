"""Stop strings: an answer ends before the first of them, wherever tokens begin and end."""

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Stop:
    """Finds stop strings in the text of an answer's tokens.

    Args:
      decode: token ids -> text, as `Vocabulary.decode`.
      strings: none of them empty.
    """

    decode: Callable[[Sequence[int]], str]
    strings: tuple[str, ...]

    def cut(self, text: str) -> str:
        """Returns the text before the first stop string."""
        places = [text.find(string) for string in self.strings]
        return text[: min((place for place in places if place >= 0), default=len(text))]

    def find(self, tokens: Sequence[int]) -> int | None:
        """Returns how many tokens it takes to complete a stop string, None where none is.

        The number depends on the tokens alone, not on how many were there when it was looked for.
        """
        text = self.decode(tokens)
        if self.cut(text) == text:
            return None
        for count in range(1, len(tokens)):
            text = self.decode(tokens[:count])
            if self.cut(text) != text:
                return count
        return len(tokens)
