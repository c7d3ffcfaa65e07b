"""Conversations: the cleaning rules of Vicuna's ShareGPT data (lm-sys/FastChat, fastchat/data).

The reader removes what precedes the first human turn (a system message stays) and what follows the
last answer, and drops a conversation with an empty turn. FastChat also drops one whose turns do not
alternate, which the reader would mend by joining them. Long conversations are cut between turns by
`too_long = "split_turns"`, which knows their tokens: FastChat's splitting to 2,048 tokens.
"""

from t5sft.data import records


def clean(record: records.Record) -> records.Record | records.Dropped:
    """Drops a conversation in which one side speaks twice in a row."""
    if "turns joined" in record.metadata.get("mended", ""):
        return records.Dropped("turns do not alternate")
    return record
