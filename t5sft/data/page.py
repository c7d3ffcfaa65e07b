"""Pages: one self-contained HTML file, with inline pictures, for light and dark screens.

Nothing is loaded from elsewhere, no script runs, and every text is escaped.
"""

import html
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5sft import errors

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #66717c; --line: #e1e5e9; --page: #fafbfc;
  --card: #ffffff; --blue: #2f6db5; --pale: #b9d0ec; --warm: #c8592a; --user: #e6edf5;
  --learnt: #d5efdc; --learnt-line: #2f8a4e; --control: #efe4f7; --warn: #fff3dc; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa5b0; --line: #30373e; --page: #14181c; --card: #1b2025;
    --blue: #6ea8e6; --pale: #35506f; --warm: #ee9566; --user: #26303b; --learnt: #1c3d29;
    --learnt-line: #5fc380; --control: #38294a; --warn: #3d331d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; padding-top: 20px; border-top: 1px solid var(--line); }
h3 { font-size: 13px; margin: 0 0 8px; color: var(--soft); font-weight: 600; }
p.lead { color: var(--soft); margin: 0 0 20px; }
code, .mono { font: 12.5px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(126px, 1fr)); gap: 12px; }
.tile, .box { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 21px; white-space: nowrap; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.tile i { display: block; font-style: normal; color: var(--soft); font-size: 12px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 16px;
  margin-top: 16px; }
.box { padding: 14px 16px; margin-top: 16px; overflow-x: auto; }
.pair .box { margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-size: 13px; line-height: 1.45;
  font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); font-size: 12px; }
