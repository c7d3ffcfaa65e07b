"""File: rows of your own files, whatever their format: `--data FILE`, a glob, or a folder.

The name tells the kind of file (JSON, JSONL, CSV, TSV, Parquet, ArrayRecord, TFRecord, text; .gz,
.zst), the fields tell the format: `t5sft.data.readers` lists them. Where they do not, name it
(FORMAT = 'kto') or map the columns (COLUMNS = {'prompt': 'question', 'completion': 'answer'}).
Files called train, validation (valid, val, dev, eval) and test are these splits; if none is for
validation, every 50th row of "train" is.
Example: {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
"""

from t5sft import errors
from t5sft.data import define, prepare, sources
from t5sft.evaluate import scores


def register(data: prepare.Data):
    """Registers the SeqIO task `file`."""
    if data.data is None:
        raise errors.ConfigError("no data file; task file; give --data FILE, a glob or a folder")
    define.add_task(
        "file",
        sources.from_data(data),
        fields=("record",),
        metric_fns=[scores.exact_match],
        replace=True,
    )
