"""What a run learns from, as plain values: everything that decides its tokens."""

import dataclasses
import pathlib
import typing
from collections.abc import Mapping

from t5sft import errors
from t5sft.data import files as files_lib
from t5sft.data import policies, templates


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run learns from, as plain values.

    Args:
      task: a SeqIO task or mixture.
      modules: Python modules that register it; one with a function `register(data)` is called
        with these settings.
      data: what the task reads: a file, a glob, or a directory, which then takes the place of
        $T5SFT_DATA; or None.
      format: how a row of `data` is read; None: told by its fields.
      columns: our field -> the column of `data` that holds it.
      on_bad_record: "error" stops at an unreadable row, "skip" counts and keeps it aside.
      vocabulary: "bytes" or the path of a SentencePiece model.
      template: a name in `templates.TEMPLATES`.
      objective: how a record becomes tokens.
      learn: which tokens of a decoder's conversation learn; prompt_weight: loss weight of the rest.
      candidates: "all" answers of a preference, with their labels, or the "best", without.
      system: the system prompt of conversations without one; None: the template's own default.
      encoder_length: S, row length of the encoder (encoder-decoder only).
      decoder_length: T, row length of the decoder.
      too_long: what happens to an example longer than a row.
      unlearnt: what happens to an example that has no token to learn.
      noise_density: share of the tokens that span corruption takes out; seed: of which ones.
      streaming: "train" is tokenised as it is trained on (endless or too large): see `stream`.
      cache_dir: where prepared data lies; default $T5SFT_CACHE or ~/.cache/t5sft.
    """

    task: str
    vocabulary: str
    modules: tuple[str, ...] = ()
    data: str | None = None
    format: str | None = None
    columns: Mapping[str, str] | None = None
    on_bad_record: files_lib.OnBadRecord = "error"
    template: str = "plain"
    objective: policies.Objective = "instruction"
    learn: policies.Learn = "all_assistant"
    prompt_weight: float = 0.0
    candidates: policies.Candidates = "all"
    system: str | None = None
    encoder_length: int = 512
    decoder_length: int = 512
    too_long: policies.TooLong = "drop"
    unlearnt: policies.Unlearnt = "drop"
    noise_density: float = 0.15
    seed: int = 0
    streaming: bool = False
    cache_dir: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "modules", tuple(self.modules))
        for field, allowed in (
            ("objective", policies.Objective),
            ("learn", policies.Learn),
            ("candidates", policies.Candidates),
            ("too_long", policies.TooLong),
            ("on_bad_record", files_lib.OnBadRecord),
            ("unlearnt", policies.Unlearnt),
        ):
            known, value = typing.get_args(allowed), getattr(self, field)
            if value not in known:
                raise errors.ConfigError(
                    f"unknown {field} {value!r}{errors.suggest(str(value), known)}; Data.{field}; "
                    f"use one of {', '.join(known)}"
                )
        if self.too_long == "split_text" and self.objective == "instruction":
            raise errors.ConfigError(
                "too_long 'split_text' cuts plain texts, for objective 'language_model' or "
                "'span_corruption'; Data.too_long; conversations have 'split_turns'"
            )
        templates.get(self.template)
        if self.data is None or pathlib.Path(self.data).expanduser().is_dir():
            return
        if not files_lib.below(self.data):
            raise errors.ConfigError(f"no data file {self.data}; --data; check the path")
