"""FLAN: 69 tasks in 17 clusters, ten templates each, and the protocol of held-out clusters.

Wei et al. 2021 (arXiv:2109.01652), Longpre et al. 2023 (arXiv:2301.13688); templates:
github.com/google-research/FLAN, Apache 2.0, read as they are and never run; the sets under it carry
their own licences. FLAN takes at most 30,000 training rows of a task and 200 for validation.

Data: the folder flan/ of T5SFT_DATA (or --data DIRECTORY):
  templates.py       FLAN's flan/templates.py: dict PATTERNS, task -> pairs of strings
  v2/templates.py    FLAN's flan/v2/templates.py: PATTERNS, FEWSHOT_PATTERNS; without it the styles
                     of v2 use the templates of 2021 (zs_noopt: v2/flan_templates_branched.py)
  rows/<task>/train.jsonl, validation.jsonl   the fields that the task's templates name, and a list
                     `options` where they show {options_} (.csv, .tsv, .parquet, .gz do, too)

SeqIO tasks for each <task> of the clusters (t5sft/data/flan/splits.py):
  flan_<task>                  FLAN 2021: zero-shot, options as a list with dashes
  flan_<task>_zs_opt           v2: zero-shot, options in a format drawn for every example
  flan_<task>_zs_noopt         v2: zero-shot, no options
  flan_<task>_fs_opt, _fs_noopt   v2: 25 exemplars drawn, those of the same template kept
  flan_<task>_seen             FLAN 2021 with the first eight templates ...
  flan_<task>_unseen           ... and with the last two, never trained on
  flan_<task>_rank             rank classification: every option of every row under every template

Mixtures, made of the tasks whose rows are there (how many is told on stderr):
  flan                         all of FLAN 2021, by size, at most 3,000 a task
  flan_zs_opt ...              all of one style of v2, by size, at most 30,000 a task
  flan2021_submix              the four styles of v2 in equal parts
  flan_seen, flan_unseen       trained and held-out templates of all tasks
  flan_held_out_<cluster>, flan_held_out_<cluster>_eval   trained and held-out clusters, with
                               FLAN's exclusions; flan_held_out_superglue likewise by task
"""

import functools
import itertools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import corpora, define, files, prepare, records, sources
from t5sft.data.flan import mixing, pattern_files, patterns, render, splits
from t5sft.evaluate import scores

MAX_ROWS = {"train": 30_000, "validation": 200}
HOW_TO_GET = "fetch flan/templates.py of github.com/google-research/FLAN"
STYLES: dict[str, tuple[patterns.Part, render.Style]] = {
    "": ("all", render.Style()),
    "_seen": ("seen", render.Style()),
    "_unseen": ("held_out", render.Style()),
    "_zs_opt": ("all", render.Style(options="random")),
    "_zs_noopt": ("all", render.Style(options="none")),
    "_fs_opt": ("all", render.Style(options="random", shots="x")),
    "_fs_noopt": ("all", render.Style(options="none", shots="x")),
}
V2 = tuple(style for style in STYLES if "opt" in style)
TASKS = sorted({task for tasks in splits.CLUSTERS.values() for task in tasks})
CLUSTER_OF = {task: cluster for cluster, tasks in splits.CLUSTERS.items() for task in tasks}


def corpus(task: str) -> corpora.Corpus:
    """Returns where the rows of a task lie."""
    how = (
        f"write the rows of {task!r} as JSON lines, with the fields that its templates name and a "
        "list `options` where they show them"
    )
    parts = {split: corpora.Part(f"rows/{task}/{split}.*") for split in ("train", "validation")}
    return corpora.Corpus("flan", how, parts)


def template_file(style: str) -> pathlib.Path:
    """Returns the file that holds the templates of a style.

    FLAN v2's own zero-shot templates speak of options, so without options it takes those of 2021.
    """
    folder = corpora.folder("flan")
    own = {"_zs_noopt": "v2/flan_templates_branched.py"}.get(style, "v2/templates.py")
    name = own if style in V2 and (folder / own).exists() else "templates.py"
    return files.find("flan", name, how_to_get=HOW_TO_GET)[0]


@functools.lru_cache(maxsize=8)
def _read_templates(path: pathlib.Path, name: str, modified: float):
    del modified  # part of the key: a changed file is read anew
    return pattern_files.read(path, name)


def templates(task: str, style: str) -> list[patterns.Pattern]:
    """Returns all templates of a task for a style.

    Raises:
      DataError: the file has none of this task.
    """
    path = template_file(style)
    name = "PATTERNS"
    if "_fs_" in style and path.parent.name == "v2":
        name = "FEWSHOT_PATTERNS"
    found = _read_templates(path, name, path.stat().st_mtime)
    if task not in found:
        raise errors.DataError(
            f"no templates of {task!r}{errors.suggest(task, found)}; {path}, {name}; add them"
        )
    return found[task]


def rows(
    task: str, split: str, chosen: Sequence[patterns.Pattern], dropped: list | None = None
) -> list[Mapping[str, Any]]:
    """Returns the first rows of a split, as many as FLAN takes; `dropped` takes the bad ones."""
    named = dict.fromkeys(field for pattern in chosen for field in patterns.fields_of(pattern))
    needs = [field for field in named if field not in patterns.OPTIONS_FIELDS]
    found = corpus(task).rows(split, dropped, needs=needs)
    return [row for _, _, row in itertools.islice(found, MAX_ROWS[split])]


