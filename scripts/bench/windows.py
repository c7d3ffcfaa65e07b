"""Windows of training steps: how they are timed, and the table of what was written about them.

python scripts/bench/windows.py RESULTS.jsonl [NAME=OF ...]
    medians of all lines of a name, and for NAME=OF how many times as fast as OF it is

A result is a line of JSON with at least name, tok_s_median (tokens per second of wall time) and
tok_per_cpu_s_median (per CPU second of the process, all threads). On a machine shared with other
work compare the second: waiting costs no CPU time. The keys are those of the peers' scripts.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

HERTZ = os.sysconf("SC_CLK_TCK")


class Now(NamedTuple):
    """A moment by three clocks, in seconds."""

    wall: float
    cpu: float  # of this process, all threads
    busy: float  # of all processes of the machine


class Window(NamedTuple):
    """What a number of steps took."""

    steps: int
    tokens: int  # that are not padding
    wall: float
    cpu: float
    other: float  # cores that other processes used meanwhile


def now() -> Now:
    """Reads the clocks."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, *interrupts = map(int, file.readline().split()[1:9])
    busy = (user + nice + system + sum(interrupts)) / HERTZ
    return Now(time.perf_counter(), time.process_time(), busy)


def since(begun: Now, steps: int, tokens: int) -> Window:
    """Ends a window."""
    wall, cpu, busy = (end - start for end, start in zip(now(), begun, strict=True))
    return Window(steps, tokens, wall, cpu, max(busy - cpu, 0.0) / wall)


def age() -> float:
    """Returns the seconds since this process was started."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        started = int(stat.read().rpartition(")")[2].split()[19]) / HERTZ
        return float(uptime.read().split()[0]) - started


def summary(name: str, windows: list[Window], **facts) -> dict:
    """Returns the result line of one program."""
    rates = [w.tokens / w.wall for w in windows]
    return {
        "name": name,
        "tok_s_median": round(statistics.median(rates), 1),
        "tok_per_cpu_s_median": round(statistics.median(w.tokens / w.cpu for w in windows), 1),
        "step_ms_median": round(statistics.median(1e3 * w.wall / w.steps for w in windows), 1),
        "cpu_ms_median": round(statistics.median(1e3 * w.cpu / w.steps for w in windows), 1),
        "nonpad_per_step": round(statistics.median(w.tokens / w.steps for w in windows), 1),
        "tok_s": [round(rate) for rate in rates],
        "other_cpu": [round(w.other, 2) for w in windows],
        "load1": round(os.getloadavg()[0], 2),
        "cpus": len(os.sched_getaffinity(0)),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **facts,
    }


def ratios(windows: list[Window], of: list[Window]) -> dict:
    """Returns the median of the ratios of neighbouring windows, step for step: 1.0 is as fast.

    Neighbours ran under the same load, so this is steadier than the ratio of two medians.
    """
    pairs = list(zip(windows, of, strict=True))
    wall = [(b.wall / b.steps) / (a.wall / a.steps) for a, b in pairs]
    cpu = [(b.cpu / b.steps) / (a.cpu / a.steps) for a, b in pairs]
    return {
        "wall": round(statistics.median(wall), 3),
        "cpu": round(statistics.median(cpu), 3),
        "walls": [round(ratio, 2) for ratio in wall],
        "cpus": [round(ratio, 2) for ratio in cpu],
    }


def row(name: str, *, wall: float, cpu: float, **_) -> str:
    """Returns the line of a ratio under a table."""
    return f"{name:48} {wall:10.3f} {cpu:13.3f}"


def table(results: list[dict], pairs: Sequence[tuple[str, str]] = ()) -> str:
    """Returns the medians by name, and the ratio of each pair (name, of)."""
    rates: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for result in results:
        rates[result["name"]].append((result["tok_s_median"], result["tok_per_cpu_s_median"]))
    median = {
        name: [statistics.median(column) for column in zip(*found, strict=True)]
        for name, found in rates.items()
    }
    lines = [f"{'':48} {'tokens/s':>10} {'tokens/CPU-s':>13} {'runs':>5}"]
    for name, (wall, cpu) in median.items():
        lines.append(f"{name:48} {wall:10.0f} {cpu:13.0f} {len(rates[name]):5}")
    for name, of in pairs:
        if name in median and of in median:
            wall, cpu = (a / b for a, b in zip(median[name], median[of], strict=True))
            lines.append(row(f"{name} / {of}", wall=wall, cpu=cpu))
    return "\n".join(lines)


def main(path: str, *pairs: str) -> None:
    with open(path) as file:
        results = [json.loads(line) for line in file if line.startswith('{"name"')]
    print(table(results, [tuple(pair.split("=")) for pair in pairs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
