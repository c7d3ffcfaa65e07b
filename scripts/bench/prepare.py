"""Preparing, by t5sft and by SeqIO's own pipeline of the same task, in turn on the same machine.

python scripts/bench/prepare.py [FILE] [--examples 20000] [--repeats 2] [--vocabulary MODEL]

FILE has rows of instruction, input, output (JSON or JSONL, plain or compressed); without one, rows
as long as Alpaca's are made from the village's sentences. Both tokenise with the same SentencePiece
model, add the end token, bring examples to rows of 512 + 512 and pack them.

  t5sft   the SeqIO task read, rendered, tokenised in worker processes, written as a cache, packed
  seqio   texts already rendered, in memory -> tokenize, append_eos_after_trim,
          EncDecFeatureConverter(pack=True), as numpy batches

Imports are left out on both sides (TensorFlow takes 5 to 10 s on both). CPU seconds are those of
all processes of a side: on a busy machine they say more than the clock. Last line: JSON.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

LENGTHS = {"encoder_length": 512, "decoder_length": 512}
SIDES = {"inputs": 512, "targets": 512}


def write_rows(path: pathlib.Path, num: int) -> None:
    """Writes rows whose lengths in words are about Alpaca's."""
    from t5sft.tasks import village_words as words

    rng = random.Random(0)
    names = [word for value in vars(words).values() if isinstance(value, tuple | list | dict)
             for word in value if isinstance(word, str)]  # fmt: skip

    def text(mean: float) -> str:
        count = max(1, round(rng.lognormvariate(0, 0.8) * mean))
        return " ".join(rng.choice(names) for _ in range(count)).capitalize() + "."

    with open(path, "w", encoding="utf-8") as file:
        for _ in range(num):
            context = text(12) if rng.random() < 0.4 else ""
            row = {"instruction": text(10), "input": context, "output": text(40)}
            file.write(json.dumps(row) + "\n")


def settings(path: str, vocabulary: str, cache: str):
    """Returns the run both sides are measured on."""
    from t5sft.data import prepare

    return prepare.Data("alpaca", modules=("t5sft.tasks.alpaca",), data=path, template="alpaca",
                        vocabulary=vocabulary, cache_dir=cache, **LENGTHS)  # fmt: skip


def processor_seconds() -> float:
    """Returns the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def ours(path: str, vocabulary: str, cache: str) -> tuple[int, float, float]:
    """Returns examples, seconds and CPU seconds of t5sft."""
    from t5sft.data import cache as cache_lib
    from t5sft.data import packing, prepare, sources, units
    from t5sft.data.preparing import workshop

    data = settings(path, vocabulary, cache)
    with workshop.Pool(None) as pool:
        sources.load_seqio()
        prepare.register(data)
        start, spent = time.monotonic(), processor_seconds()
        split = cache_lib.read_split(
            prepare.prepare_split(data, "encoder_decoder", "train", pool=pool)
        )
        rows = packing.pack(units.Units(split.tasks, "encoder_decoder").costs, (512, 512))
        seconds = time.monotonic() - start
    assert sum(len(row) for row in rows) == split.card["examples"]
    return split.card["read"], seconds, processor_seconds() - spent


def theirs(path: str, vocabulary: str, cache: str) -> tuple[int, float, float]:
    """Returns examples, seconds and CPU seconds of SeqIO."""
    from t5sft.data import define, prepare, sources, templates

    seqio = sources.load_seqio()
    import tensorflow as tf

    data = settings(path, vocabulary, cache)
    prepare.register(data)
    template = templates.get(data.template)
    texts = {"inputs": [], "targets": []}
    for _, record in define.read_records("alpaca", "train"):
        if isinstance(record, Exception):
            continue
        pieces = [piece for piece in templates.render(record, template) if not piece.is_control]
        last = max(i for i, piece in enumerate(pieces) if piece.starts_response)
        texts["inputs"].append("".join(piece.text for piece in pieces[:last]))
        texts["targets"].append("".join(piece.text for piece in pieces[last:]))
    model = seqio.SentencePieceVocabulary(vocabulary, extra_ids=0)
    seqio.TaskRegistry.add(
        "theirs",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(texts),
            splits=["train"],
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={side: seqio.Feature(model, add_eos=True) for side in SIDES},
    )
    start, spent = time.monotonic(), processor_seconds()
    converter = seqio.EncDecFeatureConverter(pack=True)
    task = seqio.get_mixture_or_task("theirs")
    ds = task.get_dataset(SIDES, split="train", shuffle=False, num_epochs=1)
    packed = sum(
        int(batch["decoder_segment_ids"].max(axis=1).sum())
        for batch in converter(ds, SIDES).batch(64).as_numpy_iterator()
    )
    seconds = time.monotonic() - start
    assert packed == len(texts["inputs"])
    return packed, seconds, processor_seconds() - spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", help="rows of instruction, input, output")
    parser.add_argument("--examples", type=int, default=20_000, help="rows to make without a file")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--vocabulary", default="tasks/village/vocab.model")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        measure = {"ours": ours, "theirs": theirs}[flags.side]
        print(json.dumps(measure(flags.file, flags.vocabulary, flags.cache)))
        return
    speeds: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        path = flags.file or f"{folder}/rows.jsonl"
        if not flags.file:
            write_rows(pathlib.Path(path), flags.examples)
        for turn in range(flags.repeats):
            for side, found in speeds.items():
                cache = f"{folder}/{turn}"
                command = [sys.executable, __file__, path, "--side", side, "--cache", cache]
                num, seconds, spent = _run([*command, "--vocabulary", flags.vocabulary])
                found.append((num / seconds, num / spent))
                line = f"{num:,} examples in {seconds:.1f} s ({num / seconds:,.0f} a second)"
                print(f"{side:6} {line}, {spent:.1f} CPU s", file=sys.stderr)
    medians = {
        side: [statistics.median(column) for column in zip(*found, strict=True)]
        for side, found in speeds.items()
    }
    names = ("examples_per_second", "examples_per_cpu_second")
    told: dict = {}
    for i, name in enumerate(names):
        told[name] = {side: round(values[i]) for side, values in medians.items()}
        told[name]["ratio"] = round(medians["ours"][i] / medians["theirs"][i], 2)
    print(json.dumps(told))


def _run(command: list[str]) -> list[float]:
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.strip().rpartition("\n")[2])


if __name__ == "__main__":
    main()
