"""Prompts are padded to few shapes, in length and in number."""

import numpy as np
import pytest
from oracles import tiny

from t5sft.generate import beam, decode, prompts, slots
from t5sft.parallel import mesh, rules


@pytest.mark.parametrize(
    "count, rows, of_four", [(1, 1, 4), (2, 2, 4), (5, 8, 8), (32, 32, 32), (33, 32, 32)]
)
def test_few_prompts_are_few_rows(count, rows, of_four):
    assert prompts.num_rows(count, 32, None, rules.DEFAULT_RULES) == rows
    four = mesh.make_mesh(fsdp=4, devices=mesh.jax.devices()[:4])
    assert prompts.num_rows(count, 32, four, rules.DEFAULT_RULES) == of_four
    six = mesh.make_mesh(fsdp=6, devices=mesh.jax.devices()[:6])
    assert prompts.num_rows(count, 30, six, rules.DEFAULT_RULES) % 6 == 0


def test_a_set_of_two_does_not_pay_for_a_batch_of_32(monkeypatch):
    """It was filled up with 30 rows that nobody had asked."""
    seen = []
    begin, search = slots.begin, beam._search
    monkeypatch.setattr(
        slots, "begin", lambda p, given, *a, **o: seen.append(given) or begin(p, given, *a, **o)
    )
    monkeypatch.setattr(
        beam, "_search", lambda p, given, *a, **o: seen.append(given) or search(p, given, *a, **o)
    )
    model = tiny.DECODER
    options = dict(max_new_tokens=3, eos_id=-1)
    asked = [[7, 8, 9], list(range(6, 26))]
    few = decode.generate(model, tiny.hot(model), asked, batch_size=32, **options)
    assert few == decode.generate(model, tiny.hot(model), asked, batch_size=2, **options)
    beams = beam.Beams(num_beams=2)
    decode.generate(model, tiny.hot(model), asked, batch_size=32, sampler=beams, **options)
    assert [len(given["tokens"]) for given in seen] == [2, 2, 2]
    assert np.all(~seen[0]["ignored"])
