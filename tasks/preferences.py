"""Preference sets: dialogues, pairs, labels and arguments of which people (or models) prefer one.

SeqIO tasks:
  hh_rlhf        Anthropic's HH-RLHF, Bai et al. 2022 (arXiv:2204.05862), github.com/anthropics/
                 hh-rlhf, MIT; 160,800 training and 8,552 test pairs of whole dialogues. The part
                 "harmless" holds offensive text, and the chosen answer is often bad itself.
  dpo_pairs      pairs in ShareGPT's form: conversations, chosen, rejected (the form of
                 github.com/hiyouga/LLaMA-Factory, data/dpo_en_demo.json, Apache 2.0)
  kto_labels     unpaired: messages and label, true or false (its data/kto_en_demo.json)
  ukp_arguments  UKPConvArg1, Habernal and Gurevych 2016, github.com/UKPLab/
                 acl2016-convincing-arguments, CC BY 4.0: which of two arguments convinces more.
                 "The longer one" is right on about 76 %: report that beside any accuracy.

Every 50th row is "validation". A record holds the prompt and its candidates with their labels.
Example: {"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello",
          "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: No"}

Data: the folder preference/ of T5SFT_DATA (or --data DIRECTORY) with hh_*.jsonl, dpo*.json,
kto*.json, ukp*.jsonl, plain, .gz or .zst.
"""

from t5sft.data import corpora, records
from t5sft.evaluate import scores

_FETCH = {
    "hh_*.json*": "fetch train.jsonl.gz of a part of github.com/anthropics/hh-rlhf as "
    "hh_<part>.jsonl.gz",
    "dpo*.json*": "fetch pairs in ShareGPT's form (data/dpo_en_demo.json of "
    "github.com/hiyouga/LLaMA-Factory) as dpo.json",
    "kto*.json*": "fetch labelled messages (data/kto_en_demo.json of "
    "github.com/hiyouga/LLaMA-Factory) as kto.json",
    "ukp*.json*": "write the pairs of github.com/UKPLab/acl2016-convincing-arguments as ukp.jsonl "
    "with topic, stance, chosen, rejected",
}


def read_arguments(row, where, index) -> corpora.Made:
    """Reads a pair of arguments for one stance."""
    del index
    topic, stance, chosen, rejected = (
        corpora.text(row, field, where).strip()
        for field in ("topic", "stance", "chosen", "rejected")
    )
    if not chosen or not rejected:
        return records.Dropped("empty response")
    if chosen == rejected:
        return records.Dropped("equal candidates")
    words = " ".join(topic.replace("_", " ").replace("-", " ").split())
    stance = " ".join(stance.replace("_", " ").replace("-", " ").split())
    prompt = f"The debate is about: {words}.\nArgue convincingly for this side: {stance}."
    return records.Record(
        (records.Message("user", prompt),),
        candidates=tuple(
            records.Candidate((records.Message("assistant", text),), label)
            for text, label in ((chosen, 1.0), (rejected, 0.0))
        ),
        metadata={"topic": topic, "stance": stance},
    )


for _name, _pattern, _read in (
    ("hh_rlhf", "hh_*.json*", corpora.reader("hh")),
    ("dpo_pairs", "dpo*.json*", corpora.reader("preference_sharegpt")),
    ("kto_labels", "kto*.json*", corpora.reader("kto")),
    ("ukp_arguments", "ukp*.json*", read_arguments),
):
    corpora.add_task(
        _name,
        corpora.Corpus("preference", _FETCH[_pattern], corpora.held_out(_pattern)),
        _read,
        metric_fns=[scores.exact_match],
    )
