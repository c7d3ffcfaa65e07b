"""The village: a small closed world whose instruction tasks a tiny model can learn in minutes.

The mixture is built in the manner of FLAN (Wei et al. 2021, arXiv:2109.01652, section 2.1): tasks
in clusters, ten wordings a task, one cluster held out. All text is made here, from seeds; nothing
is downloaded.
Example: examples("past_tense", "train", 1)
  [{"sentence": "Mara sells the cup.", "answer": "Mara sold the cup."}]
"""

import hashlib
import json
import random

from t5sft.tasks import village_reading, village_writing
from t5sft.tasks.village_almanac import plain_text, repeated_lists

__all__ = ["CLUSTERS", "HELD_OUT_CLUSTER", "SPLITS", "examples", "plain_text", "repeated_lists"]

CLUSTERS = {
    "classification": ("sentiment", "topic", "mention"),
    "extraction": ("find_animal", "list_names"),
    "question_answering": (
        "who_question", "where_question", "colour_question", "boolean_question",
    ),
    "transformation": ("capitals", "past_tense", "plural", "replace_word", "reverse_list"),
    "sorting_and_counting": ("sort_numbers", "sort_names", "smallest_number", "count_items"),
    "arithmetic": ("add_amounts", "sum_problem", "difference_problem", "compare_amounts"),
    "formatting": ("bullet_list", "numbered_list", "record_lines", "json_line"),
    "word_knowledge": ("word_category", "odd_one_out"),
    "natural_language_inference": ("entailment", "judgement"),
}  # fmt: skip
HELD_OUT_CLUSTER = "natural_language_inference"
SPLITS = ("train", "validation")

_VALIDATION_SHARE = 0.1
_MAX_TRIES = 5_000  # in vain, one after another, until a task counts as exhausted
_BLOCK = 18  # turns shuffled together: a multiple of 2, 3, 9 and 18, by which makers divide
# Elsewhere the options are only a choice of answers; here two examples may differ in nothing else.
_OPTIONS_ARE_CONTENT = ("word_category", "odd_one_out")


def _maker(task):
    known = [name for names in CLUSTERS.values() for name in names]
    if task not in known:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(known)}")
    module = village_reading if hasattr(village_reading, task) else village_writing
    return getattr(module, task)


def _content(task, fields):
    """What makes two examples the same: all but the answer and the order of the options."""
    content = {k: v for k, v in fields.items() if k not in ("answer", "options_", "choices")}
    if task in _OPTIONS_ARE_CONTENT:
        content["options_"] = sorted(fields["options_"].splitlines())
    return json.dumps([task, content], sort_keys=True)


def split_of(content: str) -> str:
    """Assigns content to a split by its hash, so that the splits are disjoint by construction."""
    digest = hashlib.sha256(content.encode()).digest()
    return "validation" if digest[0] < 256 * _VALIDATION_SHARE else "train"


def examples(task: str, split: str, num: int) -> list[dict[str, str]]:
    """Makes the first `num` examples of a task; a larger `num` only adds examples at the end.

    Fields are those of the task's templates; "answer" is always there. Tasks with options also
    have "options_", a block as in FLAN, and "choices", the same options as a phrase. No example
    comes twice, none is in both splits, and answers of tasks with options are balanced.

    Args:
      task: a name of CLUSTERS.
      split: "train" or "validation".
      num: how many; every task has at least 2,000 for train and 100 for validation.

    Raises:
      ValueError: unknown task or split, or the task has fewer examples than `num`.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected train or validation")
    make = _maker(task)
    source = random.Random(f"village/{task}/{split}")
    made, seen, tries, turns = [], set(), 0, []
    while len(made) < num:
        # Shuffled: were every second answer yes, a template that is taken for every tenth example
        # would always have the same answer.
        turns = turns or source.sample(range(len(made), len(made) + _BLOCK), _BLOCK)
        fields = make(source, turns[-1])
        content = _content(task, fields)
        tries += 1
        if content in seen or split_of(content) != split:
            if tries > _MAX_TRIES:
                raise ValueError(f"{task} has only about {len(made)} {split} examples, not {num}")
            continue
        seen.add(content)
        turns.pop()
        tries = 0
        made.append(fields)
    return made
