"""transformers' side of generate.py, run by a Python that has it: one generation per line read.

python generate_peer.py ASKED.json; the model is random, of the sizes of step.py.
"""

import json
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

torch.set_num_threads(2)
torch.manual_seed(0)
with open(sys.argv[1]) as file:
    asked = json.load(file)
if asked["layout"] == "decoder":
    config = LlamaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False,
        pad_token_id=0, eos_token_id=1, bos_token_id=3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float().eval()
else:
    config = T5Config(
        vocab_size=8192, d_model=256, d_kv=64, d_ff=1024, num_layers=4, num_decoder_layers=4,
        num_heads=4, feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).float().eval()
ids = torch.tensor(asked["prompts"])
options = {"max_new_tokens": asked["num"], "min_new_tokens": asked["num"], "do_sample": False}
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    told = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    before = ids.shape[1] if asked["layout"] == "decoder" else 1
    assert out.shape == (len(ids), before + asked["num"]), out.shape
    print(json.dumps(told), flush=True)
