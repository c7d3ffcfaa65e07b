"""Alpaca: instructions with answers written by text-davinci-003 from 175 seed tasks.

Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca; 52,002 rows; data licence CC BY-NC 4.0.
Any file of these fields will do (JSON, JSONL, CSV, Parquet ..., also compressed), a glob or a
folder: `--data FILE`. Every 50th row is held out as "validation".
Example: {"instruction": "Name two primes.", "input": "", "output": "2 and 3."}
"""

from t5sft import errors
from t5sft.data import define, prepare, sources
from t5sft.evaluate import scores


def register(data: prepare.Data):
    """Registers the SeqIO task `alpaca` over files."""
    if data.data is None:
        raise errors.ConfigError(
            "no data file; task alpaca; give --data alpaca_data.json "
            "(github.com/tatsu-lab/stanford_alpaca), or any file of instruction, input, output"
        )
    define.add_task(
        "alpaca",
        sources.from_data(data, "alpaca"),
        fields=("record",),
        metric_fns=[scores.exact_match],
        replace=True,
    )
