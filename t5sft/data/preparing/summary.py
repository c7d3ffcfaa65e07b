"""The summary of `t5sft prepare`: one JSON object, text for a terminal, and the data card's page.

The object; every figure of "splits" is there for the splits together, too:

  {"examples", "read", "kept", "dropped", "truncated", "tokens", "learnt_tokens", "duplicates",
   "dropped_by": {reason: records}, "truncated_by": {how: records},
   "packing_efficiency": 0.996,      of the first sequence length, over the rows of all splits
   "packing": [{"sequence_length": "2048", "efficiency", "inputs", "targets", "rows",
                "examples_per_row", "too_long"}],
   "seconds": 9.8, "page": path,
   "splits": {"train": {... as above, "seconds": of preparing it, "directory", "warnings",
              "tasks": {task: {counts, "rate", "lengths", "duplicates", "warnings"}},
              "samples": [...], "sources": [{"path", "size", "mtime_ns", "sha256"}]}}}
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from t5sft.data import cache, vocab
from t5sft.data.preparing import card_page, figures
from t5sft.data.settings import Data

_COUNTS = (
    "examples", "read", "kept", "dropped", "truncated", "tokens", "learnt_tokens", "duplicates"
)  # fmt: skip
_MAX_TASKS = 12  # told on a terminal


def lengths(texts: Sequence[str], data: Data, layout: str) -> list[tuple[int, int]]:
    """Reads --sequence_length; by default the lengths of the run's own rows."""
    own = (data.encoder_length, data.decoder_length)
    return figures.parse_lengths(texts, data, layout) or [own]


def summary(
    splits: Mapping[str, cache.Split],
    data: Data,
    layout: str,
    lengths: Sequence[tuple[int, int]],
) -> dict:
    """Returns what the splits hold, and writes the page beside the first of them."""
    vocabulary = vocab.load(data.vocabulary)
    found, cards = {}, {}
    for name, split in splits.items():
        card = split.card
        packing = [figures.packing(split, layout, one, seed=data.seed) for one in lengths]
        found[name] = {
            **_counts(card),
            "packing_efficiency": packing[0]["efficiency"],
            "packing": packing,
            "seconds": card["seconds"],
            "directory": str(split.directory.absolute()),
            "warnings": [
                f"{task}: {text}" for task, one in card["tasks"].items() for text in one["warnings"]
            ],
            "tasks": card["tasks"],
            "samples": figures.samples(split, vocabulary),
            "sources": card["sources"]["files"],
        }
        cards[name] = {**card, **found[name], "sources": card["sources"]}
    first = next(iter(splits.values()))
    path = first.directory.with_name(f"{first.directory.name}.html")
    card_page.write(path, data.task, layout, splits, cards)
    packing = [
        _together([one["packing"][i] for one in found.values()]) for i in range(len(lengths))
    ]
    total: Counter[str] = Counter()
    for one in found.values():
        total.update({key: one[key] for key in _COUNTS})
    return {
        **{key: total[key] for key in _COUNTS},
        "dropped_by": _sum(one["dropped_by"] for one in found.values()),
        "truncated_by": _sum(one["truncated_by"] for one in found.values()),
        "packing_efficiency": packing[0]["efficiency"],
        "packing": packing,
        "page": str(path.absolute()),
        "splits": found,
    }


def _counts(card: Mapping) -> dict:
    out = {key: card.get(key, 0) for key in _COUNTS}
    for group in ("dropped", "truncated"):
        start = f"{group}: "
        out[f"{group}_by"] = {
            key.removeprefix(start): n for key, n in card.items() if key.startswith(start)
        }
    return out


def _sum(parts) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def _together(parts: Sequence[Mapping]) -> dict:
    """Joins what packing is in several splits, by their rows."""
    rows = sum(part["rows"] for part in parts)
    out = dict(parts[0]) | {"rows": rows, "too_long": sum(part["too_long"] for part in parts)}
    for key in ("efficiency", "inputs", "targets", "examples_per_row"):
        out[key] = sum(part[key] * part["rows"] for part in parts) / max(rows, 1)
    return out


def text(result: Mapping) -> str:
    """Lays the summary out for a terminal."""
    from t5sft.data import prepare

    lines = []
    for name, split in result["splits"].items():
        told = {**split, **{f"dropped: {k}": n for k, n in split["dropped_by"].items()}}
        lines.append(prepare.describe(name, told))
        tasks = sorted(split["tasks"].items(), key=lambda one: -one[1]["tokens"])
        if len(tasks) > 1:
            width = max(len(task) for task, _ in tasks[:_MAX_TASKS])
            lines.append(f"  {'task':{width}}  examples     tokens     learnt   p50   p95   max")
            for task, one in tasks[:_MAX_TASKS]:
                lines.append(f"  {task:{width}}  {one['examples']:>8,} {one['tokens']:>10,} "
                             f"{one['learnt_tokens']:>10,} {_lengths(one)}")  # fmt: skip
            if len(tasks) > _MAX_TASKS:
                lines.append(f"  and {len(tasks) - _MAX_TASKS} more tasks")
        else:
            lines.append(f"  lengths p50, p95, max: {_lengths(tasks[0][1])}")
        for one in split["packing"]:
            lines.append(
                f"  packing in rows of {one['sequence_length']}: {100 * one['efficiency']:.2f} %, "
                f"{one['examples_per_row']:.1f} examples a row"
                + (f", {one['too_long']} too long" if one["too_long"] else "")
            )
        if split["duplicates"]:
            lines.append(f"  exact duplicates: {split['duplicates']:,}")
        lines += [f"  look at {warning}" for warning in split["warnings"]]
    return "\n".join([*lines, f"data card: {result['page']}"])


def _lengths(one: Mapping) -> str:
    """Median, 95th percentile and maximum of the longer side."""
    side = max(one["lengths"].values(), key=lambda found: found.get("mean", 0))
    return " ".join(f"{side.get(key, 0):>5}" for key in ("p50", "p95", "max"))