td { text-align: right; }
th, td { padding: 4px 0 4px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.text, th.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
ul.warn { list-style: none; margin: 16px 0 0; padding: 10px 16px; background: var(--warn);
  border-radius: 10px; }
svg { display: block; width: 100%; height: auto; }
svg.columns { max-width: 560px; }
.who { color: var(--soft); font-size: 12.5px; margin-bottom: 4px; }
svg text { fill: var(--soft); font-size: 11px; }
.bar { fill: var(--blue); } .bar.pale { fill: var(--pale); } .axis { stroke: var(--line); }
.mark { stroke: var(--warm); stroke-width: 1.5; stroke-dasharray: 3 3; }
svg text.mark-text { fill: var(--warm); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.say { padding: 1px 0; border-radius: 3px; background: var(--user); }
.say.learnt { background: var(--learnt); box-shadow: inset 0 -2px 0 var(--learnt-line); }
.say.control { padding: 0 4px; margin: 0 1px; background: var(--control); font-size: 11px; }
.say.control.learnt { box-shadow: inset 0 -2px 0 var(--learnt-line); }
.say + .say { margin-left: 1px; }
.legend { display: flex; flex-wrap: wrap; gap: 14px; color: var(--soft); font-size: 13px;
  margin: 0 0 10px; }
.sample + .sample { border-top: 1px solid var(--line); margin-top: 12px; padding-top: 12px; }
details summary { cursor: pointer; color: var(--soft); }
"""


def escape(text: Any) -> str:
    """Makes a text harmless in HTML; characters that no page may hold are shown as U+FFFD."""
    safe = "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in str(text))
    return html.escape(safe.encode("utf-8", "replace").decode("utf-8"))


def write(path: pathlib.Path, title: str, body: Iterable[str]) -> pathlib.Path:
    """Writes a page.

    Raises:
      StorageError: it cannot be written.
    """
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.tmp")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise errors.StorageError(f"cannot write ({error.strerror}); {path}; mend it") from error
    return path


def number(value: float) -> str:
    """Writes a number for people: 12,345 or 0.97."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def brief(value: int) -> str:
    """Writes a count for a tile: 12,345 or 12.35 M."""
    if value < 1_000_000:
        return f"{value:,}"
    return f"{value / 1e6:.2f} M" if value < 1e9 else f"{value / 1e9:.2f} G"


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Figures in a row: (name, value, remark)."""
    made = (
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"{f'<i>{escape(remark)}</i>' if remark else ''}</div>"
        for name, value, remark in values
    )
    return f'<div class="tiles">{"".join(made)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, texts: Sequence[int] = ()) -> str:
    """A table; numbers are grouped, the columns `texts` are left-aligned and may wrap."""

    def cell(tag: str, i: int, value: Any) -> str:
        name = ' class="text"' if i in texts else ""
        shown = number(value) if isinstance(value, int | float) else str(value)
        return f"<{tag}{name}>{escape(shown)}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", i, value) for i, value in enumerate(head)) + "</tr>"]
    for row in rows:
        lines.append(
            "<tr>" + "".join(cell("td", i, value) for i, value in enumerate(row)) + "</tr>"
        )
    return f"<table>{''.join(lines)}</table>"


def box(title: str, content: str) -> str:
    """A framed part of a page."""
    return f'<div class="box">{f"<h3>{escape(title)}</h3>" if title else ""}{content}</div>'


def pair(parts: Iterable[str]) -> str:
    """Parts beside each other where there is room."""
    return f'<div class="pair">{"".join(parts)}</div>'


def warnings(texts: Sequence[str]) -> str:
    """A list of what deserves a look; nothing if there is nothing."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="warn">{items}</ul>' if texts else ""


def columns(edges: Sequence[int], counts: Sequence[int], marks: Mapping[str, float]) -> str:
    """A histogram; marks: name -> place on the axis, a dashed line."""
    width, height, left, top, bottom = 520, 180, 44, 22, 24
    most, span = max(max(counts), 1), edges[-1] - edges[0]
    inner, tall = width - left - 8, height - top - bottom

    def x(value: float) -> float:
        return left + inner * (min(value, edges[-1]) - edges[0]) / span

    out = [f'<svg class="columns" viewBox="0 0 {width} {height}" role="img">']
    for share in (0.5, 1.0):
        y = height - bottom - tall * share
        out.append(f'<line class="axis" x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">'
                   f"{_compact(most * share)}</text>")  # fmt: skip
    for begin, end, count in zip(edges, edges[1:], counts, strict=False):
        tallness = tall * count / most
        out.append(
            f'<rect class="bar" x="{x(begin) + 0.5:.1f}" y="{height - bottom - tallness:.1f}" '
            f'width="{max(x(end) - x(begin) - 1, 1):.1f}" height="{tallness:.1f}">'
            f"<title>{begin} to {end - 1}: {count:,}</title></rect>"
        )
    y = height - bottom
    out.append(f'<line class="axis" x1="{left}" x2="{width - 8}" y1="{y}" y2="{y}"/>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = round(edges[0] + span * share)
        anchor = "end" if share == 1 else "middle" if share else "start"
        out.append(f'<text x="{x(value):.1f}" y="{height - 8}" text-anchor="{anchor}">'
                   f"{value:,}</text>")  # fmt: skip
    taken: list[float] = []
    for name, value in sorted(marks.items(), key=lambda one: one[1]):
        at = x(value)
        out.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{y}"/>')
        if not taken or at - taken[-1] > 34:
            anchor = "end" if at > width - 40 else "middle"
            out.append(f'<text class="mark-text" x="{at:.1f}" y="{top - 9}" '
                       f'text-anchor="{anchor}">{escape(name)}</text>')  # fmt: skip
            taken.append(at)
    return "".join(out) + "</svg>"


def bars(rows: Sequence[tuple[str, float, float, str]]) -> str:
    """Horizontal bars: (name, whole, part of it that is dark, remark)."""
    width, tall, left, right = 1000, 22, 250, 170
    most = max((whole for _, whole, _, _ in rows), default=0) or 1
    out = [f'<svg viewBox="0 0 {width} {len(rows) * tall + 4}" role="img">']
    for i, (name, whole, dark, remark) in enumerate(rows):
        y, inner = i * tall + 4, width - left - right
        short = name if len(name) <= 38 else f"{name[:37]}\u2026"
        out.append(
            f'<text x="{left - 10}" y="{y + 13}" text-anchor="end" style="font-size:12.5px">'
            f"<title>{escape(name)}</title>{escape(short)}</text>"
        )
        for kind, value in (("bar pale", whole), ("bar", dark)):
            out.append(f'<rect class="{kind}" x="{left}" y="{y + 2}" rx="2" height="{tall - 8}" '
                       f'width="{inner * value / most:.1f}"/>')  # fmt: skip
        out.append(
            f'<text x="{left + inner * whole / most + 8:.1f}" y="{y + 13}" '
            f'style="font-size:12px">{escape(remark)}</text>'
        )
    return "".join(out) + "</svg>"


def spans(parts: Iterable[Mapping[str, Any]]) -> str:
    """Text of examples: what is learnt underlined, control tokens by name; on hover the weight."""
    out = []
    for part in parts:
        kinds = ["say", *(["control"] if part["is_control"] else [])]
        kinds += ["learnt"] if part["weight"] > 0 else []
        hint = f"{part['role']}, weight {part['weight']:g}"
        out.append(
            f'<span class="{" ".join(kinds)}" title="{escape(hint)}">{escape(part["text"])}</span>'
        )
    return f'<div class="mono text">{"".join(out)}</div>'


def legend() -> str:
    """Says what the colours of `spans` mean."""
    shown = (
        ("say", "not learnt"),
        ("say learnt", "learnt: part of the loss"),
        ("say control", "control token"),
    )
    made = "".join(f'<div><span class="{kind} mono">\u00a0abc\u00a0</span> {text}</div>'
                   for kind, text in shown)  # fmt: skip
    return f'<div class="legend">{made}</div>'


def _compact(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
