"""Splits: which tasks are trained on and which are never seen, as FLAN holds out clusters."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from t5sft import errors

# Clusters and tasks of google-research/FLAN, flan/task_splits.py (17 clusters, 69 entries).
CLUSTERS: dict[str, tuple[str, ...]] = {
    name: tuple(tasks.split())
    for name, tasks in {
        "summarization": "aeslc cnn_dailymail gigaword multi_news newsroom samsum xsum "
        "ag_news_subset opinion_abstracts_rotten_tomatoes opinion_abstracts_idebate "
        "wiki_lingua_english_en",
        "structure_to_text": "web_nlg_en common_gen e2e_nlg dart",
        "reading_comprehension": "squad_v1 squad_v2 drop multirc openbookqa bool_q",
        "open_domain_qa": "trivia_qa natural_questions arc_challenge arc_easy",
        "paraphrase": "glue_mrpc glue_qqp paws_wiki stsb",
        "sentiment": "imdb_reviews sentiment140 yelp_polarity_reviews sst2",
        "text_formatting": "true_case fix_punct word_segment",
        "common_sense": "copa hellaswag story_cloze piqa",
        "translation": "para_crawl_enes wmt14_enfr wmt16_translate_deen wmt16_translate_tren "
        "wmt16_translate_csen wmt16_translate_fien wmt16_translate_roen wmt16_translate_ruen",
        "coreference": "definite_pronoun_resolution winogrande wsc",
        "entailment": "anli_r1 anli_r2 anli_r3 cb rte mnli_matched mnli_mismatched qnli wnli snli",
        "math": "math_dataset",
        "conversational_qa": "quac coqa",
        "word_disambiguation": "wic",
        "linguistic_acceptability": "cola",
        "question_classification": "trec",
        "read_comp_and_common_sense": "record cosmos_qa",
    }.items()
}
# Clusters too near each other: with one held out, the other is not trained on either.
EXCLUSIONS: tuple[tuple[str, str], ...] = (
    ("reading_comprehension", "read_comp_and_common_sense"),
    ("common_sense", "read_comp_and_common_sense"),
    ("paraphrase", "entailment"),
)


class Split(NamedTuple):
    """Tasks to train on and tasks to evaluate on; none is in both."""

    name: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]


def make(name: str, train: Collection[str], evaluate: Collection[str]) -> Split:
    """Makes a split; a task on both sides is removed from training, as FLAN does.

    Raises:
      ConfigError: nothing is left on one side.
    """
    rest = sorted(set(train) - set(evaluate))
    for side, tasks in (("train", rest), ("evaluate", evaluate)):
        if not tasks:
            raise errors.ConfigError(
                f"no task left to {side}; split {name!r}; hold out fewer tasks or clusters"
            )
    return Split(name, tuple(rest), tuple(sorted(set(evaluate))))


def hold_out_cluster(
    cluster: str,
    clusters: Mapping[str, Sequence[str]] = CLUSTERS,
    exclusions: Collection[tuple[str, str]] = EXCLUSIONS,
) -> Split:
    """Holds out one cluster: trains on all others but those excluded beside it.

    Example (FLAN's clusters):
      hold_out_cluster("paraphrase")   trains on no task of entailment
    """
    if cluster not in clusters:
        raise errors.ConfigError(
            f"unknown cluster {cluster!r}{errors.suggest(cluster, clusters)}; split; "
            f"use one of {', '.join(clusters)}"
        )
    beside = {cluster, *(b for a, b in exclusions if a == cluster)}
    beside |= {a for a, b in exclusions if b == cluster}
    train = [task for name, tasks in clusters.items() if name not in beside for task in tasks]
    return make(f"held_out_{cluster}", train, clusters[cluster])


def hold_out_tasks(
    name: str, tasks: Collection[str], clusters: Mapping[str, Sequence[str]] = CLUSTERS
) -> Split:
    """Holds out tasks by name and trains on all others (FLAN's SuperGLUE split)."""
    known = [task for members in clusters.values() for task in members]
    for task in tasks:
        if task not in known:
            raise errors.ConfigError(
                f"unknown task {task!r}{errors.suggest(task, known)}; split {name!r}; "
                "name tasks of the clusters"
            )
    return make(name, known, tasks)


SUPERGLUE = ("bool_q", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
