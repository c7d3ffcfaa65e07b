"""OpenHermes 2.5: a million conversations, most of them written by GPT-4, from sixteen sets.

Teknium 2023, huggingface.co/datasets/teknium/OpenHermes-2.5; 1,001,551 rows in ShareGPT's form with
a system turn; no licence of its own, the sets' licences hold. Cleaned by conversations.py. Every
50th conversation is "validation". Its parent GPTeacher (github.com/teknium1/GPTeacher, MIT) is
rows of instruction, input, response.
Example: {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}

Data: the folder openhermes/ of T5SFT_DATA (or --data DIRECTORY) with openhermes2_5.json; for
gpteacher the folder gpteacher/ with its .json files. Long conversations: too_long = "split_turns".
"""

from t5sft.data import corpora
from t5sft.evaluate import scores
from t5sft.tasks import conversations

CORPUS = corpora.Corpus(
    "openhermes",
    "fetch openhermes2_5.json of huggingface.co/datasets/teknium/OpenHermes-2.5",
    corpora.held_out("*.json*"),
)
GPTEACHER = corpora.Corpus(
    "gpteacher",
    "fetch the instruct .json files of github.com/teknium1/GPTeacher",
    corpora.held_out("*.json*"),
)

read = corpora.reader("sharegpt", conversations.clean)


def read_gpteacher(row, where, index) -> corpora.Made:
    """Reads one row of GPTeacher."""
    del index
    return corpora.answered(
        corpora.text(row, "instruction", where),
        corpora.text(row, "response", where),
        context=corpora.text(row, "input", where),
    )


corpora.add_task("openhermes", CORPUS, read, metric_fns=[scores.exact_match])
corpora.add_task("gpteacher", GPTEACHER, read_gpteacher, metric_fns=[scores.exact_match])
