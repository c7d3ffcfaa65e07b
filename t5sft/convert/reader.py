"""A config.json of transformers, which tells what is missing in it, wrong or unknown."""

from collections.abc import Mapping
from typing import Any

from t5sft import errors

# Their name of an activation -> ours; the last of several is the one written.
ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
    "relu": "relu",
    "swish": "silu",
    "silu": "silu",
}
_REQUIRED = object()
_MOST = 2**31 - 1  # of a size
# Tensors of each layer are named, tables of each head made, before files are compared with them.
_MOST_BY_END = {"layers": 10_000, "head_dim": 1 << 16}


class Reader:
    """The values of a config.json, or of its class where it has none.

    Args:
      config: the parsed file.
      family: its model_type, for messages.
      defaults: of the configuration class.
    """

    def __init__(
        self, config: Mapping[str, Any], family: str, defaults: Mapping[str, Any] | None = None
    ):
        self.config = {**(defaults or {}), **config}
        self.family = family
        method = self.config.get("quantization_config")
        if method:
            raise self.error(f"its weights are quantised: {method!s:.100}", "take the plain ones")

    def with_(self, config: Mapping[str, Any]) -> "Reader":
        """Returns a reader in which the values of a part of the file come first."""
        if not isinstance(config, Mapping):
            raise self.error(f"{config!r:.80} stands where an object should", "correct the file")
        return Reader(config, self.family, self.config)

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value; `default` also where the file says null."""
        value = self.config.get(key)
        return default if value is None else value

    def size(self, key: str, default: Any = _REQUIRED) -> Any:
        """Returns a whole number from 1 to what any model may have."""
        value = self._value(key, default)
        most = next((n for end, n in _MOST_BY_END.items() if key.endswith(end)), _MOST)
        if value is not default and (type(value) is not int or not 1 <= value <= most):
            what = f"{key} = {value!r:.80} is no positive integer up to {most:,}"
            raise self.error(what, "correct the file")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> Any:
        """Returns a positive number, as a float."""
        value = self._value(key, default)
        if value is default:
            return value
        if type(value) not in (int, float) or not value > 0:
            raise self.error(f"{key} = {value!r:.80} is no positive number", "correct the file")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Returns a list of positive numbers."""
        value = self._value(key, _REQUIRED)
        good = isinstance(value, list) and all(type(v) in (int, float) and v > 0 for v in value)
        if not good:
            raise self.error(f"{key} = {value!r:.80} is no list of numbers", "correct the file")
        return tuple(map(float, value))

    def flag(self, key: str, default: bool = False) -> bool:
        """Returns true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} = {value!r:.80} is not true or false", "correct the file")
        return value

    def activation(self, key: str) -> str:
        """Returns our name of the activation that a key names."""
        return self.known(key, self._value(key, _REQUIRED), ACTIVATIONS)

    def known(self, key: str, value: Any, names: Mapping[str, Any]) -> Any:
        """Returns what a name stands for."""
        if not isinstance(value, str) or value not in names:
            raise self.error(
                f"{key} = {value!r:.80} is a feature that t5sft lacks", f"known: {', '.join(names)}"
            )
        return names[value]

    def refuse(self, *keys: str) -> None:
        """Raises where a feature is on that we lack."""
        for key in keys:
            if self.get(key):
                what = f"{key} = {self.config[key]!r:.80} is a feature that t5sft lacks"
                raise self.error(what, "convert a model without it")

    def error(self, what: str, todo: str) -> errors.ConfigError:
        """Returns the error of this file."""
        return errors.ConfigError(f"{what}; config.json, model_type {self.family!r}; {todo}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is _REQUIRED:
            raise self.error(f"{key} is missing", "take the config.json that came with the weights")
        return value


def activation(name: str) -> str:
    """Returns their name of our activation."""
    return {ours: theirs for theirs, ours in ACTIVATIONS.items()}[name]
