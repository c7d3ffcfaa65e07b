"""Hugging Face chat templates: Jinja from a tokenizer_config.json or a .jinja file.

Such a template gives a string, not who wrote what. So one conversation is rendered twice: as it is,
and with private-use characters around every message's words. Without those characters the second
must equal the first; then they say exactly where each word of the first comes from. A template for
which that fails, because it changes what it is given, is refused: there is no guessed mask.

What is learnt of an answer: from where the prompt (the rendering up to it, with
`add_generation_prompt`) ends to the end-of-turn token, that token included; with {% generation %}
in the template, from where that tag begins. The prompt of the last answer must be the front of the
whole rendering, or the template is refused too.
"""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from t5sft import errors, paths
from t5sft.data import records, tokenizer_json, vocab
from t5sft.data.templates import marking, pieces, sandbox
from t5sft.data.templates.pieces import Piece, Weights

# Whatever of these lies beside a template decides what it writes.
FILES = (
    "chat_template.jinja",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
)
_NAMES = re.compile(r"<[|\uff5c][^<>|\uff5c]*[|\uff5c]>|" + vocab.TAGS)


@dataclasses.dataclass(frozen=True)
class JinjaTemplate:
    """A chat template of transformers.

    Args:
      name: where it comes from.
      source: the Jinja.
      names: control tokens it may write.
      bos_token, eos_token: what the variables of these names hold.
    """

    name: str
    source: str
    names: tuple[str, ...]
    bos_token: str
    eos_token: str
    adds_bos: bool = False  # the template itself writes it
    is_sure: bool = True  # the names are the tokenizer's, not guessed from the source

    def __hash__(self):
        return hash((self.name, self.source))

    @functools.cached_property
    def _sandbox(self) -> sandbox.Sandbox:
        return sandbox.Sandbox(self.source, self.name)

    def texts(self, asked: Sequence[dict[str, Any]], marks=None) -> list[dict[str, str]]:
        """Renders each conversation: {"text": ...} or {"error": why not}."""
        common = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        around = None if marks is None else marks.generation
        return self._sandbox.render([{"variables": common | one, "marks": around} for one in asked])

    def close(self):
        """Ends the process that renders; the next rendering starts another."""
        self._sandbox.close()

    @functools.cached_property
    def written_ending(self) -> str:
        probe = records.Record(
            (records.Message("user", "one"), records.Message("assistant", "two")), self.name
        )
        return _Reading(self, probe, None).find_ending()

    def ending(self) -> str:
        """Returns the control token that the template writes after an answer.

        Raises:
          DataError: it writes none: nobody could learn to stop.
        """
        return {"{bos}": "bos", "{eos}": "eos"}.get(self.written_ending, self.written_ending)

    def render(
        self, record: records.Record, weights: Sequence[Weights] | None = None
    ) -> list[Piece]:
        """See `templates.render`."""
        return _Reading(self, record, weights).pieces()

    def render_prompt(self, record: records.Record) -> list[Piece]:
        """Returns the rendering of all but the last message, up to where the answer begins."""
        return _Reading(self, record, None).prompt_pieces()


def load(path: pathlib.Path, name: str) -> JinjaTemplate:
    """Reads a chat template.

    Args:
      path: a .jinja file, a tokenizer_config.json, or the directory of a tokenizer.

    Raises:
      ConfigError: no chat template there.
    """
    directory = path if path.is_dir() else path.parent
    if path.is_dir():
        jinja = path / "chat_template.jinja"
        path = jinja if jinja.exists() else path / "tokenizer_config.json"
    if path.suffix == ".json":
        source = _of_config(path)
    else:
        source = _of_file(path)
    if not source:
        raise errors.ConfigError(
            f"no chat_template in {name}; template; give a .jinja file, or a tokenizer_config.json "
            "that has one"
        )
    settings = tokenizer_json.read_settings(directory)
    known = tokenizer_json.control_names(directory)
    bos, eos = (_token(settings.get(f"{side}_token")) for side in ("bos", "eos"))
    guessed = tuple(dict.fromkeys(match.group() for match in _NAMES.finditer(source)))
    names = known or guessed
    extra = tuple(one for one in (bos, eos) if one and one not in names)
    # Where no tokenizer says how they are spelled, the vocabulary's own are meant.
    return JinjaTemplate(
        name, source, (*names, *extra, "{bos}", "{eos}"), bos or "{bos}", eos or "{eos}",
        is_sure=bool(known),
    )  # fmt: skip


