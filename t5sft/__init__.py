"""Instruction tuning of encoder-decoder and decoder language models on JAX."""

__version__ = "0.1.0"
