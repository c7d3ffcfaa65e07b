"""Shots: exemplars before the query, of the query's own pattern, pruned to a length."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from t5sft.data.flan import patterns


class Shot(NamedTuple):
    """One written example, before prefixes and delimiters."""

    inputs: str
    targets: str


def select(
    query: Shot,
    drawn: Iterable[Shot],
    pattern: patterns.Pattern,
    *,
    wanted: int,
    max_length: int,
    measure: Callable[[str], int] = len,
) -> list[Shot]:
    """Returns the exemplars of a query: the first `wanted` drawn that are not the query itself.

    Pruned as FLAN v2 prunes: exemplars are kept while their lengths, added up, fit beside the
    query's inputs. What is kept is always a beginning of what was drawn.

    Args:
      drawn: candidates in the order drawn. One with the query's inputs is passed over, whatever
        its row: it would give the answer away.
      max_length: of all inputs together, in units of `measure`. FLAN v2 counts 1,920 tokens; a
        task yields text before any vocabulary, so characters are counted unless told otherwise.
    """
    kept: list[Shot] = []
    room = max_length - measure(pattern.inputs_prefix + query.inputs + pattern.x_y_delimiter)
    for shot in drawn:
        if len(kept) == wanted:
            break
        if shot.inputs.strip() == query.inputs.strip():
            continue
        room -= measure(written(shot, pattern))
        if room < 0:
            break
        kept.append(shot)
    return kept


def written(shot: Shot, pattern: patterns.Pattern) -> str:
    """Writes an exemplar with what stands around it."""
    return (
        f"{pattern.inputs_prefix}{shot.inputs}{pattern.x_y_delimiter}"
        f"{pattern.targets_prefix}{shot.targets}{pattern.example_separator}"
    )


def inputs(query: Shot, exemplars: Iterable[Shot], pattern: patterns.Pattern, row: Any) -> str:
    """Writes the whole inputs: exemplars, then the query up to where its answer would stand.

    The targets' prefix loses the white space at its end, and so do the inputs lose spaces (SeqIO's
    fewshot_preprocessor and FLAN v2): the answer begins with it in no vocabulary.

    Example (prefixes "Q: ", "A: ", delimiter "\\n", separator "\\n\\n"):
      Q: 1 + 1?
      A: 2

      Q: 2 + 2?
      A:
    """
    text = "".join(written(shot, pattern) for shot in exemplars)
    text += f"{pattern.inputs_prefix}{query.inputs}{pattern.x_y_delimiter}"
    text = (text + pattern.targets_prefix.rstrip()).rstrip(" ")
    around = pattern.input_pattern.replace("{final_suffix}", pattern.final_suffix)
    before, _, after = around.partition("{{inputs}}")
    return _around(before, row) + text + _around(after, row)


def _around(text: str, row: Any) -> str:
    return patterns.fill(text.replace("{{", "{").replace("}}", "}"), row)
