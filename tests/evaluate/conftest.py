"""The verbs without a model."""

import pytest
from oracles import parrot

from t5sft.evaluate import opening
from t5sft.generate import decode


@pytest.fixture
def fake(monkeypatch):
    """`parrot` in place of models and weights; the list of what it was asked."""
    calls = []
    monkeypatch.setattr(decode, "stream", parrot.stream(calls))
    monkeypatch.setattr(opening, "load", lambda _, ready: ready)
    monkeypatch.setattr(opening, "identity", lambda path: {"weights": path})
    return calls
