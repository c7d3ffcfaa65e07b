"""The verb chat: a conversation on the terminal, answers shown as they come."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from t5sft import errors
from t5sft.data import prepare, preprocess, records
from t5sft.evaluate import answering, opening
from t5sft.generate import decode, stopping
from t5sft.generate import settings as settings_lib
from t5sft.parallel import rules as rules_lib

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
    max_new_tokens: int = 512,
    min_new_tokens: int = 0,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    cache_dtype: str | None = None,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> dict:
    """Talks with a model by its own template; it sees the whole conversation at every turn.

    Args:
      model, data, model_dir, vocabulary, template, system, dtype, mesh, rules: see `opening.find`.
      once: answer this message and end.
      max_new_tokens, ..., cache_dtype: see `settings.Settings`; turn n draws with seed + n.

    Returns:
      {"messages": the conversation, "finished": False where the last answer was cut}.
    """
    how = settings_lib.Settings(
        max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, temperature=temperature,
        top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
        stop=tuple(stop), seed=seed, cache_dtype=cache_dtype,
    )  # fmt: skip
    ready = opening.find(
        model_dir=model_dir, model=model, data=data, vocabulary=vocabulary, template=template,
        system=system, dtype=dtype, batch_size=1, mesh=mesh, rules=rules,
    )  # fmt: skip
    assert model_dir is not None
    conversation = Conversation(opening.load(model_dir, ready), how)
    if once is not None:
        conversation.ask(once, _write)
    else:
        _talk(conversation)
    said = [{"role": m.role, "content": m.content} for m in conversation.messages]
    return {"messages": said, "finished": conversation.finished}


class Conversation:
    """What was said, and a model that goes on."""

    def __init__(self, ready: answering.Ready, how: settings_lib.Settings):
        self._ready, self._how = ready, how
        self.messages: list[records.Message] = []
        self.finished = True

    def reset(self, system: str | None = None) -> None:
        """Forgets what was said; a system prompt takes the place of the one before."""
        self.messages = []
        if system is not None:
            self._ready = self._ready._replace(system=system or None)

    def ask(self, text: str, write: Callable[[str], None]) -> str:
        """Answers a message, giving the pieces of the answer to `write` as they come."""
        ready, how = self._ready, self._how
        asked = [*self.messages, records.Message("user", text)]
        record = records.Record((*asked, records.Message("assistant", "")), "chat")
        prompt = opening.ids(ready, record, "chat")
        answering.check_positions(ready, len(prompt) + how.max_new_tokens)
        stop = stopping.Stop(ready.vocabulary.decode, how.stop)
        shown = Shown(write, stop)
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
        reply = shown.end(answer.tokens)
        self.messages = [*asked, records.Message("assistant", reply)]
        self.finished = answer.finished
        return reply


class Shown:
    """Writes a growing text, each piece once: nothing that a later token may still change."""

    def __init__(self, write: Callable[[str], None], stop: stopping.Stop):
        self._write, self._stop, self._text = write, stop, ""

    def show(self, tokens: Sequence[int]) -> None:
        """Writes what is new and sure."""
        text = self._stop.cut(self._stop.decode(tokens)).rstrip("\ufffd")  # half a character
        longest = max(map(len, self._stop.strings), default=1) - 1
        text = text[: len(text) - longest]  # may become a stop string
        if text.startswith(self._text) and len(text) > len(self._text):
            self._write(text[len(self._text) :])
            self._text = text

    def end(self, tokens: Sequence[int]) -> str:
        """Writes the rest, and returns the whole text."""
        text = self._stop.cut(self._stop.decode(tokens))
        self._write(text[len(self._text) :] if text.startswith(self._text) else f"\n{text}")
        self._write("\n")
        return text


def _talk(conversation: Conversation) -> None:
    """Reads messages from standard input until it ends."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print(HELP, file=sys.stderr)
    while True:
        if is_terminal:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return
        line = line.strip()
        command, _, rest = line.partition(" ")
        if command == "/reset":
            conversation.reset()
        elif command == "/system":
            conversation.reset(system=rest)
        elif line.startswith("/"):
            print(f"{command} is unknown; {HELP}", file=sys.stderr)
        elif line:
            try:
                conversation.ask(line, _write)
            except errors.DataError as error:
                print(f"not asked: {error}", file=sys.stderr)


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _rows(ready: answering.Ready) -> int:
    """One row, or as many as the mesh needs."""
    return rules_lib.ways("batch", ready.mesh, ready.rules)
