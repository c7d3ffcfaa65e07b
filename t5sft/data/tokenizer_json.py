"""Hugging Face's tokenizer.json, through the `tokenizers` library.

The library reads added tokens (`<|im_end|>`) out of any text. Here texts go through a copy of the
tokenizer that does not know them; the template alone puts them in, by id.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from t5sft import errors, paths
from t5sft.data import vocab

_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
# End tokens of well-known families, for a tokenizer.json that comes alone.
_ENDS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eot_id|>", "<|im_end|>")


class TokenizerJson:
    """A tokenizer.json and the settings beside it."""

    def __init__(self, path: pathlib.Path):
        # One process, one core: whoever prepares on several cores starts several processes.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        self.name = str(path)
        files = [path, *(path.parent / name for name in _BESIDE)]
        self._bytes = [file.read_bytes() for file in files if file.exists()]
        try:
            values = json.loads(self._bytes[0])
            self._whole = tokenizers.Tokenizer.from_str(json.dumps(values))
            added = values.get("added_tokens") or []
            markers = [t for t in added if t["special"] or _is_marker(t["content"])]
            texts = json.dumps(_without(values, markers))
            self._texts = tokenizers.Tokenizer.from_str(texts)
        except Exception as error:  # the library raises plain Exception
            raise errors.DataError(
                f"no usable tokenizer ({error}); {path}; fetch the file again"
            ) from error
        self._whole.no_padding()
        self._controls = {token["content"]: token["id"] for token in markers}
        self._control_ids = frozenset(self._controls.values())
        self.size = max(self._whole.get_vocab(with_added_tokens=True).values()) + 1
        self.sentinel_ids = tuple(
            self._controls[f"<extra_id_{n}>"]
            for n in range(self.size)
            if f"<extra_id_{n}>" in self._controls
        )
        self._special(path.parent)
        first = self._texts.encode("a", add_special_tokens=False)
        self.adds_space = bool(first.tokens) and first.tokens[0][:1] in ("\u2581", "\u0120")

    def _special(self, directory: pathlib.Path):
        """Finds the ids that begin and end texts."""
        config = read_settings(directory)
        generation = _read(directory / "generation_config.json")
        eos = self._id_of(config.get("eos_token"))
        also = generation.get("eos_token_id")
        more = [i for i in (also if isinstance(also, list) else [also]) if isinstance(i, int)]
        if eos is None and not more:
            more = [self._controls[name] for name in _ENDS if name in self._controls][:1]
        ends = [*([] if eos is None else [eos]), *more]
        if not ends:
            raise errors.DataError(
                f"no end-of-text token known; {self.name}; put the model's tokenizer_config.json "
                "beside it"
            )
        self.eos_id, self.eos_ids = ends[0], tuple(dict.fromkeys(ends))
        # What the tokenizer itself puts in front of every text, not what a setting calls bos.
        around = self._whole.encode("a", add_special_tokens=True).ids
        plain = self._whole.encode("a", add_special_tokens=False).ids
        bos = self._id_of(config.get("bos_token"))
        begins = around[0] if around[0] in self._control_ids and around[0] != plain[0] else None
        self.bos_id = bos if config.get("add_bos_token") is True else begins
        pad = self._id_of(config.get("pad_token"))
        if pad is None and isinstance(generation.get("pad_token_id"), int):
            pad = generation["pad_token_id"]
        self.pad_id = self.eos_id if pad is None else pad

    def _id_of(self, token: Any) -> int | None:
        """Returns the id of a token as settings name it: text, or a mapping with `content`."""
        name = token.get("content") if isinstance(token, dict) else token
        return self._whole.token_to_id(name) if isinstance(name, str) else None

    def encode(self, text: str) -> list[int]:
        """Returns ids."""
        return self._texts.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts; the library spreads them over the cores."""
        encoded = self._texts.encode_batch_fast(texts, add_special_tokens=False)
        return [one.ids for one in encoded]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns ids and, for each, the range of characters of `text` it covers."""
        encoded = self._texts.encode(text, add_special_tokens=False)
        return encoded.ids, encoded.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text; control ids give nothing."""
        kept = [int(i) for i in ids if 0 <= i < self.size and int(i) not in self._control_ids]
        return self._whole.decode(kept, skip_special_tokens=False)

    def control_id(self, name: str) -> int | None:
        """Returns the id of a special token, or of an added one that is a marker."""
        return self._controls.get(name)

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of all control tokens."""
        return tuple(self._controls)

    def piece(self, token_id: int) -> str:
        """Returns how one id looks, for people: control tokens by name."""
        token = int(token_id)
        if token in self._control_ids:
            return str(self._whole.id_to_token(token))
        return self._whole.decode([token], skip_special_tokens=False) or f"<{token}>"

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the tokenizer and the settings beside it."""
        return hashlib.sha256(b"\0".join(self._bytes)).hexdigest()


