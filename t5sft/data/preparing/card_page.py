"""The data card as a page for people: figures, pictures, warnings, samples, origin."""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from t5sft.data import cache, page
from t5sft.data.preparing import figures

_MAX_TASKS = 40  # drawn; the table has all
_MARKS = ("p50", "p95", "max")


def write(path: pathlib.Path, task: str, layout: str, splits: Mapping[str, cache.Split],
          cards: Mapping[str, Mapping]) -> pathlib.Path:  # fmt: skip
    """Writes the page of some splits of a task.

    Args:
      cards: split -> its card with what `figures.add` adds.
    """
    return page.write(path, f"{task}: data card", _body(task, layout, splits, cards))


def _body(task, layout, splits, cards) -> Iterator[str]:
    first = next(iter(cards.values()))
    made = first["settings"]
    lengths = f"rows of {made['encoder_length']} + {made['decoder_length']}"
    if layout == "decoder":
        lengths = f"rows of {made['decoder_length']}"
    kind = layout.replace("_", "-")
    yield f"<h1>{page.escape(task)}</h1>"
    yield (
        f'<p class="lead">Prepared for an {kind}'.replace("an decoder", "a decoder")
        + f"; template {page.escape(made['template'])}, {lengths}, "
        f"too long: {page.escape(made['too_long'])}, learns: {page.escape(made['learn'])}</p>"
    )
    for name, card in cards.items():
        yield f"<h2>{page.escape(name)}</h2>"
        yield from _split(layout, splits[name], card)
    yield "<h2>What it was made of</h2>"
    yield _origin(first)


def _split(layout: str, split: cache.Split, card: Mapping) -> Iterator[str]:
    kept, read = card["kept"], max(card["read"], 1)
    mean = card["tokens"] / max(card["examples"], 1)
    share = card["learnt_tokens"] / max(card["tokens"], 1)
    yield page.tiles(
        [
            ("examples", page.brief(card["examples"]), f"of {card['read']:,} records"),
            ("kept", f"{100 * kept / read:.1f} %", f"{card['dropped']:,} dropped"),
            ("truncated", page.brief(card["truncated"]), ""),
            ("tokens", page.brief(card["tokens"]), f"{mean:.0f} an example"),
            ("learnt tokens", page.brief(card["learnt_tokens"]), f"{100 * share:.1f} %"),
            ("packing", f"{100 * card['packing_efficiency']:.1f} %", "of places hold tokens"),
            ("duplicates", page.brief(card["duplicates"]), "exact, beyond the first"),
        ]
    )  # fmt: skip
    found = [f"{t}: {text}" for t, one in card["tasks"].items() for text in one["warnings"]]
    yield page.warnings(found)
    yield page.pair(_histograms(split, layout))
    yield page.pair(_losses(card))
    tasks = sorted(card["tasks"].items(), key=lambda one: -one[1]["tokens"])
    drawn = [
        (name, one["tokens"], one["learnt_tokens"],
         f"{one['tokens']:,} / {one['learnt_tokens']:,}")
        for name, one in tasks[:_MAX_TASKS]
    ]  # fmt: skip
    title = "Tokens of each task; dark: learnt"
    if len(tasks) > _MAX_TASKS:
        title += f" (the {_MAX_TASKS} largest of {len(tasks)})"
    if len(tasks) > 1:
        yield page.box(title, page.bars(drawn))
    yield page.box("Tasks", _task_table(tasks))
    made = []
    for sample in card["samples"]:
        who = (
            f"{sample['task']}, example {sample['example']}: {sample['tokens']} tokens, "
            f"{sample['learnt_tokens']} learnt"
        )
        text = page.spans(sample["spans"])
        made.append(f'<div class="sample"><div class="who">{page.escape(who)}</div>{text}</div>')
    yield page.box("Samples", page.legend() + "".join(made))


def _histograms(split: cache.Split, layout: str) -> Iterator[str]:
    lengths = figures.lengths_of(split)
    for side, name in enumerate(("Length of inputs", "Length of targets")):
        found = figures.histogram(lengths[:, side])
        if found is None:
            continue
        values = np.percentile(lengths[:, side], (50, 95, 99), method="lower")
        marks = dict(zip(("median", "p95", "p99"), values.tolist(), strict=True))
        title = "Length of sequences" if layout == "decoder" else name
        yield page.box(f"{title}, in tokens", page.columns(found.edges, found.counts, marks))


def _losses(card: Mapping) -> Iterator[str]:
    """Why records were dropped or cut, and how full rows are."""
    rows = [(key, count) for key, count in card.items() if key.startswith(("dropped: ",
            "truncated: ", "left out: "))]  # fmt: skip
    if rows:
        yield page.box("Dropped and cut", page.table(("", "records"), sorted(rows)))
    packing = [
        (one["sequence_length"], f"{100 * one['efficiency']:.2f} %", one["rows"],
         f"{one['examples_per_row']:.1f}", one["too_long"])
        for one in card["packing"]
    ]  # fmt: skip
    head = ("row length", "filled", "rows an epoch", "units a row", "too long")
    yield page.box("Packing", page.table(head, packing))


def _task_table(tasks) -> str:
    head = ["task", "rate", "read", "examples", "dropped", "cut", "twice", "tokens", "learnt"]
    sides = [
        side for side in ("inputs", "targets") if any(one["lengths"][side] for _, one in tasks)
    ]
    short = {"inputs": "in", "targets": "out"}
    head += [f"{short[side]} {mark}" for side in sides for mark in _MARKS]
    rows = []
    for name, one in tasks:
        counts = ("read", "examples", "dropped", "truncated", "duplicates", "tokens",
                  "learnt_tokens")  # fmt: skip
        rows.append(
            [name, f"{one['rate']:g}", *(one[key] for key in counts)]
            + [one["lengths"][side].get(mark, 0) for side in sides for mark in _MARKS]
        )
    return page.table(head, rows)


def _origin(card: Mapping) -> str:
    files = [
        (entry["path"], f"{entry['size']:,}", f"{entry['sha256'][:16]}\u2026")
        for entry in card["sources"]["files"]
    ]
    out = ""
    if files:
        out += page.box("Source files", page.table(("file", "bytes", "SHA-256"), files))
    else:
        out += page.box(
            "Source files", "<p>None: the task makes its rows, or does not list them.</p>"
        )
    plain = {k: v for k, v in card["settings"].items() if k not in ("code", "version")}
    rows = [(name, str(value)) for name, value in {**plain, **card["settings"]["version"]}.items()]
    code = [(name, f"{value[:16]}\u2026") for name, value in card["settings"]["code"].items()]
    settings = page.table(("setting", "value"), rows, texts=(1,))
    code_table = page.table(("code", "SHA-256"), code)
    folded = (("Settings and versions", settings), ("Code", code_table))
    made = "".join(f"<details><summary>{a}</summary>{b}</details>" for a, b in folded)
    return out + page.box("", made)
