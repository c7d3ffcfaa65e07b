"""ShareGPT: conversations with ChatGPT that users shared, Vicuna's training data.

Chiang et al. 2023 (lmsys.org/blog/2023-03-30-vicuna); about 90K conversations in public copies, the
70K of Vicuna were not released; no licence stated, text of OpenAI's models. Cleaned by
conversations.py. Every 50th conversation is "validation".
Example: {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}

Data: the folder conversations/ of T5SFT_DATA (or --data DIRECTORY) with sharegpt*.json or .jsonl.
Long conversations: too_long = "split_turns".

SeqIO tasks:
  sharegpt         conversations of two sides, cleaned
  sharegpt_tools   glaive*.json: tool calls and their results, as they are (Glaive, Apache 2.0)
"""

from t5sft.data import corpora
from t5sft.evaluate import scores
from t5sft.tasks import conversations

CORPUS = corpora.Corpus(
    "conversations",
    "fetch a ShareGPT file, for instance ShareGPT_V3_unfiltered_cleaned_split.json "
    "(huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered), as sharegpt.json",
    corpora.held_out("sharegpt*.json*"),
)
TOOLS = corpora.Corpus(
    "conversations",
    "fetch glaive_toolcall_en_demo.json of github.com/hiyouga/LLaMA-Factory (data/), or all of "
    "huggingface.co/datasets/glaiveai/glaive-function-calling-v2, as glaive.json",
    corpora.held_out("glaive*.json*"),
)

read = corpora.reader("sharegpt", conversations.clean)
corpora.add_task("sharegpt", CORPUS, read, metric_fns=[scores.exact_match])
corpora.add_task(
    "sharegpt_tools", TOOLS, corpora.reader("sharegpt"), metric_fns=[scores.exact_match]
)
