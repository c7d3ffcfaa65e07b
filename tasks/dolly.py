"""Dolly: 15K instructions and answers written by Databricks' employees, in eight categories.

Conover et al. 2023, huggingface.co/datasets/databricks/databricks-dolly-15k; 15,011 rows; CC BY-SA
3.0. Rows of instruction, context (or input), response (or output) and category. Every 50th row is
"validation".
Example: {"instruction": "Is it a fruit?", "context": "Kale", "response": "No.", "category": "qa"}

Data: the folder dolly/ of T5SFT_DATA (or --data DIRECTORY) with its .json or .jsonl files.
"""

from t5sft.data import corpora
from t5sft.evaluate import scores

CORPUS = corpora.Corpus(
    "dolly",
    "fetch databricks-dolly-15k.jsonl (huggingface.co/datasets/databricks/databricks-dolly-15k)",
    corpora.held_out("*.json*"),
)


def read(row, where, index) -> corpora.Made:
    """Reads one row, under the names of the original or of its Alpaca-like copies."""
    del index
    context, answer = (
        theirs if theirs in row else ours
        for ours, theirs in (("context", "input"), ("response", "output"))
    )
    return corpora.answered(
        corpora.text(row, "instruction", where),
        corpora.text(row, answer, where),
        context=corpora.text(row, context, where),
        category=corpora.text(row, "category", where) if "category" in row else "",
    )


corpora.add_task("dolly", CORPUS, read, metric_fns=[scores.exact_match])
