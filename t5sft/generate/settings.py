"""How answers are decoded: all settings of the verbs generate and chat, checked before use."""

import dataclasses
from typing import Any

from t5sft import errors
from t5sft.generate import beam, sampling
from t5sft.models.attention import cache as cached


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Names and meanings as in `sampling.Sampler`, `beam.Beams` and `decode.stream`.

    Raises:
      ConfigError: a value out of its range, or two settings that exclude each other.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float | None = None
    beam_style: str = "t5x"
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0
    cache_dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_samples", "num_beams"):
            if not getattr(self, name) >= 1:
                self._reject(f"{name} = {getattr(self, name)}", "use 1 or more")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            what = f"min_new_tokens = {self.min_new_tokens}"
            self._reject(what, f"use 0 to max_new_tokens = {self.max_new_tokens}")
        if not 0 <= self.seed < 2**32:
            self._reject(f"seed = {self.seed}", "use 0 to 2^32 - 1")
        if "" in self.stop:
            self._reject("a stop string is empty", "leave it out")
        cached.check_dtype(self.cache_dtype)
        sampler = self._sampler()
        self._beams()
        if self.temperature == 0:
            for name in ("top_k", "top_p", "min_p"):
                if getattr(self, name) != getattr(sampling.Sampler(), name):
                    what = f"{name} = {getattr(self, name)} has no effect at temperature 0"
                    self._reject(what, "add a temperature, or leave it out")
        if self.num_beams > 1:
            self._check_beams(sampler)
            return
        for name in ("length_penalty", "beam_style"):
            if getattr(self, name) != getattr(type(self), name):
                what = f"{name} = {getattr(self, name)} has no effect without beams"
                self._reject(what, "add num_beams, or leave it out")
        if self.num_samples > 1 and self.temperature == 0:
            what = f"num_samples = {self.num_samples} at temperature 0 are all alike"
            self._reject(what, "add a temperature, or num_beams")

    def _check_beams(self, sampler: sampling.Sampler) -> None:
        for name, value in dataclasses.asdict(sampler).items():
            if value != getattr(sampling.Sampler(), name):
                what = f"num_beams = {self.num_beams} does not go with {name} = {value}"
                self._reject(what, "leave one of them out")
        if self.stop:
            self._reject("stop strings do not go with beams", "leave one of them out")
        if self.num_samples > self.num_beams:
            what = f"num_samples = {self.num_samples} is more than num_beams = {self.num_beams}"
            self._reject(what, f"use at most {self.num_beams}")

    def _beams(self) -> beam.Beams:
        return beam.Beams(
            num_beams=self.num_beams, length_penalty=self.length_penalty, style=self.beam_style
        )

    def _sampler(self) -> sampling.Sampler:
        return sampling.Sampler(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )

    @property
    def sampler(self) -> sampling.Sampler | beam.Beams:
        """What `decode.stream` takes."""
        if self.num_beams > 1:
            return self._beams()
        return self._sampler()

    def options(self) -> dict[str, Any]:
        """Arguments of `decode.stream`; `stop` needs a vocabulary and is not among them."""
        names = ("max_new_tokens", "min_new_tokens", "num_samples", "seed", "cache_dtype")
        return {"sampler": self.sampler, **{name: getattr(self, name) for name in names}}

    def _reject(self, what: str, todo: str) -> None:
        raise errors.ConfigError(f"{what}; generation; {todo}")