def read_settings(directory: pathlib.Path) -> dict:
    """Returns what special_tokens_map.json and tokenizer_config.json say; the latter wins."""
    merged = _read(directory / "special_tokens_map.json")
    config = _read(directory / "tokenizer_config.json")
    return merged | {k: v for k, v in config.items() if v is not None or k not in merged}


def control_names(directory: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of the control tokens that the files of a tokenizer tell."""
    added = _read(directory / "tokenizer.json").get("added_tokens") or []
    more = _read(directory / "tokenizer_config.json").get("added_tokens_decoder") or {}
    try:
        tokens = [*added, *more.values()]
        names = [t["content"] for t in tokens if t.get("special") or _is_marker(t["content"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise errors.DataError(
            f"its added tokens are no objects with a text `content` ({error!r:.80}); {directory}; "
            "fetch the files again"
        ) from error
    return tuple(dict.fromkeys(names))


def _is_marker(name: str) -> bool:
    return vocab.MARKER.fullmatch(name) is not None


def _read(path: pathlib.Path) -> dict:
    if not path.exists():
        return {}
    try:
        return paths.read_object(path)
    except ValueError as error:
        what = f"not JSON ({str(error)[:80]})"
        raise errors.DataError(f"{what}; {path}; fetch the file again") from error


def _without(values: dict, markers: list[dict]) -> dict:
    """Returns the tokenizer without its markers, and without what it puts around texts."""
    model = dict(values["model"])
    # A word that merges lead to, and the unknown word, must keep their names.
    fixed = {m.replace(" ", "") if isinstance(m, str) else "".join(m) for m in _merges(model)}
    fixed |= {model["unk_token"]} if model.get("unk_token") else set()
    names = sorted({token["content"] for token in markers})
    # No text spells the other name, unless it holds a character that is no character. Without any
    # name a marker would leave a gap, and the added tokens after it would get other ids.
    hidden = {n: f"\U0010ffff{i}\U0010ffff" for i, n in enumerate(names) if n not in fixed}
    # A marker may be a word of the model too, and be found without being "added".
    if isinstance(model.get("vocab"), list):  # Unigram
        model["vocab"] = [[hidden.get(word, word), score] for word, score in model["vocab"]]
    elif isinstance(model.get("vocab"), dict):
        model["vocab"] = {hidden.get(word, word): i for word, i in model["vocab"].items()}
    kept = [
        token | {"content": hidden.get(token["content"], token["content"])}
        for token in values.get("added_tokens") or []
        if token["content"] not in names or token["content"] in hidden
    ]
    # Only the start of a whole text gets a space of its own ("first": Mistral, newer Llama 2), and
    # a control token stands there. Every stretch after one would look like a start.
    splitter = json.loads(json.dumps(values.get("pre_tokenizer")))
    for one in (splitter or {}).get("pretokenizers", [splitter]):
        if one and one.get("prepend_scheme") == "first":
            one["prepend_scheme"] = "never"
    values = values | {"pre_tokenizer": splitter}
    changed = {"added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
    return values | changed | {"model": model}


def _merges(model: dict) -> list:
    return model.get("merges") or []
