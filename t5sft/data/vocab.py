"""Vocabularies: text to token ids with the characters each id covers, and back.

SentencePiece and bytes here, Hugging Face's tokenizer.json in `tokenizer_json`. None reads control
tokens out of text: `</s>` or `<|im_end|>` typed by a user stays text. SeqIO's own vocabularies take
id 0 for padding and are used for metrics only.
"""

import functools
import hashlib
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from t5sft import errors, paths

# Tokens that mark the structure of a conversation. Other tokens that look like tags (Gemma's
# <table>) are text that happens to have an id of its own.
TAGS = (
    r"</?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response|start_of_turn|end_of_turn)>|"
    r"\[/?[A-Z][A-Z_]*\]"
)
MARKER = re.compile(r"<[|\uff5c].*[|\uff5c]>|" + TAGS)


class Vocabulary(Protocol):
    """What every vocabulary has. Ids are below `size`; equal instances share a fingerprint."""

    name: str  # as the user gave it
    size: int
    pad_id: int
    eos_id: int
    eos_ids: tuple[int, ...]  # all ids that end a text, eos_id first
    bos_id: int | None  # what every text begins with
    sentinel_ids: tuple[int, ...]
    adds_space: bool  # a text is encoded as if a space stood before it

    def encode(self, text: str) -> list[int]:
        """Returns ids; `encode_with_offsets` gives the same."""

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts, in less time than one by one."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns ids and, for each, the range of characters of `text` it covers."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text; control ids give nothing."""

    def control_id(self, name: str) -> int | None:
        """Returns the id of a control token, or None where there is none of this name."""

    def piece(self, token_id: int) -> str:
        """Returns how one id looks, for people: control tokens by name, spaces as they are."""

    def fingerprint(self) -> str:
        """Returns a hash of all that decides the ids."""

    def __hash__(self) -> int: ...


class SentencePiece:
    """A SentencePiece model file (github.com/google/sentencepiece)."""

    def __init__(self, path: pathlib.Path):
        import sentencepiece

        self.name = str(path)
        self._bytes = path.read_bytes()
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=_sealed(self._bytes))
        except (IndexError, KeyError, ValueError, RuntimeError) as error:  # the last: the library
            raise errors.DataError(
                f"no SentencePiece model ({error!r:.80}); {path}; fetch it again"
            ) from error
        self.size = self._model.vocab_size()
        self.eos_id = self._model.eos_id()
        self.eos_ids: tuple[int, ...] = (self.eos_id,)
        self.bos_id = self._model.bos_id() if self._model.bos_id() >= 0 else None
        self.pad_id = max(self._model.pad_id(), 0)
        pieces = (self._model.id_to_piece(i) for i in range(self.size))
        ids = {piece: i for i, piece in enumerate(pieces)}
        self._controls = {p: i for p, i in ids.items() if self._model.is_control(i)}
        names = (f"<extra_id_{n}>" for n in range(self.size))
        self.sentinel_ids = tuple(ids[name] for name in names if name in ids)
        self.adds_space = self._model.encode("a", out_type=str)[0].startswith("\u2581")
        if self.eos_id < 0:
            raise errors.DataError(f"no end-of-text piece; {path}; train it with eos_id=1")

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `encode_with_offsets`, in half the time."""
        return self._model.encode(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts."""
        return self._model.encode(texts, num_threads=1)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns ids and, for each, the range of characters of `text` it covers."""
        mapping = self._model.encode_as_offset_mapping(text)
        return mapping["ids"], mapping["offsets"]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text; control ids give nothing."""
        return self._model.decode([int(i) for i in ids if 0 <= i < self.size])

    def control_id(self, name: str) -> int | None:
        """Returns the id of a control piece; user-defined markers count as such."""
        return self._controls.get(name)

    def piece(self, token_id: int) -> str:
        """Returns how one id looks, for people: control tokens by name, spaces as they are."""
        return self._model.id_to_piece(int(token_id)).replace("\u2581", " ")

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the model file."""
        return hashlib.sha256(self._bytes).hexdigest()


def _sealed(model: bytes) -> bytes:
    """Makes user-defined pieces that are `MARKER`s control pieces of a SentencePiece model.

    SentencePiece reads user-defined pieces out of any text, control pieces out of none. One byte
    of each such piece changes: its type, from 4 to 3 (sentencepiece_model.proto).
    """
    out = bytearray(model)
    for number, begin, end in _fields(model, 0, len(model)):
        if number != 1:  # ModelProto.pieces
            continue
        text, place = b"", None
        for field, first, last in _fields(model, begin, end):
            if field == 1:
                text = model[first:last]
            elif field == 3 and model[first] == 4:
                place = first
        if place is not None and MARKER.fullmatch(text.decode("utf-8")):
            out[place] = 3
    return bytes(out)


def _fields(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, first byte, byte after the last) of a protocol buffer message."""

    def varint(at):
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at
            if shift > 63:
                raise ValueError("no protocol buffer")

    while begin < end:
        key, begin = varint(begin)
        kind = key & 7
        if kind == 2:
            length, begin = varint(begin)
            after = begin + length
        elif kind == 0:
            after = varint(begin)[1]
        else:
            after = begin + {1: 8, 5: 4}[kind]
        yield key >> 3, begin, after
        begin = after


class Bytes:
    """UTF-8 bytes as ids 3..258 after pad 0, end 1, beginning 2 (ByT5, arXiv:2105.13626)."""

    name = "bytes"
    pad_id, eos_id = 0, 1
    bos_id: int | None = 2
    eos_ids: tuple[int, ...] = (1,)
    sentinel_ids: tuple[int, ...] = tuple(range(259, 291))
    size = 291
    adds_space = False

    def encode(self, text: str) -> list[int]:
        """Returns ids."""
        return [byte + 3 for byte in text.encode("utf-8")]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts."""
        return [self.encode(text) for text in texts]

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

    def control_id(self, name: str) -> int | None:
        """Returns the id of <pad>, </s> or <s>."""
        return {"<pad>": 0, "</s>": 1, "<s>": 2}.get(name)

    def piece(self, token_id: int) -> str:
        """Returns how one id looks, for people."""
        names = {0: "<pad>", 1: "</s>", 2: "<s>"}
        return names.get(int(token_id)) or self.decode([token_id]) or f"<{token_id}>"

    def fingerprint(self) -> str:
        """Returns a constant: the ids never change."""
        return hashlib.sha256(b"bytes, pad 0, eos 1, bos 2, 32 sentinels").hexdigest()


def load(name: str) -> Vocabulary:
    """Opens a vocabulary.

    Args:
      name: "bytes"; the path of a SentencePiece model or of a tokenizer.json (beside it, its
        tokenizer_config.json, special_tokens_map.json and generation_config.json are read); or
        a directory that holds tokenizer.json, else one .model file. A path is looked for from the
        working directory, then beside the package (so that `tasks/village/vocab.model` is found
        from anywhere).

    Raises:
      ConfigError: no such file.
      DataError: it is no tokenizer.
    """
    if name == "bytes":
        return Bytes()
    try:
        path = paths.find(name)
    except FileNotFoundError as error:
        raise errors.ConfigError(f"{error}; vocabulary; check the path") from error
    if path.is_dir():
        models = [p for p in (path / "tokenizer.json", *sorted(path.glob("*.model"))) if p.exists()]
        if not models:
            raise errors.ConfigError(
                f"neither tokenizer.json nor a .model file in {path}; vocabulary; "
                "give the directory of a tokenizer"
            )
        path = models[0]
    return opened(path, path.absolute())


@functools.lru_cache(maxsize=8)
def opened(path: pathlib.Path, absolute: pathlib.Path) -> Vocabulary:
    """Opens a file once; `absolute` tells a relative path from that of another directory."""
    if path.suffix == ".json":
        from t5sft.data import tokenizer_json

        return tokenizer_json.TokenizerJson(path)
    return SentencePiece(path)
