"""Where the time of a run went, over all its restarts (the verb `t5sft goodput`)."""

from typing import Any

from t5sft.train import events

# Kind of time -> what it is. Only "step" was of use.
KINDS = {
    "step": "steps that are part of the model",
    "lost": "steps made again after a restart",
    "wait": "waiting for data",
    "stall": "steps far slower than usual",
    "save": "saving",
    "evaluate": "evaluating",
    "compile": "compiling",
    "restart": "restoring",
    "other": "starting, and what is not told apart",
    "down": "between a process's last sign and the next one's start",
}


def goodput(directory: str) -> dict[str, Any]:
    """Adds up MODEL_DIR/events.jsonl, prints where the time went, and returns it.

    Raises:
      ConfigError: there are no events.
    """
    result = add_up(events.read(directory))
    total = max(result["seconds"], 1e-9)
    for kind, meaning in KINDS.items():
        seconds = result["kinds"][kind]
        print(f"{kind:9}{seconds:12.1f} s  {seconds / total:6.1%}  {meaning}")
    print(
        f"{'total':9}{result['seconds']:12.1f} s  goodput {result['goodput']:.1%}; step "
        f"{result['step']}, {result['attempts']} starts, {result['lost_steps']} steps lost"
    )
    return result


def add_up(lines: list[dict]) -> dict[str, Any]:
    """Returns seconds by kind, the share of use, steps lost, starts, stalls.

    Example: a run of steps 1 to 20, a second each, killed after its save at 10, goes on from 10.
      step 20 s, lost 10 s, lost_steps 10, attempts 2
    """
    kinds = dict.fromkeys(KINDS, 0.0)
    made: list[tuple[int, int, float]] = []  # first step, last step, seconds
    lost_steps, stalls, attempts = 0, 0, []
    begun = ended = None
    for line in lines:
        event, seconds = line["event"], float(line.get("seconds", 0.0))
        if line["attempt"] not in attempts:
            attempts.append(line["attempt"])
            started = line["t"] - float(line.get("age", 0.0))
            begun = started if begun is None else begun
            if ended is not None:
                kinds["down"] += max(started - ended, 0.0)
        ended = line["t"] if ended is None else max(ended, line["t"])
        if event in ("step", "restart"):
            # Steps that come again were lost: a run killed before its first save tells no restart.
            made, cut = _cut(made, line["step"] if event == "restart" else line["first"] - 1)
            lost_steps += sum(last - first + 1 for first, last, _ in cut)
            kinds["lost"] += sum(spent for *_, spent in cut)
        if event == "step":
            made.append((line["first"], line["last"], seconds))
            kinds["wait"] += float(line.get("waited", 0.0))
        if event in ("save", "evaluate", "compile", "restart", "stall"):
            kinds[event] += seconds
            stalls += event == "stall"
    kinds["step"] = sum(seconds for *_, seconds in made)
    total = 0.0 if begun is None or ended is None else ended - begun
    kinds["other"] = max(total - sum(kinds.values()), 0.0)
    return {
        "seconds": round(total, 3),
        "goodput": kinds["step"] / total if total > 0 else 0.0,
        "kinds": {kind: round(seconds, 3) for kind, seconds in kinds.items()},
        "step": max((last for _, last, _ in made), default=0),
        "lost_steps": lost_steps,
        "attempts": len(attempts),
        "stalls": stalls,
    }


def _cut(made, step: int):
    """Parts what was made into the steps up to `step` and those beyond, which are lost."""
    kept, lost = [], []
    for first, last, seconds in made:
        number = last - first + 1
        inside = min(max(step - first + 1, 0), number)
        if inside:
            kept.append((first, first + inside - 1, seconds * inside / number))
        if inside < number:
            lost.append((first + inside, last, seconds * (number - inside) / number))
    return kept, lost
