"""Tulu 3: the SFT mixture of 939,344 conversations from nineteen sources.

Lambert et al. 2024 (arXiv:2411.15124); huggingface.co/datasets/allenai/tulu-3-sft-mixture, ODC-BY
1.0 (some sources CC BY-NC). Rows of messages and source. Every 50th row is "validation".
Example: {"source": "s", "messages": [{"role": "user", "content": "Hi"},
          {"role": "assistant", "content": "Hello"}]}

Data: the folder tulu3/ of T5SFT_DATA (or --data DIRECTORY) with the Parquet files, or JSON lines.

SeqIO tasks and mixtures:
  tulu3            all rows; an epoch draws the sources as the mixture has them
  tulu3_<source>   the rows of one source (SOURCES), for weights of your own:
                   define.add_mixture("mine", {"tulu3_flan_v2": 1.0, "tulu3_aya": 2.0})
  tulu3_sources    all sources in proportion to their rows, the same rates as tulu3
"""

from t5sft.data import corpora, define, records
from t5sft.evaluate import scores

CORPUS = corpora.Corpus(
    "tulu3",
    "fetch the Parquet files of huggingface.co/datasets/allenai/tulu-3-sft-mixture",
    corpora.held_out("*"),
)
SOURCES = {  # our name -> the value of `source`, rows
    "oasst1": ("ai2-adapt-dev/oasst1_converted", 7_132),
    "flan_v2": ("ai2-adapt-dev/flan_v2_converted", 89_982),
    "hard_coded": ("ai2-adapt-dev/tulu_hard_coded_repeated_10", 240),
    "no_robots": ("ai2-adapt-dev/no_robots_converted", 9_500),
    "wildchat": ("ai2-adapt-dev/tulu_v3.9_wildchat_100k", 100_000),
    "persona_math": ("ai2-adapt-dev/personahub_math_v5_regen_149960", 149_960),
    "persona_math_grade": ("allenai/tulu-3-sft-personas-math-grade", 49_980),
    "open_math_gsm8k": ("ai2-adapt-dev/tulu_v3.9_open_math_2_gsm8k_50k", 50_000),
    "numina_math": ("ai2-adapt-dev/numinamath_tir_math_decontaminated", 64_312),
    "persona_algebra": ("ai2-adapt-dev/tulu_v3.9_personahub_math_interm_algebra_20k", 20_000),
    "persona_code": ("ai2-adapt-dev/personahub_code_v2_34999", 34_999),
    "evol_codealpaca": ("ai2-adapt-dev/evol_codealpaca_heval_decontaminated", 107_276),
    "persona_if": ("ai2-adapt-dev/personahub_ifdata_manual_seed_v3_29980", 29_980),
    "coconot": ("ai2-adapt-dev/coconot_converted", 10_983),
    "wildjailbreak": ("ai2-adapt-dev/tulu_v3.9_wildjailbreak_decontaminated_50k", 50_000),
    "wildguardmix": (
        "ai2-adapt-dev/tulu_v3.9_synthetic_finalresp_wildguardmixtrain_decontaminated_50k",
        50_000,
    ),
    "sciriff": ("ai2-adapt-dev/tulu_v3.9_sciriff_10k", 10_000),
    "table_gpt": ("ai2-adapt-dev/tulu_v3.9_table_gpt_5k", 5_000),
    "aya": ("ai2-adapt-dev/tulu_v3.9_aya_100k", 100_000),
}
_read = corpora.reader("messages")


def read(row, where, index, *, source: str | None = None):
    """Reads one conversation; with `source`, none for the rows of other sources."""
    found = row.get("source")
    if source is not None and found != source:
        return []
    made = _read(row, where, index)
    if isinstance(made, records.Dropped) or not isinstance(found, str):
        return made
    return made._replace(metadata={**made.metadata, "source": found})


corpora.add_task("tulu3", CORPUS, read, metric_fns=[scores.exact_match])
for _name, (_source, _) in SOURCES.items():
    corpora.add_task(
        f"tulu3_{_name}",
        CORPUS,
        lambda row, where, index, source=_source: read(row, where, index, source=source),
        metric_fns=[scores.exact_match],
    )
define.add_mixture(
    "tulu3_sources", {f"tulu3_{name}": float(size) for name, (_, size) in SOURCES.items()}
)
