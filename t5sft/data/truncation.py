"""Truncation: examples are brought to the lengths of a row, by a named policy, and counted.

A decoder's sequence of n tokens takes n - 1 places of a row: each predicts its successor.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from t5sft import errors
from t5sft.data import records
from t5sft.data.tokens import Example, Tokens

TooLong = Literal["drop", "cut_prompt", "cut_response", "split_turns", "split_text", "error"]


def fit(
    example: Example, *, layout: str, encoder_length: int, decoder_length: int, too_long: TooLong
) -> tuple[Example, bool]:
    """Brings an example to the lengths of a row; says whether it was cut.

    "cut_prompt" takes tokens from the left of the prompt and keeps the first one (bos) and the
    whole answer; "cut_response" cuts the end of the answer, the end token included. "split_turns"
    works on conversations, see `rounds`, "split_text" on plain texts, see `denoising`; a part that
    is still too long is dropped here.

    A weight below 0 marks a token of the prompt that shall weigh something in the end.

    Raises:
      Dropped: the policy says so, or nothing learnt is left.
      DataError: policy "error".
    """
    made, was_cut = fit_unit(
        [example],
        layout=layout,
        encoder_length=encoder_length,
        decoder_length=decoder_length,
        too_long=too_long,
    )
    return made[0], was_cut


def fit_unit(
    unit: Sequence[Example],
    *,
    layout: str,
    encoder_length: int,
    decoder_length: int,
    too_long: TooLong,
) -> tuple[list[Example], bool]:
    """Brings examples that share a row (a pair, K candidates) to the row's lengths together.

    All lose the same number of prompt tokens ("cut_prompt"), or the longest answers lose most, so
    that all end at the same length ("cut_response").
    """
    is_decoder = layout == "decoder"
    shift = 1 if is_decoder else 0
    sizes = [len(one.targets.ids) - shift for one in unit]
    over_inputs = sum(len(one.inputs.ids) for one in unit) - encoder_length
    over_targets = sum(sizes) - decoder_length
    if over_inputs <= 0 and over_targets <= 0:  # as `is_within`
        _check_learnt(unit)
        return list(unit), False
    if too_long == "error":
        have = " and ".join(
            f"{len(one.inputs.ids)} input and {len(one.targets.ids)} target tokens" for one in unit
        )
        raise errors.DataError(
            f"an example has {have}, rows hold {encoder_length} and {decoder_length + shift}; "
            "too_long='error'; raise encoder_length/decoder_length or choose another too_long "
            "policy"
        )
    if too_long in ("drop", "split_turns", "split_text"):
        raise records.Dropped("too long")
    if too_long == "cut_prompt":
        if not is_decoder and over_targets > 0:
            raise records.Dropped("answer too long")
        cut = -(-max(over_targets if is_decoder else over_inputs, 0) // len(unit))
        made = [
            Example(one.inputs, _cut_prompt(one.targets, cut))
            if is_decoder
            else _cut_inputs(one, cut)
            for one in unit
        ]
    else:
        if over_inputs > 0:
            raise records.Dropped("prompt too long")
        room = _level(sizes, decoder_length) + shift
        made = [one._replace(targets=one.targets.cut(slice(0, room))) for one in unit]
    _check_learnt(made)
    return made, True


def is_within(
    unit: Sequence[Example], *, layout: str, encoder_length: int, decoder_length: int
) -> bool:
    """Says whether the examples of a unit fit one row together."""
    shift = 1 if layout == "decoder" else 0
    inputs = sum(len(one.inputs.ids) for one in unit)
    targets = sum(len(one.targets.ids) - shift for one in unit)
    return inputs <= encoder_length and targets <= decoder_length


def num_learnt(example: Example) -> int:
    """Returns the number of tokens that learn; weights below 0 mark prompts."""
    return int(np.count_nonzero(np.asarray(example.targets.weights) > 0))


def _check_learnt(unit: Sequence[Example]):
    for one in unit:
        if not num_learnt(one):
            raise records.Dropped("nothing to learn")


def _cut_inputs(one: Example, cut: int) -> Example:
    """Takes `cut` tokens from the left of an encoder's text; its end token is no prompt."""
    if cut >= len(one.inputs.ids):
        raise records.Dropped("prompt too long")
    return one._replace(inputs=one.inputs.cut(slice(cut, None)))


def _cut_prompt(targets: Tokens, cut: int) -> Tokens:
    """Takes `cut` tokens after the first one, all of them before the first learnt token."""
    if cut == 0:
        return targets
    first_learnt = int(np.argmax(np.asarray(targets.weights) > 0))
    if 1 + cut > first_learnt:
        raise records.Dropped("answer too long")
    keep = [0, *range(1 + cut, len(targets.ids))]
    return Tokens(*(np.asarray(column)[keep] for column in targets))


def _level(sizes: Sequence[int], room: int) -> int:
    """Returns the greatest length to which all can be cut so that their sum fits.

    Example: _level([2, 9, 9], 12) = 5
    """
    level, left = 0, room
    for i, size in enumerate(sorted(sizes)):
        level = left // (len(sizes) - i)
        if size > level:
            return level
        left -= size
    return max(sizes)


def rounds(messages: Sequence[records.Message]) -> list[list[int]]:
    """Cuts a conversation before every user message that follows an answer; numbers of messages.

    So every part ends with an answer and holds the tool calls and results in between. A system
    prompt at the start belongs to none.

    Example (system, user, assistant, user, assistant):
      [[1, 2], [3, 4]]
    """
    out: list[list[int]] = [[]]
    for i, message in enumerate(messages):
        if i == 0 and message.role == "system":
            continue
        if message.role == "user" and out[-1] and messages[out[-1][-1]].role == "assistant":
            out.append([])
        out[-1].append(i)
    return out


def split_turns(
    messages: Sequence[records.Message], fits: Callable[[list[int]], bool]
) -> tuple[list[list[int]], int]:
    """Cuts a long conversation into shorter ones, each the longest that fits, from the start.

    Every part is a run of whole `rounds` with the system prompt before it; parts do not overlap,
    so every answer is learnt exactly once, and what came before its part is forgotten.

    Args:
      fits: whether a conversation of the messages of these numbers fits a row.

    Returns:
      The parts, and how many rounds are left out because they do not fit even alone.
    """
    system = [0] if messages[0].role == "system" else []
    left, parts, lost = rounds(messages), [], 0
    while left:
        low, high, step = 0, len(left), 1  # `low` rounds fit, those beyond `high` do not
        while low < high:
            middle = min(low + step, high)
            if fits(system + sum(left[:middle], [])):
                low, step = middle, step * 2
            else:
                high, step = middle - 1, max(step // 2, 1)
        if low:
            parts.append(system + sum(left[:low], []))
        lost += not low
        left = left[max(low, 1) :]
    return parts, lost


def forget_turns(
    messages: Sequence[records.Message], fits: Callable[[list[int]], bool]
) -> list[int] | None:
    """Takes the oldest rounds from a conversation until it fits; None: it never does.

    The system prompt and the last round stay.
    """
    system = [0] if messages[0].role == "system" else []
    left = rounds(messages)
    for first in range(len(left)):
        part = system + sum(left[first:], [])
        if fits(part):
            return part
    return None
