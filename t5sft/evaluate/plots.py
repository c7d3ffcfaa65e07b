"""Pictures of a run, drawn without a display."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

_BEFORE, _AFTER = "#c3cad1", "#2f6db5"
_TRAIN, _VALIDATION = "#8fb3dd", "#d9662b"
_INK, _GRID = "#30363c", "#e4e7ea"


class Panel(NamedTuple):
    """Bars of one suite: the same tasks from top to bottom in all panels of a row."""

    title: str
    tasks: Sequence[str]
    before: Sequence[float | None]
    after: Sequence[float | None]


def curves(folder: pathlib.Path, lines: Sequence[Mapping]) -> list[pathlib.Path]:
    """Draws loss.png and accuracy.png from the lines of metrics.jsonl that have these figures."""
    units = {
        "loss": "loss (nats per target token)",
        "accuracy": "accuracy (% of target tokens)",
    }
    paths = []
    for name, axis in units.items():
        scale = 100 if name == "accuracy" else 1
        series = {}
        for split in ("train", "validation"):
            points = [
                (line["step"], line["values"][name] * scale)
                for line in lines
                if line["split"] == split and math.isfinite(line["values"].get(name, math.nan))
            ]
            if points:
                series[split] = list(zip(*points, strict=True))
        if series:
            paths.append(_curve(folder / f"{name}.png", axis, series))
    return paths


def _curve(path: pathlib.Path, axis: str, series: Mapping) -> pathlib.Path:
    figure = _figure(6.4, 3.8, layout="constrained")
    axes = figure.add_subplot()
    for split, (steps, values) in series.items():
        is_train = split == "train"
        axes.plot(
            steps,
            values,
            color=_TRAIN if is_train else _VALIDATION,
            lw=1.6,
            marker="" if is_train and len(steps) > 1 else "o",
            ms=4,
            label=f"{split} ({values[-1]:.3g} at step {steps[-1]})",
        )
    axes.set_xlabel("training step")
    axes.set_ylabel(axis)
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=_GRID)
    _plain(axes)
    _legend(figure, axes.get_lines())
    figure.savefig(path)
    return path


def bars(path: pathlib.Path, axis: str, rows: Sequence[Sequence[Panel]]) -> pathlib.Path:
    """Draws scores in [0, 100] before and after tuning, two bars a task."""
    columns = max(len(panels) for panels in rows)
    longest = max(len(task) for panels in rows for task in panels[0].tasks)
    # Inches, set by hand: so a bar is as thick in a panel of two tasks as in one of thirty.
    left, panel_width, task_height, gap = 0.3 + 0.066 * longest, 3.0, 0.27, 0.95
    width = left + columns * (panel_width + 0.3)
    height = sum(len(panels[0].tasks) * task_height + gap for panels in rows) + 0.3
    figure = _figure(width, height)
    top = height - 0.3
    for panels in rows:
        panel_height = len(panels[0].tasks) * task_height
        top -= panel_height + gap
        for j, panel in enumerate(panels):
            at = (left + j * (panel_width + 0.3), top + 0.6, panel_width, panel_height)
            sizes = [at[0] / width, at[1] / height, at[2] / width, at[3] / height]
            axes = figure.add_axes(sizes)
            _bars(axes, panel, names=j == 0)
            axes.set_xlabel(axis)
    _legend(figure, figure.axes[0].containers)
    figure.savefig(path)
    return path


def _bars(axes, panel: Panel, *, names: bool) -> None:
    places = range(len(panel.tasks))
    for scores, label, color, shift in (
        (panel.before, "before tuning", _BEFORE, -0.2),
        (panel.after, "after tuning", _AFTER, 0.2),
    ):
        if any(score is not None for score in scores):
            widths = [score or 0.0 for score in scores]
            axes.barh([y + shift for y in places], widths, 0.4, color=color, label=label)
    for y, score in zip(places, panel.after, strict=True):
        if score is not None:
            axes.text(score + 1.5, y + 0.2, f"{score:.0f}", va="center", fontsize=7, color=_INK)
    axes.set_title(panel.title, loc="left", fontsize=10, color=_INK)
    axes.set_xlim(0, 108)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_ylim(len(panel.tasks) - 0.4, -0.6)
    axes.set_yticks(places, panel.tasks if names else [""] * len(panel.tasks))
    axes.grid(axis="x", color=_GRID)
    _plain(axes)
    axes.tick_params(axis="y", length=0)


def _plain(axes) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=9)


def _legend(figure, handles) -> None:
    place = "outside upper right" if figure.get_layout_engine() else "upper right"
    words = [handle.get_label() for handle in handles]
    figure.legend(handles, words, loc=place, ncols=len(words), frameon=False, fontsize=9)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = None):
    """A figure of inches that belongs to no window."""
    # Imported here: half a second. Without pyplot, no display is looked for.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout=layout)