def make(task: str, style: str, split: str) -> Iterator[corpora.Made]:
    """Yields the examples of a task in a style; exemplars come from its training rows."""
    settings = STYLES[style][1]
    every = templates(task, style)
    chosen = patterns.part_of(every, STYLES[style][0])
    pool = rows(task, "train", chosen) if settings.shots and split != "train" else None
    bad: list[corpora.Made] = []
    queries = rows(task, split, chosen, bad)
    for one in render.render(f"flan_{task}", queries, chosen, settings, exemplars=pool):
        if isinstance(one, render.Rendered) and STYLES[style][0] == "held_out":
            number = int(one.metadata["template"]) + len(every) - len(chosen)
            one.metadata["template"] = str(number)
        yield corpora.rendered(one, task=task, cluster=CLUSTER_OF[task])
    yield from bad


def _paths(task: str, style: str, split: str) -> list[pathlib.Path]:
    return [*corpus(task).paths(split), template_file(style)]


def _add(task: str, style: str) -> None:
    part, _ = STYLES[style]
    source = sources.from_records(
        functools.partial(make, task, style),
        functools.partial(_paths, task, style),
        ("validation",) if part == "held_out" else ("train", "validation"),
        count=lambda split: min(sum(1 for _ in corpus(task).rows(split)), MAX_ROWS[split]),
    )
    name = f"flan_{task}{style}"
    define.add_task(name, source, fields=("record",), metric_fns=[scores.exact_match])


def questions(task: str, split: str) -> Iterator[tuple[corpora.Made, list[str], list[int]]]:
    """Yields every row under every template: (record, options, places of the right ones).

    Templates that ask for something else than the answer (for a question, say) are passed over.
    """
    every = templates(task, "")
    queries = rows(task, split, every)
    options = [[str(one).strip() for one in row.get("options") or ()] for row in queries]
    count = 0
    for number, pattern in enumerate(every):
        written = list(render.render(f"flan_{task}", queries, [pattern], render.Style()))
        made_of = [corpora.rendered(one) for one in written]
        for index, (made, listed) in enumerate(zip(made_of, options, strict=True)):
            answer = "" if isinstance(made, records.Dropped) else made.messages[-1].content.strip()
            if answer not in listed:
                continue
            told = {"template": str(number), "question": str(index), "task": task}
            right = [i for i, option in enumerate(listed) if option == answer]
            count += 1
            yield made._replace(metadata=told), listed, right
    if not count:
        raise errors.DataError(
            f"no answer is an option; flan_{task}_rank, split {split!r}; only tasks with rows of "
            "`options` can be ranked"
        )


def _add_rank(task: str) -> None:
    source = sources.from_records(
        lambda split: scores.tile(questions(task, split)),
        functools.partial(_paths, task, ""),
        ("train", "validation"),
    )
    define.add_task(
        f"flan_{task}_rank",
        source,
        fields=("record",),
        metric_fns=[scores.rank_classification],
        postprocess_fn=scores.option,
    )


def mixtures(present: list[str]) -> dict[str, dict[str, Any]]:
    """Returns mixture -> task -> rate, for the tasks that are there."""

    def of(tasks, style, cap):
        here = [task for task in tasks if task in present]
        return {f"flan_{task}{style}": corpora.num_examples(cap) for task in here}

    made = {"flan": of(TASKS, "", mixing.FLAN2021_CAP)}
    for style in V2:
        made[f"flan{style}"] = of(TASKS, style, mixing.FLAN2022_CAPS["flan2021"])
    made["flan2021_submix"] = {f"flan{style}": 1.0 for style in V2 if made[f"flan{style}"]}
    made["flan_seen"] = of(TASKS, "_seen", mixing.FLAN2021_CAP)
    made["flan_unseen"] = {f"flan_{task}_unseen": 1.0 for task in TASKS if task in present}
    held_out = [splits.hold_out_cluster(cluster) for cluster in splits.CLUSTERS]
    held_out.append(splits.hold_out_tasks("held_out_superglue", splits.SUPERGLUE))
    for split in held_out:
        made[f"flan_{split.name}"] = of(split.train, "", mixing.FLAN2021_CAP)
        made[f"flan_{split.name}_eval"] = of(split.evaluate, "", None)
    return {name: rates for name, rates in made.items() if rates}


def register(data: prepare.Data) -> None:
    """Registers the mixtures of the tasks whose rows are there.

    Raises:
      DataError: `data.task` is a mixture of tasks none of which is there.
    """
    folder = corpora.folder("flan") / "rows"
    found = sorted({path.parent.name for path in folder.glob("*/train.*")})
    unknown = [task for task in found if task not in TASKS]
    if unknown:
        raise errors.DataError(
            f"rows of an unknown task {unknown[0]!r}{errors.suggest(unknown[0], TASKS)}; "
            f"{folder}; name the folder as FLAN names the task"
        )
    made = mixtures(found)
    for name, rates in made.items():
        define.add_mixture(name, rates, replace=True)
    if data.task in made:
        count = f"{len(found)} of FLAN's {len(TASKS)} tasks have rows in {folder}"
        print(f"t5sft: {data.task}: {count}", file=sys.stderr)
    elif data.task in mixtures(TASKS):
        names = mixtures(TASKS)[data.task]
        of_mixture = [task for task in TASKS if any(x.startswith(f"flan_{task}") for x in names)]
        corpus((of_mixture or TASKS)[0]).paths("train")  # raises: it is not there


for _task in TASKS:
    for _style in STYLES:
        _add(_task, _style)
    _add_rank(_task)
