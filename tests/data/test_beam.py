"""Beam makes the parts that a local preparation makes, with the same functions."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from t5sft.data import beam, cache, prepare, reading
from t5sft.data.preparing import parts

TOY = prepare.Data(
    task="toy", vocabulary="bytes", modules=("toy_task",), encoder_length=32, decoder_length=16
)
HAS_BEAM = importlib.util.find_spec("apache_beam") is not None


def same(first: pathlib.Path, second: pathlib.Path):
    names = sorted(path.relative_to(first) for path in first.rglob("*.npy"))
    assert names == sorted(path.relative_to(second) for path in second.rglob("*.npy")) and names
    for name in names:
        np.testing.assert_array_equal(np.load(first / name), np.load(second / name))


def test_parts_made_by_beams_functions_are_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 16)
    here, there = (dataclasses.replace(TOY, cache_dir=str(tmp_path / p)) for p in ("a", "b"))
    expected = prepare.prepare_split(here, "encoder_decoder", "train")
    root, stem = (
        prepare.finding.root(there),
        prepare.finding.stem(there, "encoder_decoder", "train"),
    )
    directory = root / f".{stem}.parts"
    counts = []
    for task in ("toy_copy", "toy_reverse"):
        items = list(beam.read(task, there, "train", str(directory)))
        counts += [beam.tokenise(item, there, "encoder_decoder") for item in items]
        assert not list(beam.read(task, there, "train", str(directory)))  # nothing is made twice
    assert beam.add(counts)["read"] == 64
    monkeypatch.setattr(parts, "make", None)
    target = prepare.prepare_split(there, "encoder_decoder", "train")
    assert target.name == expected.name
    same(expected, target)
    assert cache.read_split(target).card["examples"] == 64


@pytest.mark.slow
@pytest.mark.skipif(not HAS_BEAM, reason="apache-beam lives in an environment of its own")
def test_a_pipeline_gives_what_a_local_preparation_gives(tmp_path):
    here, there = (dataclasses.replace(TOY, cache_dir=str(tmp_path / p)) for p in ("a", "b"))
    settings = tmp_path / "settings.json"
    settings.write_text(
        json.dumps({"layout": "encoder_decoder", "data": dataclasses.asdict(there)})
    )
    tests = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-m", "t5sft.data.beam", str(settings), "--splits", "train"]
    places = [str(folder) for folder in (tests.parent, tests)]
    folders = {"PYTHONPATH": os.pathsep.join(places), "PATH": os.environ["PATH"]}
    ran = subprocess.run(command, capture_output=True, text=True, env=folders)
    assert ran.returncode == 0, ran.stderr
    same(
        prepare.prepare_split(here, "encoder_decoder", "train"),
        pathlib.Path(ran.stdout.split()[-1]),
    )
