"""Public files as they are in the world: every one reads, with its number of rows.

They are not part of the project: T5SFT_TEST_DATA names the folder that has them.
"""

import os
import pathlib
from collections import Counter

import pytest

from t5sft.data import files, readers, records

DATA = os.environ.get("T5SFT_TEST_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="T5SFT_TEST_DATA names no folder of public files")

COT = ("cot_tsv", None)
PAIRS = (None, {"prompt": "topic", "chosen": "chosen", "rejected": "rejected"})
FOUND = {  # pattern -> format and columns where the fields do not tell, records, dropped, mended
    "alpaca/alpaca_18k.json.gz": (None, None, 18669, {"empty response": 9}),
    "dolly/dolly_3k.json": (None, None, 2996, {}),
    "t0/t0_50k.jsonl.gz": (None, None, 47385, {}),
    "flan_cot/aqua_train.tsv": (*COT, 2728, {}),
    "flan_cot/creak_train.tsv": (*COT, 6915, {}),
    "flan_cot/ecqa_train.tsv": (*COT, 7112, {}),
    "flan_cot/gsm8k_train.tsv": (*COT, 7473, {}),
    "flan_cot/qasc_train.tsv": (*COT, 1084, {}),
    "flan_cot/sensemaking_train.tsv": (*COT, 6070, {}),
    "flan_cot/strategyqa_train.tsv": (*COT, 2061, {}),
    "gsm8k/train.jsonl": (None, None, 7473, {}),
    "gsm8k/test.jsonl": (None, None, 1319, {}),
    "self_instruct/seed_tasks.jsonl": (None, None, 175, {}),
    "self_instruct/user_oriented_instructions.jsonl": (None, None, 252, {}),
    "preference/hh_harmless_test.jsonl.gz": (
        None, None, 2308, {"empty response": 4, "mended: turns joined": 4}),
    "preference/dpo_en_300.json": (None, None, 300, {}),
    "preference/kto_en_300.json": (None, None, 300, {}),
    "preference/ukp_convincing_arguments.jsonl.gz": (*PAIRS, 8650, {}),
    "conversations/sharegpt_dummy.json": (None, None, 500, {}),
    "conversations/glaive_toolcall_300.json": (None, None, 300, {}),
    "gpteacher/codegen_instruct.json": (None, None, 4535, {}),
    "gpteacher/roleplay_instruct.json": (None, None, 1923, {}),
    "ifeval/input_data.jsonl": (None, None, 540, {}),
    "bbh/tasks/*.json": (None, None, 6511, {}),
    "mt_bench/question.jsonl": (None, None, 80, {}),
    "mt_bench/reference_answer_gpt4.jsonl": ("text", {"text": "choices.0.turns.0"}, 30, {}),
    "mt_bench/judge_prompts.jsonl": ("text", {"text": "prompt_template"}, 8, {}),
    "natural_instructions_v1": (None, None, 17257, {}),
}  # fmt: skip


@pytest.mark.parametrize("pattern", FOUND)
def test_reads(pattern):
    format, columns, kept, other = FOUND[pattern]
    counts: Counter[str] = Counter()
    header = readers.HEADERS.get(format or "")
    for where, row in files.read_rows(files.expand(f"{DATA}/{pattern}"), header=header):
        for made in readers.read_all(row, format, columns, where=where):
            if isinstance(made, records.Dropped):
                counts[str(made)] += 1
                continue
            counts["kept"] += 1
            if "mended" in made.metadata:
                counts[f"mended: {made.metadata['mended']}"] += 1
            assert records.from_json(records.to_json(made)) == made
    assert counts == {"kept": kept, **other}


def test_every_file_of_the_folder_is_read():
    """A file that is added is added here, too."""
    root = pathlib.Path(DATA or ".")
    listed = {path for pattern in FOUND for path in files.expand(root / pattern)}
    there = {
        path for path in root.rglob("*") if path.is_file() and path.suffix not in (".md", ".txt")
    }
    assert there == listed
