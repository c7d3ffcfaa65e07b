"""How a benchmark's questions are put to a model: the conversation, its shots, where answers end.

A protocol has a name, which every result carries: figures of different protocols do not compare.
Whole prompts are one message of the user, so that the run's own template stands around them.
"""

import pathlib
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from t5sft import errors
from t5sft.data.records import Message
from t5sft.evaluate import answering
from t5sft.evaluate.answers import benchmarks, extraction

Question = Mapping[str, Any]


class Protocol(NamedTuple):
    """Questions ready to be asked."""

    name: str
    conversations: list[tuple[Message, ...]]
    decoding: answering.Decoding


class Style(NamedTuple):
    """A way of asking: (questions, shots, folder) -> prompts."""

    write: Callable[[Sequence[Question], int, str | None], list[str]]
    shots: int  # by default
    max_new_tokens: int
    stop: tuple[str, ...] = ()


def build(
    task: str,
    questions: Sequence[Question],
    *,
    style: str | None = None,
    shots: int | None = None,
    folder: str | None = None,
    max_new_tokens: int | None = None,
) -> Protocol:
    """Writes the prompts of a benchmark.

    Args:
      style: one of `styles(task)`; None: the first.
      shots: worked examples before the question; None: as many as the style has.
      folder: where the shots lie, as `benchmarks` takes --data.

    Raises:
      ConfigError: no such style, or more shots than there are.
    """
    known = styles(task)
    name = style or next(iter(known))
    if name not in known:
        raise errors.ConfigError(
            f"no style {name!r}{errors.suggest(name, known)}; --style of {task}; use one of "
            f"{', '.join(known)}"
        )
    chosen = known[name]
    number = chosen.shots if shots is None else shots
    if number and not chosen.shots:
        raise errors.ConfigError(f"style {name!r} has no shots; --shots of {task}; leave it out")
    prompts = chosen.write(questions, number, folder)
    decoding = answering.Decoding(max_new_tokens or chosen.max_new_tokens, chosen.stop)
    label = f"{name}, {number} shots" if chosen.shots else name
    return Protocol(label, [(Message("user", prompt),) for prompt in prompts], decoding)


def styles(task: str) -> dict[str, Style]:
    """Returns the styles of a benchmark by name, its usual one first."""
    if task == "bbh" or task.startswith("bbh_"):
        return _BBH
    return _STYLES.get(task, _PLAIN)


def _field(name: str):
    def write(questions, shots, folder):
        del shots, folder
        return [question[name] for question in questions]

    return write


def _gsm8k(questions, shots, folder) -> list[str]:
    """Cobbe et al. 2021's training problems before the question, the first of the file.

    As lm-evaluation-harness's gsm8k, but that it draws the problems.
    """
    place = pathlib.Path(folder).expanduser() if folder else None
    if place is not None and place.is_file():
        folder = str(place.with_name("train.jsonl"))
    known = benchmarks.gsm8k_shots(folder)[:shots]
    _enough(known, shots, "GSM8K's train.jsonl")
    before = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in known)
    return [f"{before}Question: {one['question']}\nAnswer:" for one in questions]


def _bbh(is_direct: bool):
    """Suzgun et al. 2022's prompts: a description and three worked examples of the task.

    Asked directly, the examples lose their reasoning and keep what follows "the answer is".
    """

    def write(questions, shots, folder):
        before: dict[str, str] = {}
        out = []
        for question in questions:
            task = question["task"]
            if task not in before:
                before[task] = _bbh_shots(task, folder, shots, is_direct)
            ask = "A:" if is_direct else "A: Let's think step by step."
            out.append(f"{before[task]}Q: {question['input']}\n{ask}")
        return out

    return write


def _bbh_shots(task: str, folder: str | None, shots: int, is_direct: bool) -> str:
    (path,) = benchmarks.bbh_prompt(task, folder)
    text = path.read_text("utf-8").partition("-----\n")[2].strip()
    description, *examples = re.split(r"(?:^|\n)Q: ", text)
    _enough(examples, shots, str(path))
    out = [description.strip()]
    for example in examples[:shots]:
        question, found, reasoning = example.strip().partition("\nA:")
        answer = extraction.chain_of_thought(reasoning)
        if not found or answer is None:
            raise errors.DataError(f"an example without an answer; {path}; give it as published")
        out.append(f"Q: {question}\nA: {answer}" if is_direct else f"Q: {example.strip()}")
    return "\n\n".join(out) + "\n\n"


def _enough(found: Sequence, shots: int, where: str) -> None:
    if len(found) < shots:
        raise errors.ConfigError(f"only {len(found)} examples; --shots {shots}, {where}; ask fewer")


def _squad(questions, shots, folder) -> list[str]:
    del shots, folder
    lacking = [i for i, one in enumerate(questions) if not one.get("context")]
    if lacking:
        raise errors.DataError(
            f"no context; question {lacking[0]}; give SQuAD's file, or rows with context and "
            "question"
        )
    return [f"{one['context']}\n\n{one['prompt']}" for one in questions]


def _natural_instructions(questions, shots, folder) -> list[str]:
    """Tk-Instruct's prompt: see tasks/natural_instructions.py."""
    del folder
    out = []
    for one in questions:
        definition = one.get("definition")
        parts = [_stopped("Definition: ", definition) + "\n\n"] if definition else []
        for i, (given, wanted) in enumerate(one.get("examples", ())[:shots], 1):
            parts.append(f" Positive Example {i} -\n{_stopped('Input: ', given)}\n")
            parts.append(f"{_stopped(' Output: ', wanted)}\n\n")
        asked = _stopped("Input: ", one["prompt"])
        parts.append(f"Now complete the following example -\n{asked}\nOutput:")
        out.append("".join(parts))
    return out


def _stopped(head: str, text: str) -> str:
    """Adds a full stop where a text ends without punctuation, as Tk-Instruct."""
    whole = head + text.strip()
    return whole if whole[-1] in string.punctuation else f"{whole}."


# Where an answer goes on to a question of its own. As lm-evaluation-harness without the line break
# before it, which vocabularies of T5 do not have.
_QUESTION, _Q = ("Question:",), ("\nQ:", " Q:")
_PLAIN = {"zero": Style(_field("prompt"), 0, 128)}
_STYLES: dict[str, dict[str, Style]] = {
    "ifeval": {"zero": Style(_field("prompt"), 0, 1280)},
    "gsm8k": {
        "few": Style(_gsm8k, 5, 512, _QUESTION),
        "zero": Style(_field("question"), 0, 512),
    },
    "squad": {"zero": Style(_squad, 0, 64)},
    "humaneval": {"zero": Style(_field("prompt"), 0, 512)},
    "natural_instructions": {"definition": Style(_natural_instructions, 2, 128)},
}
_BBH = {
    "chain_of_thought": Style(_bbh(False), 3, 512, _Q),
    "direct": Style(_bbh(True), 3, 32, _Q),
    "zero": Style(_field("input"), 0, 512),
}
