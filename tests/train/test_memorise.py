"""What a model has learnt by heart, it answers, and then stops by itself."""

import pytest
from golden import stream
from oracles import vocabularies

from t5sft.data import converters, preprocess, records, templates, vocab
from t5sft.generate import decode
from t5sft.models import decoder, t5
from t5sft.objectives import sft
from t5sft.parallel import rules as rules_lib
from t5sft.train import optim

SIZES = dict(vocab_size=292, emb_dim=32, mlp_dim=32, num_heads=2, head_dim=8)
MODELS = [
    t5.T5(num_encoder_layers=1, num_decoder_layers=1, **SIZES),
    decoder.Decoder(num_layers=2, num_kv_heads=1, **SIZES),
]
CHATML = decoder.Decoder(num_layers=2, num_kv_heads=1, **SIZES | {"vocab_size": 420})
LENGTHS = {"encoder_length": 24, "decoder_length": 64}
QUESTIONS = ["red", "a cat", "7", "why?", "Mara", "two words", "ä", "end"]
ANSWERS = ["blue", "a dog runs", "eight", "b", "sells the cup", "one", "öö", "end."]


@pytest.mark.parametrize(
    "model, name",
    [(MODELS[0], "lines"), (MODELS[1], "lines"), (CHATML, "chatml")],
    ids=["encoder_decoder", "decoder", "chatml"],
)
def test_memorised_answers_come_back_and_stop_by_themselves(model, name):
    """Of ChatML the end of turn stops an answer, which is not the vocabulary's end of text."""
    is_chatml = name == "chatml"
    vocabulary = vocabularies.byte_pairs() if is_chatml else vocab.load("bytes")
    template = templates.get(name)
    ends = preprocess.end_ids(template, vocabulary)
    assert is_chatml == (ends[0] != vocabulary.eos_id)
    asked = [
        records.Record((records.Message("user", q), records.Message("assistant", a)))
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    layout = model.layout
    made = [preprocess.instruction(r, vocabulary, template, layout=layout) for r in asked]
    rows = [made[0:2], made[2:4], made[4:5], made[5:6], made[6:8]]
    if layout == "decoder":
        batch = converters.decoder(rows, decoder_length=LENGTHS["decoder_length"])
    else:
        batch = converters.encoder_decoder(rows, start_id=vocabulary.pad_id, **LENGTHS)
    rate = optim.schedule(peak=1e-2, total_steps=300, warmup_steps=10, shape="constant")
    optimizer = optim.adamw(learning_rate=rate)
    program = stream.build(
        model,
        sft.sft,
        optimizer,
        mesh=stream.mesh("1"),
        rules=rules_lib.DEFAULT_RULES,
        batch_shapes=converters.shapes(layout, len(rows), **LENGTHS),
        microbatches=1,
        seed=0,
    )
    now = stream.start(model, optimizer, program.like)
    for _ in range(300):
        now, sums = program.update(now, batch)
        if float(sums["loss"][0]) / float(sums["loss"][1]) < 0.003:
            break
    answers = decode.generate(
        model,
        now.params,
        [preprocess.prompt(r, vocabulary, template, layout=layout) for r in asked],
        max_new_tokens=24,
        eos_id=ends,
        start_id=vocabulary.pad_id,
    )
    assert [vocabulary.decode(one.tokens) for one in answers] == ANSWERS
    assert all(one.finished for one in answers)
