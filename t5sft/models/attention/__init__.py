"""Attention of packed rows by one interface: who sees whom, by which implementation.

A model asks `view` what its tokens see, and gives the answer to `Attention`; which implementation
runs is the model's field `attention` and the devices' platform (`choice.py`).
"""

from t5sft.models.attention.bias import buckets, row_bias, slot_bias
from t5sft.models.attention.choice import NAMES, view
from t5sft.models.attention.module import Attention
from t5sft.models.attention.reference import mix, scores
from t5sft.models.attention.views import (
    MASKED,
    AnyView,
    Either,
    Packed,
    View,
    choose,
    packed_mask,
)

__all__ = [
    "MASKED",
    "NAMES",
    "AnyView",
    "Attention",
    "Either",
    "Packed",
    "View",
    "buckets",
    "choose",
    "mix",
    "packed_mask",
    "row_bias",
    "scores",
    "slot_bias",
    "view",
]
