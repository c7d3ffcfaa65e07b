"""The verb chat: what it asks, shows, forgets and survives."""

import contextlib
import dataclasses
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from oracles.parrot import BYTES, DATA, DECODER, T5
from train import many

from t5sft import errors, paths
from t5sft.evaluate import chat, opening
from t5sft.generate import decode, stopping


def test_chat_answers_once(fake, capfd):
    got = chat.chat(model=DECODER, data=DATA, model_dir="copy", once="say red")
    said = [{"role": "user", "content": "say red"}, {"role": "assistant", "content": "red"}]
    assert got == {"messages": said, "finished": True}
    assert capfd.readouterr().out == "red\n"


@pytest.mark.parametrize("length", [0, -4])
def test_a_context_of_nothing_is_refused(length):
    with pytest.raises(errors.ConfigError, match=f"context_length = {length}; chat; use 1 or more"):
        chat.chat(model=DECODER, model_dir="copy", once="say red", context_length=length)


def test_chat_remembers_until_it_is_told_to_forget(fake, monkeypatch, capfd):
    seen = []
    ids = opening.ids
    monkeypatch.setattr(
        opening, "ids", lambda r, record, w: seen.append(record.messages) or ids(r, record, w)
    )
    said = "say one\nsay two\n/reset\n/dance\n\nsay three\n/exit\nsay four\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    got = chat.chat(model=DECODER, data=DATA, model_dir="copy")
    asked = [[m.content for m in messages[:-1]] for messages in seen]
    assert asked == [["say one"], ["say one", "one", "say two"], ["say three"]]
    assert [m["content"] for m in got["messages"]] == ["say three", "three"]
    told = capfd.readouterr()
    assert told.out == "one\ntwo\nthree\n" and "/dance is unknown" in told.err
    assert [call["seeds"] for call in fake] == [[0], [1], [0]]


def test_chat_has_a_system_prompt(fake, monkeypatch):
    seen = []
    real = decode.stream
    monkeypatch.setattr(
        decode,
        "stream",
        lambda m, p, prompts, **o: seen.append(prompts) or real(m, p, prompts, **o),
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("say a\n/system Be rude.\nsay b\n"))
    chat.chat(model=DECODER, data=DATA, model_dir="copy", system="Be kind.", template="chatml:text")
    texts = [BYTES.decode(prompts[0]) for prompts in seen]
    assert "Be kind." in texts[0] and "Be rude." in texts[1] and "say a" not in texts[1]


def test_a_system_prompt_that_cannot_be_written_changes_nothing(fake, monkeypatch, capfd):
    """It was kept, and every message after it refused."""
    monkeypatch.setattr("sys.stdin", io.StringIO("say a\n/system Be rude.\nsay b\n"))
    chat.chat(model=DECODER, data=DATA, model_dir="copy")
    told = capfd.readouterr()
    assert told.out == "a\nb\n" and "not changed: the template" in told.err


def test_nothing_is_shown_that_may_still_change():
    out = []
    shown = chat.Shown(out.append, stopping.Stop(BYTES.decode, ("END",)))
    tokens = BYTES.encode("caf\u00e9 ENDE")
    for count in range(1, len(tokens)):
        shown.show(tokens[:count])
    assert shown.end(tokens) == "caf\u00e9 "
    assert "".join(out) == "caf\u00e9 \n" and len(out) > 2


def shown(fake, monkeypatch):
    """The texts that the model is given, as a list that grows."""
    texts, real = [], decode.stream
    monkeypatch.setattr(
        decode,
        "stream",
        lambda m, p, prompts, **o: (
            texts.append(BYTES.decode(prompts[0])) or real(m, p, prompts, **o)
        ),
    )
    return texts


@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_oldest_turns_make_room_and_the_system_prompt_stays(model, fake, monkeypatch, capfd):
    """The third question was refused for ever."""
    texts = shown(fake, monkeypatch)
    said = "say one\nsay two\nsay three\nsay four\n/reset\nsay five\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    got = chat.chat(
        model=model, data=DATA, model_dir="copy", system="Be kind.", template="chatml:text",
        max_new_tokens=8, context_length=215,
    )  # fmt: skip
    told = capfd.readouterr()
    assert told.err.count("does not see its oldest turns") == 1
    assert all("Be kind." in text for text in texts) and "say one" in texts[1]
    assert "say one" not in texts[3] and "say three" in texts[3]
    assert texts[3].index("<|im_start|>user") < texts[3].index("<|im_start|>assistant")
    assert max(len(BYTES.encode(text)) for text in texts) <= 215
    assert [m["content"] for m in got["messages"]][:1] == ["say five"]
    assert [call["seeds"] for call in fake] == [[0], [1], [2], [3], [0]]


