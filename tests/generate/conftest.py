"""Programs of these tests are compiled without LLVM's optimisations: three times as fast."""

import pytest
from oracles import tiny

from t5sft.generate import beam, slots


def _quick(function, **options):
    return tiny.jit(function.__wrapped__, static_argnames="program", **options)


QUICK = {
    (slots, "begin"): _quick(slots.begin),
    (slots, "refill"): _quick(slots.refill),
    (slots, "advance"): _quick(slots.advance),
    (beam, "_search"): _quick(beam._search),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for (module, name), function in QUICK.items():
        monkeypatch.setattr(module, name, function)
