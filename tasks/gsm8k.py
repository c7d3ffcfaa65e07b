"""GSM8K: grade-school word problems whose solutions end in `#### <number>`.

Cobbe et al. 2021 (arXiv:2110.14168); github.com/openai/grade-school-math, grade_school_math/data;
MIT. 7,473 training and 1,319 test problems. Every 50th training row is "validation"; "test" is the
published one.
Example: {"question": "Two cats, one leaves. How many stay?", "answer": "2 - 1 = 1.\\n#### 1"}

Data: the folder gsm8k/ of T5SFT_DATA (or --data DIRECTORY) with train.jsonl and test.jsonl.

SeqIO tasks:
  gsm8k            the solution as published, calculator marks <<2-1=1>> taken out; scored by the
                   number after ####
  gsm8k_annotated  with the calculator marks
"""

import re

from t5sft.data import corpora, records
from t5sft.evaluate import scores

CORPUS = corpora.Corpus(
    "gsm8k",
    "fetch train.jsonl and test.jsonl of github.com/openai/grade-school-math "
    "(grade_school_math/data)",
    {**corpora.held_out("train.jsonl"), "test": corpora.Part("test.jsonl")},
)
_MARK = re.compile(r"<<[^<>]*>>")
_FINAL = re.compile(r"####\s*(-?[0-9][0-9.,]*)")


def final_number(text: str) -> str:
    """Returns the number after the last ####, without the commas in it; "" where there is none.

    Example:
      final_number("so 1,000.\\n#### 1,000")   "1000"
    """
    found = _FINAL.findall(text)
    return found[-1].replace(",", "").rstrip(".") if found else ""


def read(row, where, index, *, is_annotated: bool = False) -> corpora.Made:
    """Reads one problem; its checkable answer is the number."""
    del index
    answer = corpora.text(row, "answer", where)
    made = corpora.answered(
        corpora.text(row, "question", where), answer if is_annotated else _MARK.sub("", answer)
    )
    if isinstance(made, records.Dropped):
        return made
    if not final_number(answer):
        return records.Dropped("no number after ####")
    return made._replace(answer=final_number(answer))


def _postprocess(text, **unused):
    del unused
    return final_number(text)


for _name, _is_annotated in (("gsm8k", False), ("gsm8k_annotated", True)):
    corpora.add_task(
        _name,
        CORPUS,
        lambda row, where, index, is_annotated=_is_annotated: read(
            row, where, index, is_annotated=is_annotated
        ),
        metric_fns=[scores.exact_match],
        postprocess_fn=_postprocess,
    )
