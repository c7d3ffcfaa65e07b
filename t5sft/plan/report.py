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
    lines = ["memory per device, GB"]
    lines += [f"  {name:24}{value / GB:10.2f}" for name, value in rows if value is not None]
    verdict = "fits" if memory.fits else "does NOT fit"
    return [*lines, f"  {verdict + ' into':24}{room / GB:10.2f}"]


def _work(plan, told) -> list[str]:
    counts, work = plan.counts, told["flops_per_step"]
    lines = [
        "per device and step",
        f"  {'model, TFLOP':24}{work['analytic'] / 1e12:10.2f}",
        f"  {'matrix products, TFLOP':24}{work['hlo'] / 1e12:10.2f}",
        f"  {'kernels, TFLOP':24}{work['kernels'] / 1e12:10.2f}",
        f"  {'through HBM, GB':24}{counts.hbm_bytes / GB:10.2f}   (estimate)",
        f"  {'on the wire, GB':24}{counts.wire_bytes / GB:10.2f}",
    ]
    if counts.undeclared_kernels:
        lines.append(f"  {counts.undeclared_kernels} kernel calls declare no FLOPs: not counted")
    if counts.unknown_loops:
        lines.append(f"  loops counted once: {', '.join(counts.unknown_loops)}")
    return lines


def _collectives(plan) -> list[str]:
    rows = [("collective", "axis", "count", "GB")]
    rows += [
        (c.kind, c.axis, f"{c.count:,}", f"{c.wire_bytes_per_chip / GB:.3f}")
        for c in sorted(plan.counts.collectives, key=lambda c: -c.wire_bytes_per_chip)
    ]
    return table(rows)


def _time(plan, told) -> list[str]:
    seconds = told["step_seconds"]
    names = {"compute": "compute", "hbm": "HBM", "ici": "interconnect", "dcn": "between slices"}
    lines = [
        f"{name:24}{seconds[key] * 1000:12.1f} ms"
        for key, name in names.items()
        if key != "dcn" or plan.place.num_slices > 1
    ]
    return [
        *lines,
        f"{'step, at least':24}{seconds['predicted'] * 1000:12.1f} ms   "
        f"(bound by {names[told['bound']]}; {told['mfu']:.0%} MFU)",
        f"{'tokens/s per chip':24}{told['tokens_per_second_per_chip']:12,.0f}",
        f"{told['steps']:,} steps: {told['hours']:.2f} h, {told['chip_hours']:,.0f} chip-hours",
    ]


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
