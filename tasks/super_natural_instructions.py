"""Super-Natural-Instructions: 1,616 tasks, each with a definition and worked examples.

Wang et al. 2022 (arXiv:2204.07705); github.com/allenai/natural-instructions, Apache 2.0 (the sets
under it carry their own licences): 757 English training and 119 test tasks in splits/default. The
first version (Mishra et al. 2021, arXiv:2104.08773) has 61 tasks of the same kind of file. How an
instance is written: natural_instructions.py.

Data: the folder super_natural_instructions/ of T5SFT_DATA (or --data DIRECTORY): the repository, or
its tasks/ and splits/default/; natural_instructions_v1/ with the task files of version 1.

SeqIO tasks:
  super_natural_instructions             definition and two positive examples (Tk-Instruct's best)
  super_natural_instructions_definition  definition alone
  natural_instructions_v1                version 1, definition and two positive examples

The first two have the splits "train" and "test" of splits/default, and "validation": every 50th
instance of the training tasks. At most 100 instances of a task are used, as by Tk-Instruct.
"""

import itertools
import pathlib
from collections.abc import Iterator

from t5sft import errors
from t5sft.data import corpora, define, files, records, sources
from t5sft.evaluate import scores
from t5sft.tasks import natural_instructions

MAX_INSTANCES = 100  # of a task
FOLDER = "super_natural_instructions"
HOW_TO_GET = "fetch tasks/ and splits/default/ of github.com/allenai/natural-instructions"
V1 = corpora.Corpus(
    "natural_instructions_v1",
    "fetch the task files of Natural Instructions v1 (instructions.apps.allenai.org)",
    corpora.held_out("*.json*"),
)


METRICS = [scores.exact_match, scores.rouge_l]


def paths(split: str) -> list[pathlib.Path]:
    """Returns the task files of a split, in the order of its list.

    Raises:
      DataError: no list, or a task of the list has no file.
    """
    name = "test_tasks.txt" if split == "test" else "train_tasks.txt"
    (listed,) = files.find(FOLDER, f"splits/default/{name}", how_to_get=HOW_TO_GET)
    found = {
        path.name.partition(".json")[0]: path
        for path in files.find(FOLDER, "tasks/*.json*", how_to_get=HOW_TO_GET)
    }
    tasks = listed.read_text(encoding="utf-8").split()
    for task in tasks:
        if task not in found:
            raise errors.DataError(
                f"no file of the task {task!r}{errors.suggest(task, found)}; {listed}; "
                f"{HOW_TO_GET}, or take the task off the list"
            )
    return [found[task] for task in tasks]


def make(split: str, encoding: natural_instructions.Encoding) -> Iterator[corpora.Made]:
    """Yields the instances of a split's tasks, at most MAX_INSTANCES of each."""
    index = -1
    bad: list[files.Bad] = []
    corpora.own_rows_only(FOLDER)
    for path in paths(split):
        task = path.name.partition(".json")[0]
        policy = corpora.bad_rows(f"{FOLDER}/{task}-{split}")
        rows = files.read_rows([path], tell=bad.append, **policy)
        for number, (where, row) in enumerate(itertools.islice(rows, MAX_INSTANCES)):
            index += 1
            is_held_out = index % corpora.HELD_OUT_EVERY == corpora.HELD_OUT_EVERY - 1
            if split == "test" or is_held_out == (split == "validation"):
                row = corpora.renamed(row, where)
                yield natural_instructions.read(
                    row, where=where, task=task, index=number, encoding=encoding
                )
    if split != "validation":  # whose rows are among those of "train"
        yield from (records.Dropped(f"bad row: {one.reason}") for one in bad)


def _read_v1(row, where, index):
    return natural_instructions.read(row, where=where, task="v1", index=index)


for _name, _encoding in (
    (FOLDER, natural_instructions.Encoding()),
    (f"{FOLDER}_definition", natural_instructions.Encoding(num_positive=0)),
):
    define.add_task(
        _name,
        sources.from_records(
            lambda split, encoding=_encoding: make(split, encoding),
            paths,
            ("train", "validation", "test"),
        ),
        fields=("record",),
        metric_fns=METRICS,
        postprocess_fn=scores.references,
    )
corpora.add_task(
    "natural_instructions_v1",
    V1,
    _read_v1,
    metric_fns=METRICS,
    postprocess_fn=scores.references,
)
