"""The published files, where T5SFT_TEST_DATA names a folder of them: every row is read."""

import importlib
import os
import pathlib
from collections import Counter

import pytest

from t5sft.data import records, sources

FOLDER = os.environ.get("T5SFT_TEST_DATA")
# (module, task) -> file below the folder, rows over all splits; some of them are dropped.
ROWS = {
    ("gsm8k", "gsm8k"): ("gsm8k/train.jsonl", 7_473 + 1_319),
    ("self_instruct", "self_instruct_seeds"): ("self_instruct/seed_tasks.jsonl", 175),
    ("self_instruct", "self_instruct_users"): (
        "self_instruct/user_oriented_instructions.jsonl",
        252,
    ),
    ("dolly", "dolly"): ("dolly/dolly_3k.json", 2_996),
    ("t0", "t0"): ("t0/t0_50k.jsonl.gz", 47_385),
    ("flan_cot", "cot_aqua"): ("flan_cot/aqua_train.tsv", 2_728),
    ("flan_cot", "cot_creak"): ("flan_cot/creak_train.tsv", 6_915),
    ("flan_cot", "cot_ecqa"): ("flan_cot/ecqa_train.tsv", 7_112),
    ("flan_cot", "cot_gsm8k_few_shot"): ("flan_cot/gsm8k_train.tsv", 7_473),
    ("flan_cot", "cot_qasc_inversion"): ("flan_cot/qasc_train.tsv", 1_084),
    ("flan_cot", "cot_sensemaking"): ("flan_cot/sensemaking_train.tsv", 6_070),
    ("flan_cot", "cot_strategyqa"): ("flan_cot/strategyqa_train.tsv", 2_061),
    ("sharegpt", "sharegpt"): ("conversations/sharegpt_dummy.json", 500),
    ("sharegpt", "sharegpt_tools"): ("conversations/glaive_toolcall_300.json", 300),
    ("openhermes", "gpteacher"): ("gpteacher/codegen_instruct.json", 6_458),
    ("preferences", "hh_rlhf"): ("preference/hh_harmless_test.jsonl.gz", 2_312),
    ("preferences", "dpo_pairs"): ("preference/dpo_en_300.json", 300),
    ("preferences", "kto_labels"): ("preference/kto_en_300.json", 300),
    ("preferences", "ukp_arguments"): ("preference/ukp_convincing_arguments.jsonl.gz", 8_650),
    ("super_natural_instructions", "natural_instructions_v1"): (
        "natural_instructions_v1/subtask003_mctaco_question_generation_event_duration.json.gz",
        17_257,
    ),
}
DROPPED = {"hh_rlhf": Counter({"empty response": 4})}


@pytest.mark.parametrize(("module", "task"), ROWS)
def test_every_row_is_read_or_dropped_by_name(module, task, monkeypatch):
    path, num_rows = ROWS[module, task]
    if not FOLDER or not (pathlib.Path(FOLDER) / path).exists():
        pytest.skip("T5SFT_TEST_DATA has no such file")
    monkeypatch.setenv("T5SFT_DATA", FOLDER)
    importlib.import_module(f"t5sft.tasks.{module}")
    source = sources.load_seqio().TaskRegistry.get(task).source
    got = [x for split in source.splits for x in source.make_records(split)]
    assert len(got) == num_rows
    reasons = Counter(str(x) for x in got if isinstance(x, records.Dropped))
    assert reasons == DROPPED.get(task, Counter())
    kept = [x for x in got if isinstance(x, records.Record)]
    assert all(
        one.messages[-1].role == "assistant" for x in kept for one in records.alternatives(x)
    )
