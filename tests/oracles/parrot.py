"""A model that repeats the last word of what it was given, for tests of the verbs around it."""

from t5sft.data import prepare, vocab
from t5sft.generate import decode
from t5sft.models import decoder, t5

BYTES = vocab.load("bytes")
DATA = prepare.Data(task="toy", vocabulary="bytes", modules=("toy_task",), template="lines")
SIZES = dict(vocab_size=292, emb_dim=16, mlp_dim=16, num_heads=2, head_dim=8)
T5 = t5.T5(num_encoder_layers=1, num_decoder_layers=1, **SIZES)
DECODER = decoder.Decoder(num_layers=1, num_kv_heads=1, **SIZES)


def stream(calls):
    """Stands in for `decode.stream`, the last prompt first; `calls` gets what it was asked."""

    def stream(model, params, prompts, *, max_new_tokens, num_samples, row_seeds, **options):
        calls.append({"prompts": len(prompts), "seeds": list(row_seeds), **options})
        for i in reversed(range(len(prompts))):
            for n in range(num_samples):
                word = BYTES.decode(prompts[i]).split()[-1] + "?" * n
                tokens = BYTES.encode(word)
                stop = options.get("stop")
                count = stop.find(tokens) if stop else None
                if options.get("watch"):
                    options["watch"](i, tokens[:2])
                finished = len(tokens) <= max_new_tokens
                answer = decode.Generated(tokens[: count or max_new_tokens], finished)
                yield i * num_samples + n, answer

    return stream
