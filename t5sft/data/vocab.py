"""Vocabularies: text to token ids with the characters each id covers, and back.

Only SentencePiece and bytes here; neither reads control tokens out of text: `</s>` typed by a user
stays text. SeqIO's own vocabularies take id 0 for padding and are used for metrics only.
"""

import functools
import hashlib
import pathlib
from collections.abc import Sequence

from t5sft import errors, paths


class SentencePiece:
    """A SentencePiece model file (github.com/google/sentencepiece)."""

    def __init__(self, path: pathlib.Path):
        import sentencepiece

        self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self._bytes = path.read_bytes()
        self.size = self._model.vocab_size()
        self.eos_id = self._model.eos_id()
        self.bos_id = self._model.bos_id() if self._model.bos_id() >= 0 else None
        self.pad_id = max(self._model.pad_id(), 0)
        pieces = (self._model.id_to_piece(i) for i in range(self.size))
        ids = {piece: i for i, piece in enumerate(pieces)}
        names = (f"<extra_id_{n}>" for n in range(self.size))
        self.sentinel_ids = tuple(ids[name] for name in names if name in ids)
        if self.eos_id < 0:
            raise errors.DataError(f"no end-of-text piece; {path}; train it with eos_id=1")

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `encode_with_offsets`, in half the time."""
        return self._model.encode(text)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns ids and, for each, the range of characters of `text` it covers."""
        mapping = self._model.encode_as_offset_mapping(text)
        return mapping["ids"], mapping["offsets"]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text; control ids give nothing."""
        return self._model.decode([int(i) for i in ids if 0 <= i < self.size])

    def piece(self, token_id: int) -> str:
        """Returns how one id looks, for people: control tokens by name, spaces as they are."""
        return self._model.id_to_piece(int(token_id)).replace("\u2581", " ")

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the model file."""
        return hashlib.sha256(self._bytes).hexdigest()


class Bytes:
    """UTF-8 bytes as ids 3..258 after pad 0, end 1, beginning 2 (ByT5, arXiv:2105.13626)."""

    pad_id, eos_id, bos_id = 0, 1, 2
    sentinel_ids = tuple(range(259, 291))
    size = 291

    def encode(self, text: str) -> list[int]:
        """Returns ids."""
        return [byte + 3 for byte in text.encode("utf-8")]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns ids and, for each, the range of characters of `text` it covers."""
        ids, offsets = [], []
        for position, character in enumerate(text):
            for byte in character.encode("utf-8"):
                ids.append(byte + 3)
                offsets.append((position, position + 1))
        return ids, offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text; control ids give nothing, broken UTF-8 a replacement character."""
        return bytes(int(i) - 3 for i in ids if 3 <= i < 259).decode("utf-8", errors="replace")

    def piece(self, token_id: int) -> str:
        """Returns how one id looks, for people."""
        names = {0: "<pad>", 1: "</s>", 2: "<s>"}
        return names.get(int(token_id)) or self.decode([token_id]) or f"<{token_id}>"

    def fingerprint(self) -> str:
        """Returns a constant: the ids never change."""
        return hashlib.sha256(b"bytes, pad 0, eos 1, bos 2, 32 sentinels").hexdigest()


Vocabulary = SentencePiece | Bytes


@functools.lru_cache(maxsize=8)
def load(name: str) -> Vocabulary:
    """Opens a vocabulary: "bytes", or the path of a SentencePiece model.

    A path is looked for from the working directory, then beside the package (so that
    `tasks/village/vocab.model` is found from anywhere).

    Raises:
      ConfigError: no such file.
    """
    if name == "bytes":
        return Bytes()
    try:
        return SentencePiece(paths.find(name))
    except FileNotFoundError as error:
        raise errors.ConfigError(f"{error}; vocabulary; check the path") from error
