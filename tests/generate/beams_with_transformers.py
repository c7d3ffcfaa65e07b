"""Run by test_beams_transformers.py, in an environment with torch: beams and scores as JSON."""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

asked = json.loads(sys.argv[1])
told = []
for folder, ends in zip(asked["folders"], asked["ends"], strict=True):
    is_seq2seq = json.load(open(f"{folder}/config.json")).get("is_encoder_decoder", False)
    kind = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    found = []
    for case in asked["cases"]:
        generation = GenerationConfig(
            num_return_sequences=case["num_beams"],
            do_sample=False,
            early_stopping=False,
            pad_token_id=0,
            # The cache of 5.23 has as many layers as the encoder, whatever the decoder has.
            use_cache=not is_seq2seq,
            decoder_start_token_id=0 if is_seq2seq else None,
            return_dict_in_generate=True,
            output_scores=True,
            eos_token_id=ends,
            **case,
        )
        for prompt in asked["prompts"]:
            ids = torch.tensor([prompt])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=generation
            )
            begin = 1 if is_seq2seq else len(prompt)
            found.append([out.sequences[:, begin:].tolist(), out.sequences_scores.tolist()])
    told.append(found)
print(json.dumps(told))
