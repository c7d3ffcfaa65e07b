"""The model's own FLOPs, beside what is counted in a compiled program."""

from t5sft.models.flops import step_flops, tokens

__all__ = ["step_flops", "tokens"]
