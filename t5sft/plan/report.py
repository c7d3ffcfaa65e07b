"""A plan as text for people."""

from collections.abc import Iterable
from typing import Any

from t5sft.plan import measure

GB = 1e9


def text(plan: measure.Plan) -> str:
    """Returns the tables of one plan."""
    told = plan.to_json()
    axes = " x ".join(f"{axis} {size}" for axis, size in told["mesh"].items()) or "one device"
    lines = [
        f"{plan.place}; mesh {axes}; {told['num_parameters']:,} parameters; "
        f"compiled in {told['compile_seconds']:.0f} s",
        "",
        *_memory(plan, told),
    ]
    if plan.counts is None or plan.seconds is None:
        return "\n".join(lines)
    lines += ["", *_work(plan, told), "", *_collectives(plan), "", *_time(plan, told)]
    return "\n".join(lines)


def _memory(plan, told) -> list[str]:
    memory, room = plan.memory, told["hbm_bytes_per_chip"]
    rows = [
        ("parameters", memory.parameters),
        ("optimizer", memory.optimizer),
        ("batch", memory.batch),
        ("temporaries", memory.temp),
        ("output", memory.output),
        ("in place of arguments", memory.alias),
        ("peak", memory.peak),
    ]
    lines = ["memory per device"]
    lines += [f"  {name:24}{amount(value):>10}B" for name, value in rows if value is not None]
    verdict = "fits" if memory.fits else "does NOT fit"
    return [*lines, f"  {verdict + ' into':24}{amount(room):>10}B"]


def _work(plan, told) -> list[str]:
    counts, work = plan.counts, told["flops_per_step"]
    lines = [
        "per device and step",
        f"  {'model':24}{amount(work['analytic']):>10}FLOP",
        f"  {'matrix products':24}{amount(work['hlo']):>10}FLOP",
        f"  {'kernels':24}{amount(work['kernels']):>10}FLOP",
        f"  {'through HBM (estimate)':24}{amount(counts.hbm_bytes):>10}B",
        f"  {'on the wire':24}{amount(counts.wire_bytes):>10}B",
    ]
    if counts.host_bytes:
        lines.append(f"  {'to the host, and back':24}{amount(counts.host_bytes):>10}B")
    if counts.undeclared_kernels:
        lines.append(f"  {counts.undeclared_kernels} kernel calls tell no FLOPs: not counted")
    if counts.unknown_loops:
        lines.append(f"  loops counted once: {', '.join(counts.unknown_loops)}")
    return lines


def _collectives(plan) -> list[str]:
    rows = [("collective", "axis", "count", "on the wire")]
    rows += [
        (c.kind, c.axis, f"{c.count:,}", f"{amount(c.wire_bytes_per_chip)}B")
        for c in sorted(plan.counts.collectives, key=lambda c: -c.wire_bytes_per_chip)
    ]
    return table(rows)


def _time(plan, told) -> list[str]:
    seconds = told["step_seconds"]
    names = {"compute": "compute", "hbm": "HBM", "ici": "interconnect", "dcn": "between slices"}
    names["host"] = "memory of the host"
    lines = [
        "a step",
    ]
    lines += [
        f"  {name:24}{amount(seconds[key]):>10}s"
        for key, name in names.items()
        if key in ("compute", "hbm", "ici") or seconds[key]
    ]
    return [
        *lines,
        f"  {'step, at least':24}{amount(seconds['predicted']):>10}s   "
        f"(bound by {names[told['bound']]}; {told['mfu']:.0%} MFU)",
        f"  {'tokens/s per chip':24}{told['tokens_per_second_per_chip']:10,.0f}",
        f"  {told['steps']:,} steps: {told['hours']:.2f} h, {told['chip_hours']:,.1f} chip-hours",
    ]


def amount(value: float) -> str:
    """Writes a number with a prefix of its unit: 1.23e9 as "1.23 G", 0.0456 as "45.6 m"."""
    if value == 0:
        return "0 "
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value * 1e6:.3g} u"


def table(rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """Lays out rows in columns, the first ones of text to the left, numbers to the right."""
    rows = [tuple(str(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_text = [not any(cell[:1].isdigit() for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_text, strict=True)
        ).rstrip()
        for row in rows
    ]
