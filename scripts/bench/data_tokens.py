"""How many rows become examples in a second of one core: rendered, tokenised, weighed, fitted.

    python scripts/bench/data_tokens.py --data alpaca_data.json --vocabulary spiece.model
        [--template alpaca] [--rows 20000]

Prints rows and tokens per CPU second, beside what the vocabulary alone takes for the same texts.
"""

import argparse
import gc
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from t5sft.data import files, preprocess, readers, records, templates, vocab  # noqa: E402

CHUNK = 256


def main():
    """Reads, then measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--vocabulary", required=True)
    parser.add_argument("--template", default="alpaca")
    parser.add_argument("--rows", type=int, default=20_000)
    asked = parser.parse_args()
    rows = []
    for where, row in files.read_rows(files.expand(asked.data)):
        try:
            rows.append(readers.read(row, None, where=where))
        except records.Dropped:
            continue
        if len(rows) == asked.rows:
            break
    vocabulary, template = vocab.load(asked.vocabulary), templates.get(asked.template)
    options = preprocess.Options("decoder", decoder_length=4096)
    gc.disable()  # the rows themselves would be searched again and again
    begin, tokens = time.process_time(), 0
    for first in range(0, len(rows), CHUNK):
        for made in preprocess.batch(rows[first : first + CHUNK], vocabulary, template, options):
            tokens += made.counts.get("tokens", 0)
    seconds = time.process_time() - begin
    texts = [
        "".join(piece.text for piece in templates.render(row, template) if not piece.is_control)
        for row in rows
    ]
    begin = time.process_time()
    vocabulary.encode_all(texts)
    alone = time.process_time() - begin
    figures = {
        "rows": len(rows),
        "rows_per_cpu_second": round(len(rows) / seconds),
        "tokens_per_cpu_second": round(tokens / seconds),
        "rows_per_cpu_second_of_the_vocabulary_alone": round(len(rows) / alone),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
