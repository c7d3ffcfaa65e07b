"""Natural Instructions encodings: a task's definition and examples before the instance.

Tk-Instruct (Wang et al. 2022, arXiv:2204.07705, section 5; github.com/yizhongw/Tk-Instruct):

  Definition: <definition>

   Positive Example 1 -
  Input: <input>
   Output: <output>

  Now complete the following example -
  Input: <input>
  Output:

A full stop is added where a text ends without punctuation. Examples are added one by one while the
whole fits. One of several reference outputs is drawn by (seed, task, index). The original ends with
a space after "Output:"; here it does not, since no vocabulary begins an answer after a space.
"""

import json
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from t5sft import errors
from t5sft.data import records
from t5sft.data.flan import choices


class Encoding(NamedTuple):
    """What stands before the instance."""

    definition: bool = True
    num_positive: int = 2
    num_negative: int = 0
    explanations: bool = False
    max_length: int = 4096  # of the whole in units of `measure`; Tk-Instruct: 1,024 tokens


class Example(NamedTuple):
    """A worked example of a task file."""

    input: str
    output: str
    explanation: str = ""


def read(
    row: Mapping[str, Any],
    *,
    where: str,
    task: str,
    index: int,
    encoding: Encoding | None = None,
    seed: int = 0,
    measure: Callable[[str], int] = len,
) -> records.Record | records.Dropped:
    """Reads one instance of a task file, version 1 or 2, the task's fields beside its own.

    The metadata holds what `t5sft.evaluate.scores.references` makes of it: all right answers, and
    the input and the first example's output, which the baselines copy.

    Args:
      row: Definition, Positive and Negative Examples (version 1: within Examples), input, output.
      task, index: of the instance, for the draw of its reference output.
    """
    encoding = encoding or Encoding()
    outputs = row.get("output")
    outputs = [outputs] if isinstance(outputs, str) else outputs
    if not isinstance(outputs, list) or not all(isinstance(text, str) for text in outputs):
        raise errors.DataError(f"output is no text or list of texts; {where}; mend the task file")
    outputs = [text.strip() for text in outputs if text.strip()]
    if not outputs:
        return records.Dropped("empty response")
    text = prompt(row, encoding, where=where, measure=measure)
    target = outputs[choices.number(len(outputs), seed, task, index, "output")]
    metadata = {"references": json.dumps(outputs, ensure_ascii=False)}
    metadata["input"] = _text(row, "input", where)
    for example in examples(row, "Positive", where)[:1]:
        metadata["demonstration"] = example.output
    for ours, theirs in (("task", "Title"), ("category", "Categories"), ("id", "id")):
        value = row.get(theirs)
        value = ", ".join(map(str, value)) if isinstance(value, list) else value
        if value:
            metadata[ours] = str(value)
    messages = (records.Message("user", text), records.Message("assistant", target))
    return records.Record(messages, metadata=metadata)


def prompt(
    row: Mapping[str, Any],
    encoding: Encoding,
    *,
    where: str = "",
    measure: Callable[[str], int] = len,
) -> str:
    """Writes definition, as many examples as fit, and the instance's input."""
    instance = _stopped(
        f"Now complete the following example -\nInput: {_text(row, 'input', where)}"
    )
    instance += "\nOutput:"
    before = ""
    if encoding.definition:
        before = _stopped(f"Definition: {_text(row, 'Definition', where)}") + "\n\n"
    for kind, count in (
        ("Positive", encoding.num_positive),
        ("Negative", encoding.num_negative),
    ):
        for number, example in enumerate(examples(row, kind, where)[:count], 1):
            written = _written(example, kind, number, encoding.explanations)
            if measure(before + written + instance) > encoding.max_length:
                break
            before += written
    return before + instance


def _written(example: Example, kind: str, number: int, explanations: bool) -> str:
    text = _stopped(f" {kind} Example {number} -\nInput: {example.input}") + "\n"
    text += _stopped(f" Output: {example.output}") + "\n"
    if explanations and example.explanation:
        text += _stopped(f" Explanation: {example.explanation}") + "\n"
    return text + "\n"


def _stopped(text: str) -> str:
    """Adds a full stop where a text ends without punctuation."""
    return text if text[-1] in string.punctuation else f"{text}."


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if isinstance(value, list) and value:
        value = value[0]  # version 2 writes definitions as lists
    if not isinstance(value, str):
        raise errors.DataError(f"no text {field!r}; {where}; give a Natural Instructions task file")
    return value.strip()


def examples(row: Mapping[str, Any], kind: str, where: str = "") -> Sequence[Example]:
    """Returns the positive or negative examples of a task file of either version."""
    field = f"{kind} Examples"
    nested = row.get("Examples")
    listed = row.get(field, nested.get(field) if isinstance(nested, Mapping) else None)
    found = []
    for example in listed if isinstance(listed, list) else []:
        if not isinstance(example, Mapping):
            continue  # version 1 writes "-" where there is none
        output = example.get("output")
        output = output[0] if isinstance(output, list) and output else output
        why = example.get("explanation", example.get("reason", ""))
        if not isinstance(example.get("input"), str) or not isinstance(output, str):
            raise errors.DataError(f"an example of {field!r} has no text; {where}; mend the file")
        found.append(Example(example["input"].strip(), output.strip(), str(why or "").strip()))
    return found
