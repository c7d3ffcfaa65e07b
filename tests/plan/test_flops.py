"""FLOPs of a model's definition: what its compiled forward pass multiplies, less what is masked."""

import jax
import pytest

from t5sft.data import converters
from t5sft.models import decoder, t5
from t5sft.plan import collectives, count, flops

SIZES = dict(vocab_size=96, emb_dim=32, mlp_dim=48, num_heads=4, head_dim=8)
ENCODER, DECODER, ROWS = 24, 16, 2


def made(kind, **fields):
    layers = (
        dict(num_encoder_layers=2, num_decoder_layers=3)
        if kind is t5.T5
        else dict(num_layers=3, num_kv_heads=2, rope_theta=10_000.0)
    )
    return kind(**SIZES, **layers, **fields)


@pytest.mark.parametrize(
    "model, masked",
    [
        (made(decoder.Decoder), 3 * (16 * 15 // 2)),
        (made(decoder.Decoder, logits_via_embedding=True), 3 * (16 * 15 // 2)),
        # A window of 4: 13 places lack the keys beyond, 1 + ... + 12 of them.
        (
            made(decoder.Decoder, layer_pattern=("sliding", "full"), sliding_window=4),
            3 * (16 * 15 // 2) + 2 * (12 * 13 // 2),
        ),
        (made(t5.T5), 3 * (16 * 15 // 2)),
    ],
)
def test_agrees_with_the_compiled_forward_pass(model, masked):
    shapes = converters.shapes(model.layout, ROWS, encoder_length=ENCODER, decoder_length=DECODER)

    def forward(params, batch):
        return model.unembed(params, model.hidden(params, batch))

    text = jax.jit(forward).lower(model.abstract()[0], shapes).compile().as_text()
    got = count.count(text, collectives.Mesh(("data",), (1,)))
    unseen = ROWS * masked * 4 * model.num_heads * model.head_dim
    assert flops.step_flops(model, shapes) == 3 * (got.matmul_flops - unseen)


def test_tokens_of_both_sides():
    lengths = dict(encoder_length=24, decoder_length=16)
    assert flops.tokens(converters.shapes("encoder_decoder", 2, **lengths)) == 80
    assert flops.tokens(converters.shapes("decoder", 2, **lengths)) == 32