def test_the_context_is_that_of_the_weights_and_a_message_alone_has_to_fit(
    fake, monkeypatch, capfd
):
    short = dataclasses.replace(DECODER, max_position_embeddings=64)
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 60 + "\nsay two\n"))
    chat.chat(model=short, data=DATA, model_dir="copy")
    told = capfd.readouterr()
    assert told.out == "two\n"
    assert (
        "not asked: the message takes 6" in told.err and "33 fit in the context of 64" in told.err
    )
    with pytest.raises(errors.DataError, match="33 fit in the context of 64"):
        chat.chat(model=short, data=DATA, model_dir="copy", once="x" * 60)


def test_a_message_of_standard_input(fake, monkeypatch, capfd):
    monkeypatch.setattr("sys.stdin", io.StringIO("say\nred\n"))
    assert chat.chat(model=T5, data=DATA, model_dir="copy", once="-")["finished"]
    assert capfd.readouterr().out == "red\n"
    for once, given in (("-", " \n"), ("  ", "")):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        with pytest.raises(errors.ConfigError, match="the message is empty; --once"):
            chat.chat(model=T5, data=DATA, model_dir="copy", once=once)


def test_half_a_character_is_not_the_end(fake, monkeypatch, capfd):
    wrong = io.TextIOWrapper(io.BytesIO(b"say \xff\nsay two\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", wrong)
    chat.chat(model=T5, data=DATA, model_dir="copy")
    assert capfd.readouterr().out == "\ufffd\ntwo\n"


def test_a_stop_string_of_several_bytes_ends_an_answer_where_it_is_complete():
    """No byte of it is shown, nor half a character before it."""
    stop = stopping.Stop(BYTES.decode, ("\u00e9\u4e2d",))
    tokens = BYTES.encode("caf\u00e9\u4e2dx")  # a token for each byte
    assert stop.find(tokens) == len("caf\u00e9\u4e2d".encode())
    assert all(
        stop.find(tokens[:count]) is None for count in range(len("caf\u00e9\u4e2d".encode()))
    )
    out = []
    shown = chat.Shown(out.append, stop)
    for count in range(1, len(tokens)):
        shown.show(tokens[:count])
        assert "\ufffd" not in "".join(out) and "caf".startswith("".join(out))
    assert shown.end(tokens) == "caf" and "".join(out) == "caf\n"


class Terminal:
    """`t5sft chat` at a terminal of its own."""

    def __init__(self, folder, *flags):
        base = str(paths.folder("tasks") / "village" / "base_decoder")
        command = [sys.executable, "-m", "t5sft", "chat", "--model_dir", base, *flags]
        mine, theirs = pty.openpty()
        self._fd, self.text, self._seen = mine, "", 0
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
            env=many.environment(folder, 1) | {"TERM": "dumb"}, start_new_session=True,
        )  # fmt: skip
        signal.signal(signal.SIGINT, before)
        os.close(theirs)

    def wait(self, wanted, seconds=120):
        """Reads until the pattern comes behind what was waited for before."""
        end = time.monotonic() + seconds
        while not re.search(wanted, self.text[self._seen :]):
            assert time.monotonic() < end, self.text
            if select.select([self._fd], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.text += os.read(self._fd, 65536).decode("utf-8", "replace")
            elif self._process.poll() is not None:
                assert re.search(wanted, self.text[self._seen :]), self.text
        self._seen += re.search(wanted, self.text[self._seen :]).end()

    def type(self, text):
        while text:
            text = text[os.write(self._fd, text.encode()[:512]) :]
            time.sleep(0.01)

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def close(self):
        """Returns the exit code."""
        code = self._process.wait(120)
        os.close(self._fd)
        return code


@pytest.mark.slow
def test_at_a_terminal(tmp_path):
    """Ctrl-C ends an answer and not the conversation; a long line comes whole."""
    one = Terminal(tmp_path, "--max_new_tokens", "1500", "--min_new_tokens", "1500")
    one.wait("> ")
    one.type("Say ros\u00e9.\n")
    one.wait(r"Say ros\u00e9\.\r?\n")
    one.wait(r"\S+ \S+")  # an answer has begun
    one.interrupt()
    one.wait("stopped")
    one.wait("> ")
    one.type("\n")
    one.wait("> ")
    one.type("y" * 6000 + "\n")
    one.wait("not asked: the message takes")
    one.wait("> ")
    one.interrupt()
    assert one.close() == 0, one.text
    assert "Traceback" not in one.text
