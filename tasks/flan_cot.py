"""FLAN v2's chain of thought: seven sets of question, answer and rationale, in ten wordings.

Longpre et al. 2023 (arXiv:2301.13688); github.com/google-research/FLAN, flan/v2/cot_data, Apache
2.0; the sets (AQuA, CREAK, ECQA, GSM8K, QASC, Sensemaking, StrategyQA) carry their own licences.
33,443 rows: question, answer and rationale between tabs, line ends written as \\n. The public files
have no held-out split: every 50th row is "validation".

Data: the folder flan_cot/ of T5SFT_DATA (or --data DIRECTORY) with <name>_train.tsv.

SeqIO tasks and mixtures:
  cot_<name>             question -> reasoning and answer, zero-shot
  cot_<name>_few_shot    up to five exemplars of the same wording
  cot_<name>_inversion   answer or reasoning -> question, and the like
  flan_cot               all zero-shot tasks by size, inversions at 0.3 of that
  flan_cot_few_shot      all few-shot tasks by size
  cot_submix             the two mixtures in equal parts
"""

from collections.abc import Iterator

from t5sft.data import corpora, define, sources
from t5sft.data.flan import mixing, render
from t5sft.evaluate import scores
from t5sft.tasks import flan_cot_templates as templates

SIZES = {  # rows of the public files
    "aqua": 2728,
    "creak": 6915,
    "ecqa": 7112,
    "gsm8k": 7473,
    "qasc": 1084,
    "sensemaking": 6070,
    "strategyqa": 2061,
}
STYLES = {
    "": (templates.PATTERNS, render.Style()),
    "_few_shot": (templates.PATTERNS, render.Style(shots=5)),
    "_inversion": (templates.INVERSIONS, render.Style()),
}
HOW_TO_GET = "fetch {}_train.tsv of github.com/google-research/FLAN (flan/v2/cot_data)"


def corpus(name: str) -> corpora.Corpus:
    """Returns where one of the sets lies."""
    return corpora.Corpus(
        "flan_cot",
        HOW_TO_GET.format(name),
        corpora.held_out(f"{name}_train.tsv*"),
        header=("question", "answer", "rationale"),
    )


def rows(name: str, split: str, dropped: list | None = None) -> list[dict[str, str]]:
    """Returns the rows of a set, the line ends that the file spells out put in; `dropped` takes
    the bad ones."""
    return [
        {field: text.replace("\\n", "\n").strip() for field, text in row.items()}
        for _, _, row in corpus(name).rows(split, dropped)
    ]


def make(name: str, style: str, split: str) -> Iterator[corpora.Made]:
    """Yields the examples of one set in one style; exemplars come from the training rows."""
    patterns, settings = STYLES[style]
    bad: list[corpora.Made] = []
    queries = rows(name, split, bad)
    pool = rows(name, "train") if settings.shots and split != "train" else None
    for made in render.render(f"cot_{name}{style}", queries, patterns, settings, exemplars=pool):
        yield corpora.rendered(made, cluster="chain of thought")
    yield from bad


def _add(name: str, style: str) -> str:
    return define.add_task(
        f"cot_{name}{style}",
        sources.from_records(
            lambda split: make(name, style, split), corpus(name).paths, ("train", "validation")
        ),
        fields=("record",),
        metric_fns=[scores.exact_match],
    )


_ADDED = {style: {_add(name, style): float(SIZES[name]) for name in SIZES} for style in STYLES}
define.add_mixture(
    "flan_cot",
    _ADDED[""]
    | {task: mixing.FLAN2022_INVERSION * size for task, size in _ADDED["_inversion"].items()},
)
define.add_mixture("flan_cot_few_shot", _ADDED["_few_shot"])
define.add_mixture("cot_submix", ["flan_cot", "flan_cot_few_shot"])
