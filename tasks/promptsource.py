"""Promptsource: rows of public sets, written by promptsource's Jinja templates, as T0 was trained.

Bach et al. 2022 (arXiv:2202.01279), github.com/bigscience-workshop/promptsource, Apache 2.0: 2,085
templates of 279 sets and subsets; the sets carry their own licences. The templates run in a sandbox
(t5sft/data/flan/sandbox.py). A row without a target for a template is dropped and counted.

Data: the folder promptsource/ of T5SFT_DATA (or --data DIRECTORY):
  <set>[/<subset>]/templates.yaml     as in promptsource/templates
  <set>[/<subset>]/train.jsonl, validation.jsonl   the columns of the set on the Hugging Face hub

SeqIO tasks and mixtures, for what is there:
  promptsource_<set>[_<subset>]_<template>   one template (its name with _ for other signs)
  <the name>_score_eval  its templates with answer choices: rank classification, as T0 is evaluated
  promptsource           all, in proportion to their rows; of a set with more than 500,000 rows
                         500,000 divided by its number of templates, as T0 mixes (arXiv:2110.08207)
  promptsource_original  likewise, only templates that ask for the set's own task
"""

import functools
import pathlib
import re
from collections.abc import Iterator

from t5sft import errors
from t5sft.data import corpora, define, files, prepare, records, sources
from t5sft.data.flan import promptsource
from t5sft.evaluate import scores

CAP = 500_000
HOW_TO_GET = (
    "fetch templates.yaml of a set (github.com/bigscience-workshop/promptsource, "
    "promptsource/templates) and write its rows beside it as train.jsonl"
)


def corpus(folder: str) -> corpora.Corpus:
    """Returns where the rows of a set lie."""
    parts = {split: corpora.Part(f"{folder}/{split}.jsonl*") for split in ("train", "validation")}
    return corpora.Corpus("promptsource", HOW_TO_GET, parts)


@functools.lru_cache(maxsize=32)
def _prompts(path: pathlib.Path, modified: float) -> list[promptsource.Prompt]:
    del modified  # part of the key: a changed file is read anew
    return promptsource.read(path)


def prompts(folder: str) -> dict[str, promptsource.Prompt]:
    """Returns name of the task -> template, for one set."""
    (path,) = files.find("promptsource", f"{folder}/templates.yaml", how_to_get=HOW_TO_GET)
    named: dict[str, promptsource.Prompt] = {}
    for prompt in _prompts(path, path.stat().st_mtime):
        name = re.sub(r"[^\w.]+", "_", f"promptsource_{folder}_{prompt.name}")
        if name in named:
            raise errors.DataError(f"two templates of the name {prompt.name!r}; {path}; rename one")
        named[name] = prompt
    return named


def make(folder: str, name: str, split: str, *, seed: int = 0) -> Iterator[corpora.Made]:
    """Yields the rows of a split written by one template."""
    writer = promptsource.Writer(prompts(folder)[name])
    bad: list[corpora.Made] = []
    for index, _, row in corpus(folder).rows(split, bad):
        made = writer.apply(row, seed, name, index)
        if made is None:
            yield records.Dropped("the template has no target")
            continue
        yield corpora.answered(made.inputs, made.targets, template=name)
    yield from bad


def questions(folder: str, name: str, split: str, *, seed: int = 0):
    """Yields every row of a split with its answer choices: (record, choices, the right one)."""
    writer = promptsource.Writer(prompts(folder)[name])
    for index, where, row in corpus(folder).rows(split):
        made = writer.apply(row, seed, name, index)
        if made is None:
            continue
        listed = made.choices or []
        if made.targets not in listed:
            raise errors.DataError(
                f"the target {made.targets!r} is none of the answer choices; {where}; evaluate "
                f"{name} by its answers"
            )
        record = corpora.answered(made.inputs, made.targets, template=name)
        if not isinstance(record, records.Dropped):
            told = {**record.metadata, "question": str(index)}
            yield record._replace(metadata=told), listed, [listed.index(made.targets)]


def _add_rank(folder: str, name: str) -> None:
    source = sources.from_records(
        lambda split: scores.tile(questions(folder, name, split)),
        functools.partial(_paths, folder),
        ("train", "validation"),
    )
    define.add_task(
        f"{name}_score_eval",
        source,
        fields=("record",),
        metric_fns=[scores.rank_classification],
        postprocess_fn=scores.option,
        replace=True,
    )


def _paths(folder: str, split: str) -> list[pathlib.Path]:
    templates = files.find("promptsource", f"{folder}/templates.yaml", how_to_get=HOW_TO_GET)
    return [*corpus(folder).paths(split), *templates]


def folders() -> list[str]:
    """Returns the sets and subsets that are there."""
    root = corpora.folder("promptsource")
    found = [*root.glob("*/templates.yaml"), *root.glob("*/*/templates.yaml")]
    return sorted(path.parent.relative_to(root).as_posix() for path in found)


def register(data: prepare.Data) -> None:
    """Registers a task for every template of every set that is there, and the mixtures.

    Raises:
      DataError: no set is there.
    """
    del data
    rates, originals = {}, {}
    for folder in folders():
        named = prompts(folder)
        rate = _rate(folder, len(named))
        for name, prompt in named.items():
            source = sources.from_records(
                functools.partial(make, folder, name),
                functools.partial(_paths, folder),
                ("train", "validation"),
            )
            define.add_task(
                name,
                source,
                fields=("record",),
                metric_fns=[scores.exact_match],
                replace=True,
            )
            if prompt.answer_choices:
                _add_rank(folder, name)
            rates[name] = rate
            if prompt.metadata.get("original_task") is True:
                originals[name] = rate
    if not rates:
        files.find("promptsource", "*/templates.yaml", how_to_get=HOW_TO_GET)
    define.add_mixture("promptsource", rates, replace=True)
    if originals:
        define.add_mixture("promptsource_original", originals, replace=True)


def _rate(folder: str, num_templates: int):
    def rate(task):
        del task
        size = sum(1 for _ in corpus(folder).rows("train"))
        return float(size if size <= CAP else CAP / num_templates)

    return rate
