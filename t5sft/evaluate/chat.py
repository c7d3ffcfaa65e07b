"""The verb chat: a conversation on the terminal, answers shown as they come."""

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import prepare, preprocess, records
from t5sft.evaluate import answering, opening
from t5sft.generate import decode, stopping
from t5sft.generate import settings as settings_lib
from t5sft.parallel import rules as rules_lib

CONTEXT_LENGTH = 2048  # where the weights do not tell theirs
NEW_TOKENS = 512  # of an answer, or half the context where that is less
HELP = "/system TEXT sets the system prompt, /reset forgets the conversation, /exit ends it"


def chat(
    *,
    model: Any = None,
    data: prepare.Data | None = None,
    model_dir: str | None = None,
    once: str | None = None,
    vocabulary: str | None = None,
    template: str | None = None,
    system: str | None = None,
    dtype: str | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    cache_dtype: str | None = None,
    context_length: int | None = None,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> dict:
    """Talks with a model by its own template; it sees the whole conversation at every turn.

    Args:
      model, data, model_dir, vocabulary, template, system, dtype, mesh, rules: see `opening.find`.
      once: answer this message and end; "-": what standard input holds.
      max_new_tokens: an answer is cut there; None: 512, at most half the context.
      min_new_tokens, ..., cache_dtype: see `settings.Settings`; turn n draws with seed + n.
      context_length: tokens of a decoder's prompt and answer, of an encoder's prompt; what does
        not fit is forgotten, the oldest turns first. None: as the weights tell, else 2,048.

    Returns:
      {"messages": the conversation, "finished": False where the last answer was cut}.
    """
    if context_length is not None and context_length < 1:
        raise errors.ConfigError(f"context_length = {context_length}; chat; use 1 or more")
    how = settings_lib.Settings(
        max_new_tokens=NEW_TOKENS if max_new_tokens is None else max_new_tokens,
        min_new_tokens=min_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        min_p=min_p, repetition_penalty=repetition_penalty, stop=tuple(stop), seed=seed,
        cache_dtype=cache_dtype,
    )  # fmt: skip
    ready = opening.find(
        model_dir=model_dir, model=model, data=data, vocabulary=vocabulary, template=template,
        system=system, dtype=dtype, batch_size=1, mesh=mesh, rules=rules,
    )  # fmt: skip
    assert model_dir is not None
    if once is not None:
        once = _message(once)
    most = context_length or ready.model.max_position_embeddings or CONTEXT_LENGTH
    if max_new_tokens is None:
        how = dataclasses.replace(how, max_new_tokens=max(1, min(NEW_TOKENS, most // 2)))
    conversation = Conversation(opening.load(model_dir, ready), how, most)
    if once is not None:
        conversation.ask(once, _write)
    else:
        _talk(conversation)
    said = [{"role": m.role, "content": m.content} for m in conversation.messages]
    return {"messages": said, "finished": conversation.finished}


def _message(once: str) -> str:
    """The message of --once."""
    text = sys.stdin.read().strip() if once == "-" else once
    if not text.strip():
        raise errors.ConfigError("the message is empty; --once; give a text, or - and pipe one in")
    return text


class Conversation:
    """What was said, and a model that goes on.

    Args:
      context_length: see `chat`.
    """

    def __init__(self, ready: answering.Ready, how: settings_lib.Settings, context_length: int):
        self._ready, self._how, self._context = ready, how, context_length
        is_decoder = ready.model.layout == "decoder"
        answer = how.max_new_tokens - 1 if is_decoder else 0
        self._more = "fewer max_new_tokens" if is_decoder else "more context_length"
        self._room = context_length - answer  # of a prompt; the last token is not read
        self.reset()

    def reset(self, system: str | None = None) -> None:
        """Forgets what was said; a system prompt takes the place of the one before.

        Raises:
          DataError: the template writes no system prompt; nothing is changed.
        """
        if system is not None:
            ready = self._ready._replace(system=system or None)
            turns = (records.Message("user", "?"), records.Message("assistant", ""))
            opening.ids(ready, records.Record(turns, "chat"), "/system")
            self._ready = ready
        self.messages: list[records.Message] = []
        self._first = 0  # the first message that the model still sees
        self.finished = True

    def ask(self, text: str, write: Callable[[str], None]) -> str:
        """Answers a message, giving the pieces of the answer to `write` as they come.

        Ctrl-C ends the answer: what was written of it is the answer, and KeyboardInterrupt goes on.

        Raises:
          DataError: the message alone does not fit in the context.
        """
        ready, how = self._ready, self._how
        user = records.Message("user", text)
        prompt = self._prompt(user)
        stop = stopping.Stop(ready.vocabulary.decode, how.stop)
        shown = Shown(write, stop)
        try:
            (answer,) = decode.generate(
                ready.model,
                ready.params,
                [prompt],
                eos_id=preprocess.end_ids(ready.template, ready.vocabulary),
                start_id=ready.start_id,
                batch_size=_rows(ready),
                row_seeds=[sum(m.role == "user" for m in self.messages)],
                stop=stop if how.stop else None,
                watch=lambda _, tokens: shown.show(tokens),
                chunk=4,
                mesh=ready.mesh,
                rules=ready.rules,
                **how.options(),
            )
        except KeyboardInterrupt:
            if shown.text:
                write("\n")
                self.messages += [user, records.Message("assistant", shown.text)]
            self.finished = False
            raise
        reply = shown.end(answer.tokens)
        self.messages += [user, records.Message("assistant", reply)]
        self.finished = answer.finished
        return reply

    def _prompt(self, user: records.Message) -> list[int]:
        """The tokens of the conversation, without its oldest turns where all do not fit."""
        first = self._first
        while True:
            asked = (*self.messages[first:], user, records.Message("assistant", ""))
            prompt = opening.ids(self._ready, records.Record(asked, "chat"), "chat")
            if len(prompt) <= self._room or first >= len(self.messages):
                break
            first += 2  # a question and its answer
        if len(prompt) > self._room:
            raise errors.DataError(
                f"the message takes {len(prompt):,} tokens with its template, {self._room:,} fit "
                f"in the context of {self._context:,}; chat; shorten it, or give {self._more}"
            )
        if first > self._first == 0:
            _note(
                f"the conversation does not fit in {self._context:,} tokens any more: the model "
                "does not see its oldest turns from here on"
            )
        self._first = first
        return prompt


class Shown:
    """Writes a growing text, each piece once: nothing that a later token may still change."""

    def __init__(self, write: Callable[[str], None], stop: stopping.Stop):
        self._write, self._stop, self.text = write, stop, ""  # text: what was written

    def show(self, tokens: Sequence[int]) -> None:
        """Writes what is new and sure."""
        text = self._stop.cut(self._stop.decode(tokens)).rstrip("\ufffd")  # half a character
        longest = max(map(len, self._stop.strings), default=1) - 1
        text = text[: len(text) - longest]  # may become a stop string
        if text.startswith(self.text) and len(text) > len(self.text):
            self._write(text[len(self.text) :])
            self.text = text

    def end(self, tokens: Sequence[int]) -> str:
        """Writes the rest, and returns the whole text."""
        text = self._stop.cut(self._stop.decode(tokens))
        self._write(text[len(self.text) :] if text.startswith(self.text) else f"\n{text}")
        self._write("\n")
        return text


def _talk(conversation: Conversation) -> None:
    """Reads messages from standard input until it ends."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # half a character is no reason to end
    is_terminal = sys.stdin.isatty()
    for line in _typed() if is_terminal else sys.stdin:
        line = line.strip()
        command, _, rest = line.partition(" ")
        if command == "/exit":
            return
        if command == "/reset":
            conversation.reset()
        elif command == "/system":
            try:
                conversation.reset(system=rest)
            except errors.DataError as error:
                _note(f"not changed: {error}")
        elif line.startswith("/"):
            _note(f"{command} is unknown; {HELP}")
        elif line:
            _ask(conversation, line, is_terminal)


def _ask(conversation: Conversation, line: str, is_terminal: bool) -> None:
    try:
        conversation.ask(line, _write)
    except errors.DataError as error:
        _note(f"not asked: {error}")
        return
    except KeyboardInterrupt:
        if not is_terminal:
            raise
        _note("stopped; /exit ends the conversation")
        return
    if is_terminal and not conversation.finished:
        _note("cut at max_new_tokens")


def _typed() -> Iterator[str]:
    """Lines typed at a terminal, until it ends or Ctrl-C at the prompt."""
    # Editing and history; and without it a terminal hands over 4,096 bytes of a line at most.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    _note(HELP)
    is_shown = sys.stdout.isatty()
    while True:
        try:
            if not is_shown:  # input would write it into what is kept of the answers
                print("> ", end="", file=sys.stderr, flush=True)
            yield input("> " if is_shown else "")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _rows(ready: answering.Ready) -> int:
    """One row, or as many as the mesh needs."""
    return rules_lib.ways("batch", ready.mesh, ready.rules)
