"""Metrics that compare a text with its references: exact match, SQuAD, TriviaQA, ROUGE, BLEU.

All in percent, as their papers report them, but exact match. A row of `references` holds the right
answers to one question.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from t5sft.evaluate.answers import language, statistics

References = Sequence[Sequence[str]]
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`_", " "))


def _best(
    references: References,
    responses: Sequence[str],
    measures: dict[str, Callable[[str, str], float]],
    scale: float = 100.0,
) -> statistics.Scores:
    """The mean over questions of the best agreement with any reference."""
    verdicts = [
        {name: scale * max(f(one, response) for one in right) for name, f in measures.items()}
        for right, response in zip(references, responses, strict=True)
    ]
    columns = {name: [one[name] for one in verdicts] for name in measures}
    return statistics.Scores(*statistics.means(columns), verdicts)


def exact_match(references: References, responses: Sequence[str]) -> statistics.Scores:
    """The share of responses equal to a reference, but for white space at the ends; in [0, 1]."""
    measure = {"exact_match": lambda right, response: float(right.strip() == response.strip())}
    return _best(references, responses, measure, 1.0)


def normalise(text: str, punctuation: dict = _NO_PUNCTUATION) -> str:
    """Lower case, without ASCII punctuation, English articles and repeated white space.

    Rajpurkar et al. 2016 (arXiv:1606.05250), the evaluation script of SQuAD 1.1.
    """
    text = text.lower().translate(punctuation)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", text).split())


def f1(reference: str, response: str, normalise: Callable[[str], str] = normalise) -> float:
    """The harmonic mean of precision and recall of words; 0 where none is shared.

    Two empty texts have no word in common and get 0, as in SQuAD 1.1 and T5; 2.0 gives 1.

    Example:
      "abc abd", "abd"   precision 1, recall 1/2, so 2/3
    """
    right, given = (normalise(text).split() for text in (reference, response))
    same = sum((Counter(right) & Counter(given)).values())
    return 2 * same / (len(right) + len(given)) if same else 0.0


def squad(references: References, responses: Sequence[str]) -> statistics.Scores:
    """SQuAD's exact match and F1."""
    return _best(
        references,
        responses,
        {"em": lambda right, given: float(normalise(right) == normalise(given)), "f1": f1},
    )


def trivia_qa(references: References, responses: Sequence[str]) -> statistics.Scores:
    """TriviaQA's exact match and F1: as SQuAD's, but punctuation becomes white space.

    Joshi et al. 2017 (arXiv:1705.03551), the published evaluation: more quotation marks and the
    underscore count as punctuation.
    """

    def plain(text: str) -> str:
        return normalise(text, _SPACES)

    return _best(
        references,
        responses,
        {
            "em": lambda right, given: float(plain(right) == plain(given)),
            "f1": lambda right, given: f1(right, given, plain),
        },
    )


def _rouge(kinds: Sequence[str], *, use_stemmer: bool):
    scorer = language.package("rouge_score.rouge_scorer", "rouge-score")
    return scorer.RougeScorer(list(kinds), use_stemmer=use_stemmer)


def rouge(references: References, responses: Sequence[str]) -> statistics.Scores:
    """ROUGE-1, -2 and -Lsum, F-measures without stemming, as T5 reports them.

    As in T5, " . " ends a line, because Lsum compares line by line. Means, not T5's bootstrap,
    whose result is random.
    """
    kinds = ("rouge1", "rouge2", "rougeLsum")
    scorer = _rouge(kinds, use_stemmer=False)

    def lines(text: str) -> str:
        return text.replace(" . ", " .\n")

    def measure(kind: str) -> Callable[[str, str], float]:
        return lambda right, given: scorer.score(lines(right), lines(given))[kind].fmeasure

    return _best(references, responses, {kind: measure(kind) for kind in kinds})


def rouge_l(
    references: References,
    responses: Sequence[str],
    *,
    inputs: Sequence[str] | None = None,
    demonstrations: Sequence[str] | None = None,
) -> statistics.Scores:
    """Super-NaturalInstructions' ROUGE-L, and what copying would score.

    Wang et al. 2022 (arXiv:2204.07705), section 6: F-measure with stemming, the best of the
    references; exact match after lower case and without punctuation. The baselines answer with the
    instance's input, or with the output of the first demonstration: a model below them has learnt
    nothing.
    """
    scorer = _rouge(["rougeL"], use_stemmer=True)

    def plain(text: str) -> str:
        return " ".join(text.lower().translate(_NO_PUNCTUATION).split())

    measures = {
        "rougeL": lambda right, given: scorer.score(right, given)["rougeL"].fmeasure,
        "exact_match": lambda right, given: float(plain(right) == plain(given)),
    }
    scores = _best(references, responses, measures)
    for name, copied in (("copy_input", inputs), ("copy_demonstration", demonstrations)):
        if copied is not None:
            other = _best(references, copied, {"rougeL": measures["rougeL"]})
            scores.values[f"{name}_rougeL"] = other.values["rougeL"]
            scores.standard_errors[f"{name}_rougeL"] = other.standard_errors["rougeL"]
    return scores


def bleu(
    references: References, responses: Sequence[str], *, num_resamples: int = 200
) -> statistics.Scores:
    """sacrebleu's corpus BLEU with tokenizer 13a, its default, and with intl, which T5 uses.

    The standard error is half of the bootstrap's 95 % interval divided by 1.96 (Koehn 2004), of
    so many resamples with sacrebleu's fixed seed; of one there is none.
    """
    metrics = language.package("sacrebleu.metrics", "sacrebleu")
    both = {"bleu": metrics.BLEU(), "bleu_intl": metrics.BLEU(tokenize="intl")}
    return _corpus_scores(both, references, responses, num_resamples)


def translation(references: References, responses: Sequence[str]) -> statistics.Scores:
    """sacrebleu's chrF and TER with their defaults; of TER less is better."""
    metrics = language.package("sacrebleu.metrics", "sacrebleu")
    return _corpus_scores({"chrf": metrics.CHRF(), "ter": metrics.TER()}, references, responses)


def _corpus_scores(
    metrics: dict, references: References, responses: Sequence[str], num_resamples: int = 200
) -> statistics.Scores:
    longest = max((len(right) for right in references), default=0)
    # A stream holds one reference of every sentence; None where a sentence has fewer.
    streams = [
        [right[i] if i < len(right) else None for right in references] for i in range(longest)
    ]
    values, errors = {}, {}
    for name, metric in metrics.items():
        resamples = num_resamples if len(responses) > 1 else 1
        found = metric.corpus_score(list(responses), streams, n_bootstrap=resamples)
        values[name] = found.score
        errors[name] = found._ci / 1.96 if resamples > 1 else None
    return statistics.Scores(values, errors, [{} for _ in responses])
