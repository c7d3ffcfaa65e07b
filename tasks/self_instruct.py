"""Self-Instruct: seed tasks, user-oriented tasks and the instances generated from them.

Wang et al. 2022 (arXiv:2212.10560); github.com/yizhongw/self-instruct, data/, Apache 2.0. 175 seed
tasks, 252 user-oriented instructions (an evaluation set), and, where fetched, 82,439 generated
instances (all_instances_82K.jsonl). Every 50th seed row is "validation".
Example: {"instruction": "Add one.", "instances": [{"input": "3", "output": "4"}]}

Data: the folder self_instruct/ of T5SFT_DATA (or --data DIRECTORY).

SeqIO tasks:
  self_instruct_seeds      an example for every instance of seed_tasks.jsonl
  self_instruct_generated  one for every line of all_instances_82K.jsonl
  self_instruct_users      "test": the user-oriented instructions
"""

from collections.abc import Iterator

from t5sft import errors
from t5sft.data import corpora
from t5sft.evaluate import scores

HOW_TO_GET = "fetch {} of github.com/yizhongw/self-instruct (data/)"


def read(row, where, index) -> Iterator[corpora.Made]:
    """Reads the instances of one task, or the one instance of a generated row."""
    del index
    instances = row.get("instances", [row])
    if not isinstance(instances, list):
        raise errors.DataError(f"instances is no list; {where}; mend the row")
    metadata = {}
    for field in ("name", "id", "motivation_app"):
        if isinstance(row.get(field), str):
            metadata[field] = row[field]
    for instance in instances:
        yield corpora.answered(
            corpora.text(row, "instruction", where),
            corpora.text(instance, "output", where),
            context=corpora.text(instance, "input", where),
            **metadata,
        )


for _name, _file, _parts in (
    ("seeds", "seed_tasks.jsonl", corpora.held_out("seed_tasks.jsonl")),
    ("generated", "all_instances_82K.jsonl", corpora.held_out("all_instances_82K.jsonl")),
    (
        "users",
        "user_oriented_instructions.jsonl",
        {"test": corpora.Part("user_oriented_instructions.jsonl")},
    ),
):
    corpora.add_task(
        f"self_instruct_{_name}",
        corpora.Corpus("self_instruct", HOW_TO_GET.format(_file), _parts),
        read,
        metric_fns=[scores.exact_match],
    )
