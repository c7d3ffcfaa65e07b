"""Every module of public data: registers without it, says what to fetch, reads its sample."""

import importlib
import os
import re
from collections import Counter

import pytest
from oracles.corpora import CASES, EXPECTED, SAMPLES, WITH_REGISTER

from t5sft import errors
from t5sft.data import define, prepare, preprocess, records, sources, templates, vocab


@pytest.fixture
def samples(monkeypatch):
    monkeypatch.setenv("T5SFT_DATA", str(SAMPLES))


def load(module, task=None):
    loaded = importlib.import_module(f"t5sft.tasks.{module}")
    if hasattr(loaded, "register"):
        loaded.register(prepare.Data(task=task or WITH_REGISTER[module], vocabulary="bytes"))
    return loaded


def made(task, split):
    return list(sources.load_seqio().TaskRegistry.get(task).source.make_records(split))


@pytest.mark.parametrize(("module", "task", "split"), CASES)
def test_reads_its_sample(module, task, split, samples):
    load(module)
    got = made(task, split)
    told = Counter(str(x) if isinstance(x, records.Dropped) else "record" for x in got)
    assert told == EXPECTED[module][task][split]


@pytest.mark.parametrize("module", EXPECTED)
def test_says_where_it_is_from_how_large_it_is_and_under_which_licence(module):
    text = " ".join(importlib.import_module(f"t5sft.tasks.{module}").__doc__.split())
    assert "Data: the folder" in text and "of T5SFT_DATA (or --data DIRECTORY)" in text
    assert re.search(r"arXiv:\d{4}\.\d{5}|\b20\d\d\b", text)
    assert re.search(r"huggingface\.co|github\.com|[\w-]+/[\w-]+ |lmsys\.org", text)
    assert re.search(r"Apache 2\.0|MIT|CC BY|ODC-BY|no licence", text)
    assert re.search(r"\d{2},\d{3}|\d{2}K|\b\d{2,3}\b|million", text)
    assert re.search(r"rows|tasks|problems|pairs|conversations|templates|instructions", text)


@pytest.mark.parametrize(
    ("module", "task", "split"), [case for case in CASES if case[0] not in ("promptsource",)]
)
def test_without_the_data_it_says_what_to_fetch_and_where_to_put_it(
    module, task, split, tmp_path, monkeypatch
):
    importlib.import_module(f"t5sft.tasks.{module}")
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path))
    source = sources.load_seqio().TaskRegistry.get(task).source
    message = rf"no data of \w+; looked for {tmp_path}/.*; (fetch|write) .*T5SFT_DATA"
    with pytest.raises(errors.DataError, match=message):
        next(iter(source.make_records(split)))
    with pytest.raises(errors.DataError, match=message):
        source.list_shards(split)


@pytest.mark.parametrize("module", WITH_REGISTER)
def test_a_mixture_of_nothing_says_what_to_fetch(module, tmp_path, monkeypatch):
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path))
    with pytest.raises(errors.DataError, match="(fetch|write) .*T5SFT_DATA"):
        load(module)


@pytest.mark.parametrize(("module", "task", "split"), CASES)
def test_every_file_read_is_told(module, task, split, samples):
    """What is prepared is named by the files it was made of."""
    load(module)
    shards = sources.load_seqio().TaskRegistry.get(task).source.list_shards(split)
    assert shards and all(os.path.isfile(shard) for shard in shards)


@pytest.mark.parametrize(("module", "task", "split"), CASES)
def test_records_come_back_from_json(module, task, split, samples):
    load(module)
    for record in made(task, split):
        if isinstance(record, records.Dropped):
            with pytest.raises(records.Dropped, match=str(record)):
                records.from_json(records.to_json(record))
        else:
            assert records.from_json(records.to_json(record)) == record


@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
@pytest.mark.parametrize("module", EXPECTED)
def test_makes_examples_whose_learnt_bytes_are_the_answers(module, layout, samples):
    load(module)
    options = preprocess.Options(layout=layout, encoder_length=4096, decoder_length=4096)
    template, vocabulary = templates.get("chatml:text"), vocab.load("bytes")
    for task, splits in EXPECTED[module].items():
        for record in (x for split in splits for x in made(task, split)):
            if isinstance(record, records.Dropped):
                continue
            got = preprocess.examples(record, vocabulary, template, options)
            assert got.units and not got.counts.get("dropped")
            learnt = b""
            for example in (one for unit in got.units for one in unit):
                ids, weights = example.targets.ids, example.targets.weights
                text = [i for i, w in zip(ids, weights, strict=True) if w > 0]
                learnt += vocabulary.decode(text).encode()
            for one in records.alternatives(record):
                last = one.messages[-1]
                assert last.role == "assistant" and last.content.encode() in learnt


def test_errors_inside_the_pipeline_keep_their_words(tmp_path, monkeypatch):
    """A missing file is found when TensorFlow asks for the first example."""
    importlib.import_module("t5sft.tasks.gsm8k")
    monkeypatch.setenv("T5SFT_DATA", str(tmp_path))
    with pytest.raises(
        errors.DataError, match="no data of gsm8k; looked for .*; fetch train.jsonl"
    ):
        list(define.read_records("gsm8k", "train"))


def test_what_is_dropped_is_counted_where_records_are_read(samples):
    importlib.import_module("t5sft.tasks.gsm8k")
    got = list(define.read_records("gsm8k", "train"))
    assert [str(x) for _, x in got if isinstance(x, records.Dropped)] == ["no number after ####"]
    assert [x.number for _, x in got if isinstance(x, records.Record)] == [0, 1]
