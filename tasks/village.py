"""Village: the bundled instruction mixture, in the manner of FLAN; nothing is downloaded.

28 tasks in 8 clusters, 2 in a held-out cluster, 10 wordings a task, 2 of them held out; about 600
words; made by tasks/village_world.py from seeds, same licence as t5sft.
Example: {"inputs": "Past tense of: Mara sells the cup.", "targets": "Mara sold the cup."}

SeqIO mixtures:
  village                     train and validation, seen wordings of the trained clusters
  village_held_out_wordings   validation: the same tasks in wordings never trained on
  village_held_out_cluster    validation: tasks of a cluster never trained on
  village_text                plain text of the same world, for pre-training a base
  village_text_and_lists      half of it lists told twice, for pre-training a decoder
"""

from t5sft.data import define, sources
from t5sft.evaluate import scores
from t5sft.tasks import village_templates, village_world

NUM_TRAIN = 1000  # examples of each task
NUM_VALIDATION = 24  # of each task: three for each seen wording
NUM_TEXTS = {"train": 60_000, "validation": 500}


def _rows(task, wordings):
    """Example i is written with wording i mod their number, as in FLAN."""

    def make(split):
        num = NUM_TRAIN if split == "train" else NUM_VALIDATION
        rows = []
        for i, fields in enumerate(village_world.examples(task, split, num)):
            inputs, targets = wordings[i % len(wordings)]
            rows.append(
                {
                    "inputs": village_templates.render(inputs, fields),
                    "targets": village_templates.render(targets, fields),
                }
            )
        return rows

    return make


def _add(name, task, wordings, splits):
    source = sources.rows(_rows(task, wordings), splits)
    return define.add_task(name, source, metric_fns=[scores.exact_match])


def _texts(write):
    def make(split):
        seed = {"train": 0, "validation": 1}[split]
        return [{"text": text} for text in write(NUM_TEXTS[split], seed)]

    return make


def _register():
    seen, held_out, other = [], [], []
    for cluster, tasks in village_world.CLUSTERS.items():
        for task in tasks:
            wordings = village_templates.TEMPLATES[task]
            num_seen = len(wordings) - village_templates.HELD_OUT_TEMPLATES
            if cluster == village_world.HELD_OUT_CLUSTER:
                other.append(_add(f"village_{task}", task, wordings, ("validation",)))
                continue
            seen.append(_add(f"village_{task}", task, wordings[:num_seen], village_world.SPLITS))
            name = f"village_{task}.held_out_wordings"
            held_out.append(_add(name, task, wordings[num_seen:], ("validation",)))
    define.add_mixture("village", seen)
    define.add_mixture("village_held_out_wordings", held_out)
    define.add_mixture("village_held_out_cluster", other)
    for name, write in (
        ("village_text", village_world.plain_text),
        ("village_lists", village_world.repeated_lists),
    ):
        texts = sources.rows(_texts(write), village_world.SPLITS)
        define.add_task(name, texts, fields=("text",))
    define.add_mixture("village_text_and_lists", ["village_text", "village_lists"])


_register()
