"""Every module of public data: registers without it, says what to fetch, reads its sample."""

import importlib
import os
import pathlib
import re
from collections import Counter

import pytest

from t5sft import errors
from t5sft.data import define, prepare, preprocess, records, sources, templates, vocab

SAMPLES = pathlib.Path(__file__).parent / "samples"
COT = "aqua creak ecqa gsm8k qasc sensemaking strategyqa".split()
# module -> task -> split -> how many records its sample gives, and what it drops
EXPECTED = {
    "alpaca_variants": {
        "alpaca_cleaned": {"train": {"record": 1}},
        "alpaca_gpt4": {"train": {"record": 1, "empty response": 1}},
    },
    "dolly": {"dolly": {"train": {"record": 2, "empty response": 1}}},
    "flan_cot": {
        **{f"cot_{name}": {"train": {"record": 1}} for name in COT},
        **{f"cot_{name}_inversion": {"train": {"record": 1}} for name in COT},
        **{f"cot_{name}_few_shot": {"train": {"no exemplar fits": 1}} for name in COT},
        "cot_gsm8k": {"train": {"record": 3}},
        "cot_gsm8k_inversion": {"train": {"record": 3}},
        "cot_gsm8k_few_shot": {"train": {"record": 3}},
    },
    "gsm8k": {
        "gsm8k": {"train": {"record": 2, "no number after ####": 1}, "test": {"record": 1}},
        "gsm8k_annotated": {"train": {"record": 2, "no number after ####": 1}},
    },
    "openhermes": {
        "openhermes": {"train": {"record": 2}},
        "gpteacher": {"train": {"record": 1}},
    },
    "preferences": {
        "hh_rlhf": {"train": {"record": 1}},
        "dpo_pairs": {"train": {"record": 1}},
        "kto_labels": {"train": {"record": 2}},
        "ukp_arguments": {"train": {"record": 1}},
    },
    "self_instruct": {
        "self_instruct_seeds": {"train": {"record": 3}},
        "self_instruct_generated": {"train": {"record": 1, "empty response": 1}},
        "self_instruct_users": {"test": {"record": 1}},
    },
    "sharegpt": {
        "sharegpt": {
            "train": {
                "record": 2,
                "turns do not alternate": 1,
                "no user turn": 1,
            }
        },
        "sharegpt_tools": {"train": {"record": 1}},
    },
    "super_natural_instructions": {
        "super_natural_instructions": {"train": {"record": 2}, "test": {"record": 1}},
        "super_natural_instructions_definition": {"train": {"record": 2}, "test": {"record": 1}},
        "natural_instructions_v1": {"train": {"record": 2}},
    },
    "t0": {"t0": {"train": {"record": 3, "empty response": 1}}},
    "tulu3": {
        "tulu3": {"train": {"record": 3}},
        "tulu3_no_robots": {"train": {"record": 1}},
        "tulu3_flan_v2": {"train": {"record": 2}},
        "tulu3_aya": {"train": {}},
    },
    "flan": {
        "flan_rte": {"train": {"record": 3}, "validation": {"record": 1}},
        "flan_paws_wiki": {"train": {"record": 2}, "validation": {"record": 1}},
        "flan_trivia_qa": {"train": {"record": 4}, "validation": {"record": 1}},
        "flan_rte_zs_opt": {"train": {"record": 3}},
        "flan_rte_zs_noopt": {"train": {"record": 3}},
        "flan_rte_fs_opt": {"train": {"record": 3}},
        "flan_trivia_qa_fs_noopt": {"train": {"record": 4}, "validation": {"record": 1}},
        "flan_rte_seen": {"train": {"record": 3}},
        "flan_rte_unseen": {"validation": {"record": 1}},
    },
    "promptsource": {
        "promptsource_trees_Is_it_evergreen_": {
            "train": {"record": 2},
            "validation": {"record": 1},
        },
        "promptsource_trees_name_it": {"train": {"record": 2}},
    },
}
CASES = [
    (module, task, split)
    for module, tasks in EXPECTED.items()
    for task, splits in tasks.items()
    for split in splits
]
WITH_REGISTER = {"flan": "flan", "promptsource": "promptsource"}  # module -> a mixture it makes


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
