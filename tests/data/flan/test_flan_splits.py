import pytest

from t5sft import errors
from t5sft.data.flan import splits

# Written by hand from FLAN's paper and its repository's list, not from splits.py: with the left
# cluster held out, these others are not trained on.
NOT_TRAINED_ON = {
    "summarization": set(),
    "structure_to_text": set(),
    "reading_comprehension": {"read_comp_and_common_sense"},
    "open_domain_qa": set(),
    "paraphrase": {"entailment"},
    "sentiment": set(),
    "text_formatting": set(),
    "common_sense": {"read_comp_and_common_sense"},
    "translation": set(),
    "coreference": set(),
    "entailment": {"paraphrase"},
    "math": set(),
    "conversational_qa": set(),
    "word_disambiguation": set(),
    "linguistic_acceptability": set(),
    "question_classification": set(),
    "read_comp_and_common_sense": {"reading_comprehension", "common_sense"},
}
SIZES = [11, 4, 6, 4, 4, 4, 3, 4, 8, 3, 10, 1, 2, 1, 1, 1, 2]


def test_clusters_are_flans():
    assert list(splits.CLUSTERS) == list(NOT_TRAINED_ON)
    assert [len(tasks) for tasks in splits.CLUSTERS.values()] == SIZES
    assert sum(SIZES) == 69
    assert splits.CLUSTERS["entailment"][3] == "cb"


@pytest.mark.parametrize("cluster", NOT_TRAINED_ON)
def test_holding_out_a_cluster_follows_the_protocol(cluster):
    split = splits.hold_out_cluster(cluster)
    assert set(split.evaluate) == set(splits.CLUSTERS[cluster])
    expected = set()
    for name, tasks in splits.CLUSTERS.items():
        if name != cluster and name not in NOT_TRAINED_ON[cluster]:
            expected |= set(tasks)
    assert set(split.train) == expected
    assert not set(split.train) & set(split.evaluate)


def test_a_task_of_two_clusters_is_removed_from_training():
    clusters = {"a": ("one", "both"), "b": ("both", "two"), "c": ("three",)}
    split = splits.hold_out_cluster("a", clusters, exclusions=())
    assert split == splits.Split("held_out_a", ("three", "two"), ("both", "one"))


def test_exclusions_work_both_ways():
    clusters = {"a": ("one",), "b": ("two",), "c": ("three",)}
    for held_out in "ab":
        assert splits.hold_out_cluster(held_out, clusters, [("b", "a")]).train == ("three",)
    assert splits.hold_out_cluster("c", clusters, [("b", "a")]).train == ("one", "two")


def test_superglue_is_held_out_by_task():
    split = splits.hold_out_tasks("superglue", splits.SUPERGLUE)
    assert split.evaluate == tuple(sorted(splits.SUPERGLUE))
    assert len(split.train) == 69 - 8


def test_an_empty_side_is_an_error():
    with pytest.raises(errors.ConfigError, match="no task left to train; split 'held_out_a'"):
        splits.hold_out_cluster("a", {"a": ("one",), "b": ("one",)}, exclusions=())
    with pytest.raises(errors.ConfigError, match="no task left to evaluate"):
        splits.make("x", ["one"], [])


def test_unknown_names_are_errors():
    with pytest.raises(errors.ConfigError, match="'entailments' \\(did you mean 'entailment'"):
        splits.hold_out_cluster("entailments")
    with pytest.raises(errors.ConfigError, match="unknown task 'boolq' \\(did you mean 'bool_q'"):
        splits.hold_out_tasks("x", ["boolq"])
