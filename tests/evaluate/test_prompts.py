"""What is asked, and where an answer ends, are those of training (class 18 of the known bugs)."""

import types

import pytest
from oracles import vocabularies

from t5sft.data import prepare, preprocess, records, templates
from t5sft.evaluate import generating
from t5sft.generate import decode
from t5sft.parallel import mesh


@pytest.mark.parametrize("template", ["chatml", "llama3", "gemma", "alpaca"])
def test_generate_asks_and_ends_as_training_does(monkeypatch, template):
    vocabulary, seen = vocabularies.byte_pairs(), {}

    def stream(model, params, prompts, *, eos_id, **options):
        seen.update(prompts=prompts, eos_id=eos_id)
        yield 0, decode.Generated(vocabulary.encode("Yes."), True)

    monkeypatch.setattr(decode, "stream", stream)
    monkeypatch.setattr(generating.opening, "load", lambda _, ready: ready)
    monkeypatch.setattr(generating.opening, "identity", lambda path: {"weights": path})
    model = types.SimpleNamespace(
        layout="decoder", vocab_size=10**6, dtype="float32", max_position_embeddings=None
    )
    data = prepare.Data(task="none", vocabulary=str(vocabularies.directory()), template=template)
    got = generating.generate(
        model=model, data=data, model_dir="x", prompt="Hi?", mesh=mesh.make_mesh()
    )
    assert got["responses"] == [{"prompt": "Hi?", "response": "Yes.", "finished": True}]
    record = records.Record((records.Message("user", "Hi?"), records.Message("assistant", "Yes.")))
    trained = preprocess.instruction(
        record, vocabulary, templates.get(template), layout="decoder"
    ).targets
    (asked,) = seen["prompts"]
    assert trained.ids[: len(asked)] == asked
    answer = [i for i, weight in zip(trained.ids, trained.weights, strict=True) if weight > 0]
    assert answer == [*vocabulary.encode("Yes."), seen["eos_id"][0]]
    assert vocabulary.eos_id in seen["eos_id"]
