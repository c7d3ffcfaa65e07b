"""Preparing on Apache Beam: for corpora that one machine takes too long to tokenise.

Beam's workers do what the processes of `workshop` do, with the same functions, into the same parts
on a file system that all of them share; what is then prepared from the parts is the same, byte for
byte, and is found by the same name. Each task is read by one worker, in its own order, and its
chunks are tokenised by all of them.

apache-beam 2.77 holds protobuf below 7, for which sentencepiece 0.2.3 is built: give it a virtual
environment of its own, with sentencepiece 0.2.2. (Of versions only the first two numbers are part
of a prepared split's name.)

  python -m venv beam && beam/bin/pip install t5sft apache-beam 'sentencepiece<0.2.3'
  beam/bin/python -m t5sft.data.beam SETTINGS.json --splits train,validation [--runner ...]

SETTINGS.json: {"layout": "decoder", "data": {"task": "flan", "vocabulary": ..., ...}}, the fields
of `prepare.Data`; cache_dir is the shared directory. Other flags are Beam's own.
"""

import argparse
import json
import logging
import pathlib
import sys
from collections.abc import Iterator, Sequence

from t5sft.data import cache, prepare, reading, vocab
from t5sft.data.preparing import finding, parts


def read(task: str, data: prepare.Data, split: str, directory: str) -> Iterator[tuple]:
    """Yields (task, path of the part, chunk as bytes) of the chunks that are not there yet."""
    prepare.register(data)
    folder = pathlib.Path(directory, cache.folder(task))
    folder.mkdir(parents=True, exist_ok=True)
    lengths = (data.encoder_length, data.decoder_length)
    vocabulary = vocab.load(data.vocabulary)
    for chunk in reading.chunks(
        task, split, lengths=lengths, seed=data.seed, vocabulary=vocabulary
    ):
        name, payload = parts.name(chunk)
        path = folder / f"{name}.npz"
        if parts.read_counts(path) is None:
            yield task, str(path), payload


def tokenise(item: tuple, data: prepare.Data, layout: str) -> dict[str, int]:
    """Makes one part; returns what it counts."""
    task, path, payload = item
    return parts.make(payload, path, task, data, layout)


def add(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    """Sums counts."""
    total: dict[str, int] = {}
    for one in counts:
        for key, value in one.items():
            total[key] = total.get(key, 0) + value
    return total


def make_parts(data: prepare.Data, layout: str, split: str, options) -> dict[str, int]:
    """Runs the pipeline for one split; returns what was counted by the parts it made."""
    import apache_beam as beam

    from t5sft.data import define

    prepare.register(data)
    tasks = list(define.rates_of_split(data.task, split))
    root, stem = finding.root(data), finding.stem(data, layout, split)
    directory = root / f".{stem}.parts"
    directory.mkdir(parents=True, exist_ok=True)
    counted = directory / "counted"
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | "tasks" >> beam.Create(tasks)
            | "read" >> beam.FlatMap(read, data, split, str(directory))
            | "spread" >> beam.Reshuffle()
            | "tokenise" >> beam.Map(tokenise, data, layout)
            | "count" >> beam.CombineGlobally(add)
            | "write" >> beam.Map(lambda total: counted.write_text(json.dumps(total)))
        )
    return json.loads(counted.read_text())


def main(arguments: Sequence[str]) -> None:
    """Prepares the splits that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("settings", type=pathlib.Path)
    parser.add_argument("--splits", default="train,validation")
    flags, rest = parser.parse_known_args(arguments)
    from apache_beam.options.pipeline_options import PipelineOptions

    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    request = json.loads(flags.settings.read_text())
    data, layout = prepare.Data(**request["data"]), request["layout"]
    for split in flags.splits.split(","):
        ready, why = finding.find(data, layout, split)
        if ready is None:
            print(f"preparing {data.task}, {split}: {why}", file=sys.stderr)
            made = make_parts(data, layout, split, PipelineOptions(list(rest)))
            print(f"made by Beam: {made}", file=sys.stderr)
            ready = prepare.prepare_split(data, layout, split)
        print(ready)


if __name__ == "__main__":
    main(sys.argv[1:])
