"""Run by test_transformers.py, in an environment with torch: greedy answers as JSON."""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

asked = json.loads(sys.argv[1])
told = []
for folder in asked["folders"]:
    config = json.load(open(f"{folder}/config.json"))
    is_seq2seq = config.get("is_encoder_decoder", False)
    kind = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
    model, info = kind.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, use_safetensors=True
    )
    model.eval()
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    generation = GenerationConfig(
        max_new_tokens=asked["num"],
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        # The cache of 5.23 has as many layers as the encoder, whatever the decoder has.
        use_cache=not is_seq2seq,
        decoder_start_token_id=0 if is_seq2seq else None,
    )
    answers = []
    for prompt in asked["prompts"]:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, generation_config=generation)[0].tolist()
        answers.append(out[1:] if is_seq2seq else out[len(prompt) :])
    keys = {name: sorted(map(str, info[f"{name}_keys"])) for name in ("missing", "unexpected")}
    told.append({"answers": answers, "mismatched": sorted(info["mismatched_keys"]), **keys})
print(json.dumps(told))