def _token(value: Any) -> str | None:
    return value.get("content") if isinstance(value, dict) else value


def _of_file(path: pathlib.Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # none there, or no text
        return None


def _of_config(path: pathlib.Path) -> str | None:
    """Returns `chat_template`: one text, or the one called default of several."""
    try:
        template = paths.read_object(path).get("chat_template")
    except (OSError, ValueError):
        return None
    if isinstance(template, list):
        every = [one for one in template if isinstance(one, dict)]
        named = {str(one.get("name")): one.get("template") for one in every}
        template = named.get("default") or next(iter(named.values()), None)
    return template if isinstance(template, str) else None


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None


class _Reading:
    """One conversation, rendered and taken apart."""

    def __init__(self, template: JinjaTemplate, record: records.Record, weights):
        self.template, self.record = template, record
        self.weights = weights or pieces.default_weights(record)
        self.where = f"{record.source or 'record'}[{record.number}]"
        self.messages = record.messages

    def refuse(self, why: str) -> errors.DataError:
        return errors.DataError(
            f"the chat template {why}; {self.template.name}, {self.where}; use another template, "
            "or mark what is learnt with {% generation %}"
        )

    def variables(self, count: int, marks=None, prompt: bool = False) -> dict[str, Any]:
        """Returns what transformers gives a template, for the first `count` messages."""
        made = marking.conversation(self.record, count, marks, self.where)
        return made | {"add_generation_prompt": prompt}

    def pieces(self) -> list[Piece]:
        """Returns the whole conversation."""
        messages = self.messages
        if not messages or messages[-1].role != "assistant":
            raise errors.DataError(
                f"the conversation ends without an answer; {self.where}; drop the row"
            )
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        asked = [self.variables(len(messages))]
        asked += [self.variables(i, prompt=True) for i in answers]
        plain, *prompts = self.template.texts(asked)
        if "error" in plain:
            raise self.refuse(f"cannot write this conversation: {plain['error']}")
        found = self.locate(plain["text"])
        fragments = found.fragments(self.template.names, len(messages))
        starts = self.starts(found, answers, prompts)
        self.check_tools(found.text, answers, starts)
        spans = self.spans(found, fragments, answers, starts)
        return self.cut(found, fragments, starts, spans)

    def locate(self, text: str) -> marking.Found:
        """Finds every message's words in the rendering, or refuses."""
        why = "changes the words of a message"
        count = len(self.messages)
        for marks in marking.attempts(self.record, self.template.names):
            (marked,) = self.template.texts([self.variables(count, marks)], marks)
            if "error" in marked:
                why = f"reads the words of a message ({marked['error']})"
                continue
            found = marking.read(marked["text"], marks)
            if found is None or found.text != text or not marks.are_kept(self.record, found):
                continue
            missing = [i for i in marks.words if i < count and i not in found.regions]
            if missing:
                role = self.messages[missing[0]].role
                raise self.refuse(f"leaves out message {missing[0]} ({role})")
            last = 2 * count - 1  # the thinking of earlier answers may be left out
            if last in marks.words and last not in found.regions:
                raise self.refuse("leaves out what the last answer thinks")
            return found
        raise self.refuse(f"{why}, so what is learnt cannot be told")

    def check_tools(self, text: str, answers: list[int], starts: dict[int, int]):
        """Refuses a template that writes no tools, or an answer without its calls.

        It would teach an answer of nothing. Names of letters are looked for: JSON may write others
        in several ways.
        """
        tools = pieces.read_json(self.record.tools, "tools", self.where)
        shapes = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)]
        names = [str(shape.get("name", "")) for shape in shapes if isinstance(shape, dict)]
        if any(name not in text for name in names if _is_plain(name)):
            raise self.refuse("leaves out the tools")
        for i, following in zip(answers, [*answers[1:], None], strict=True):
            written = text[starts[i] : None if following is None else starts[following]]
            calls = self.messages[i].tool_calls
            if any(call.name not in written for call in calls if _is_plain(call.name)):
                raise self.refuse(f"leaves out the tool calls of answer {i}")

    def starts(self, found: marking.Found, answers, prompts) -> dict[int, int]:
        """Returns where each answer begins: at the end of its prompt."""
        out: dict[int, int] = {}
        text, lead = found.text, None
        for i, prompt in zip(reversed(answers), reversed(prompts), strict=True):
            begin = found.begin_of(i, len(self.messages))
            if "text" in prompt and text.startswith(prompt["text"]):
                out[i] = len(prompt["text"])
                if begin is not None and out[i] > begin:
                    raise self.refuse(f"writes part of answer {i} before the prompt ends")
                if lead is None and begin is not None:
                    lead = text[out[i] : begin]
            elif i == answers[-1]:
                why = prompt.get("error", "the conversation goes on otherwise")
                raise self.refuse(f"has a prompt that is not the front of the conversation ({why})")
            # Formats that move a system prompt to the last user turn (Mistral): the answer begins
            # as the last one does.
            elif lead is not None and begin is not None and text[:begin].endswith(lead):
                out[i] = begin - len(lead)
            else:
                raise self.refuse(f"does not show where answer {i} begins")
        return out

    def spans(self, found, fragments, answers, starts) -> dict[int, tuple[int, int]]:
        """Returns what is learnt of each answer, up to and with its end-of-turn token."""
        ending, out = self.template.written_ending, {}
        for i, following in zip(answers, [*answers[1:], None], strict=True):
            limit = len(found.text) if following is None else starts[following]
            after = found.end_of(i, len(self.messages), starts[i])
            ends = [
                last
                for first, last, _, is_control in fragments
                if is_control and after <= first < limit and found.text[first:last] == ending
            ]
            if not ends:
                raise self.refuse(f"writes no {ending!r} after answer {i}")
            begin, end = starts[i], ends[0]
            if found.generations:
                tagged = [span for span in found.generations if begin <= span[0] < end]
                if not tagged:
                    continue
                begin = tagged[0][0]
            out[i] = (begin, end)
        if not out:
            raise self.refuse("has {% generation %}, but around no answer")
        return out

    def cut(self, found: marking.Found, fragments, starts, spans) -> list[Piece]:
        """Cuts the rendering into pieces that know role and weight."""
        text, count = found.text, len(self.messages)
        edges = sorted({*starts.values(), *(edge for span in spans.values() for edge in span)})
        # A template's text goes with the message whose words come next.
        following, owners = count - 1, []
        for _, _, owner, _ in reversed(fragments):
            following = following if owner is None else owner
            owners.append(following)
        spaces = {
            begin
            for i, begin in starts.items()
            if text[begin : begin + 1] == " " and found.begin_of(i, count) == begin + 1
        }
        out: list[Piece] = []
        for (begin, end, _, is_control), owner in zip(fragments, reversed(owners), strict=True):
            cuts = [edge for edge in edges if begin < edge < end]
            for first, last in itertools.pairwise((begin, *cuts, end)):
                learnt = [i for i, span in spans.items() if span[0] <= first < span[1]]
                message = learnt[0] if learnt else owner
                weights = self.weights[message]
                piece = self.piece(text[first:last], message, is_control)
                after_text = bool(out) and not out[-1].is_control
                out.append(
                    piece._replace(
                        weight=weights.learnt if learnt else weights.rest,
                        starts_response=first in starts.values(),
                        is_space=first in spaces and after_text,
                        is_ending=bool(learnt) and last == spans[message][1],
                    )
                )
        return out

    def piece(self, text: str, message: int, is_control: bool) -> Piece:
        if not is_control:
            return Piece(text, self.messages[message].role, 0.0)
        name = {"{bos}": "bos", "{eos}": "eos"}.get(text, text)
        # Guessed names: those that hardly are anything else must be there.
        is_optional = not self.template.is_sure and not text.startswith(("<|", "{"))
        role = self.messages[message].role
        return Piece(name, role, 0.0, is_control=True, is_optional=is_optional)

    def find_ending(self) -> str:
        """Returns the first control token after the answer of a short conversation."""
        (plain,) = self.template.texts([self.variables(len(self.messages))])
        if "error" in plain:
            raise self.refuse(f"cannot write the shortest conversation: {plain['error']}")
        found = self.locate(plain["text"])
        after = found.regions[len(self.messages) - 1][1]
        fragments = found.fragments(self.template.names, len(self.messages))
        for begin, end, _, is_control in fragments:
            if is_control and begin >= after:
                return found.text[begin:end]
        raise self.refuse("writes no end-of-turn token after an answer: nobody could learn to stop")

    def prompt_pieces(self) -> list[Piece]:
        """Returns the prompt of the last message: what it says plays no part."""
        asked = (*self.messages[:-1], records.Message("assistant", "x"))
        record = self.record._replace(messages=asked)
        return pieces.prompt_of(_Reading(self.template, record, None).pieces())
