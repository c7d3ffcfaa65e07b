"""Ten wordings of every village task, as data; the last two of each are never trained on.

FLAN (Wei et al. 2021, arXiv:2109.01652, section 2.1) composes ten templates a task; there a
held-out task is met in words of its own. Here two wordings of each trained task are held out too.
Example: TEMPLATES["sort_numbers"][0]
  ("Sort these numbers from smallest to largest: {numbers}", "{answer}")
"""

import re

from t5sft.tasks import village_templates_reading, village_templates_writing

HELD_OUT_TEMPLATES = 2

# The answer alone is the target: what form it takes is said by the task, never by the wording.
TEMPLATES = {
    task: tuple((inputs, "{answer}") for inputs in wordings)
    for task, wordings in {
        **village_templates_reading.WORDINGS,
        **village_templates_writing.WORDINGS,
    }.items()
}


def fields_of(pattern: str) -> list[str]:
    """Returns the names of a pattern's fields, in the order of the pattern."""
    return re.findall(r"\{([a-z_]+)\}", pattern)


def render(pattern: str, fields: dict[str, str]) -> str:
    """Puts the fields into a pattern; braces that come with a field's text stay text.

    Raises:
      ValueError: the pattern has a field that is not given.
    """
    missing = sorted(set(fields_of(pattern)) - set(fields))
    if missing:
        raise ValueError(f"{pattern!r} needs {missing[0]}; given: {', '.join(sorted(fields))}")
    return re.sub(r"\{([a-z_]+)\}", lambda match: fields[match[1]], pattern)
