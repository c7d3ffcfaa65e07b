"""T0 / P3: prompted examples of public sets, as JSON lines.

Sanh et al. 2021 (arXiv:2110.08207); P3, huggingface.co/datasets/bigscience/P3, Apache 2.0 (the sets
under it carry their own licences). Millions of rows in 2,000 templates; also the 50K prompted
examples of github.com/yizhongw/self-instruct (data/finetuning/t0_train_50k). Rows have template,
prompt and completion, or P3's inputs_pretokenized and targets_pretokenized; an end mark
`<|endoftext|>` is taken off. Every 50th row is "validation".

Some templates have one single answer (the data card warns of low label entropy). To write prompts
yourself from rows and promptsource's YAML, see tasks/promptsource.py.
Example: {"template": "t", "prompt": "Is ice cold?", "completion": "yes<|endoftext|>"}

Data: the folder t0/ of T5SFT_DATA (or --data DIRECTORY) with .jsonl files, .gz or .zst.
"""

from t5sft.data import corpora
from t5sft.evaluate import scores

END = "<|endoftext|>"
CORPUS = corpora.Corpus(
    "t0",
    "fetch prompted examples (huggingface.co/datasets/bigscience/P3, or t0_train_50k of "
    "github.com/yizhongw/self-instruct) as JSON lines",
    corpora.held_out("**/*.jsonl*"),
)


def read(row, where, index) -> corpora.Made:
    """Reads one prompted example."""
    del index
    prompt, target = "prompt", "completion"
    if prompt not in row:
        prompt, target = "inputs_pretokenized", "targets_pretokenized"
    template = row.get("template")
    return corpora.answered(
        corpora.text(row, prompt, where).strip(),
        corpora.text(row, target, where).strip().removesuffix(END).strip(),
        template=template if isinstance(template, str) else "",
    )


corpora.add_task("t0", CORPUS, read, metric_fns=[scores.exact_match])
