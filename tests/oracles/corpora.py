"""What the samples of every corpus hold, task by task."""

import pathlib

SAMPLES = pathlib.Path(__file__).parents[1] / "tasks" / "samples"
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
