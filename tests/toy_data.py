"""Settings and files of the toy tasks, for tests of how data is prepared."""

import json

from t5sft.data import prepare

TOY = prepare.Data(
    task="toy", vocabulary="bytes", modules=("toy_task",), encoder_length=32, decoder_length=16
)


def write_rows(path, rows):
    """Writes (inputs, targets) as a file of the task toy_file."""
    path.write_text(json.dumps([{"inputs": a, "targets": b} for a, b in rows]))
    return str(path)
