"""Chat templates of Hugging Face: the same ids and weights as the named formats, or a refusal."""

import json
import os
import time

import jinja2
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracles import vocabularies

from t5sft import errors
from t5sft.data import preprocess, records, templates, vocab
from t5sft.data.templates import sandbox

# Written for these tests after the published formats, in the manner of the published templates.
CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] "
    "+ '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\\n\\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}"
    "{{ message.content + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
    "{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}"
    "{{- bos_token }}{%- set users = rest | selectattr('role', 'equalto', 'user') | list %}"
    "{%- set ns = namespace(n=0) %}"
    "{%- for message in rest %}{%- if message.role == 'user' %}{%- set ns.n = ns.n + 1 %}"
    "{%- if ns.n == users | length and system is defined and system %}"
    "{{- '[INST] ' + system + '\\n\\n' + message.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + message.content + '[/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}{%- endfor %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if message.role == 'user' %}"
    "{{ bos_token + '[INST] ' + ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' "
    "if loop.first and system else '') + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}"
    "{{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n"
    "You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}"
    "{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and "
    'arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": '
    '<function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n\' }}'
    "{%- elif messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- set ns = namespace(last=0) %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- elif message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
    "{%- set thinking = message.reasoning_content or '' %}"
    "{%- if loop.index0 > ns.last and (loop.last or thinking) %}"
    "{{- '<think>\\n' + thinking.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    "{%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}"
    '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}"
    "{%- endif %}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SOURCES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "qwen3": QWEN3,
}
# Shrinking would render thousands of times.
NO_SHRINKING = (Phase.explicit, Phase.generate)
CHARACTERS = st.characters(exclude_categories=("Cs", "Co"), exclude_characters="\u2581")
TEXT = st.lists(
    st.one_of(
        st.text(CHARACTERS, max_size=10),
        st.sampled_from(("</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "{{ 1 }}", "\n")),
    ),
    min_size=1,
    max_size=3,
).map("".join)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns a function: a Jinja source becomes a template in a tokenizer's directory."""
    opened = []

    def make(source, **settings):
        directory = tmp_path_factory.mktemp("tokenizer")
        for file in vocabularies.directory().iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
        config = json.loads((directory / "tokenizer_config.json").read_text())
        config |= {"chat_template": source, **settings}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        template = templates.get(str(directory))
        opened.append(template)
        return template

    yield make
    for template in opened:
        template.close()


@pytest.fixture(scope="module")
def opened(made):
    return {name: made(source) for name, source in SOURCES.items()}


def conversation(*texts, system=None, **options):
    turns = [("system", system)] if system is not None else []
    turns += zip(("user", "assistant") * len(texts), texts, strict=False)
    return records.Record(tuple(records.Message(r, t) for r, t in turns), "test", 0, **options)


def same(got, want):
    """Pieces may be cut elsewhere: ids and weights may not differ."""
    vocabulary = vocabularies.byte_pairs()
    one, other = (preprocess.tokenize(pieces, vocabulary) for pieces in (got, want))
    return one.ids == other.ids and one.weights == other.weights


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=12, deadline=None, derandomize=True, phases=NO_SHRINKING)
@given(data=st.data())
def test_agrees_with_the_named_format(opened, name, data):
    strip = str.strip if name == "llama3" else str  # its template trims what it is given
    turns = data.draw(st.integers(1, 3))
    texts = [data.draw(TEXT) for _ in range(2 * turns)]
    system = data.draw(st.one_of(st.none(), TEXT))
    given_ = conversation(*texts, system=system)
    kept = given_._replace(
        messages=tuple(m._replace(content=strip(m.content)) for m in given_.messages)
    )
    bos = [templates.Piece("bos", "control", 0.0, is_control=True)] * (name != "qwen3")
    if name == "chatml":
        bos = []  # this template writes none
    want = bos + templates.render(kept, templates.get(name))
    got = templates.render(given_, opened[name])
    assert same(got, want)
    prompt = templates.render_prompt(given_, opened[name])
    assert same(prompt, bos + templates.render_prompt(kept, templates.get(name)))


def test_tools_and_thinking_agree_with_the_named_format(opened):
    tool = {"type": "function", "function": {"name": "add", "description": "<|im_end|> \u00e9"}}
    call = records.ToolCall("add", '{"a": "<|im_end|>", "b": [1, "</tool_call>"]}', "1")
    messages = (
        records.Message("user", "one"),
        records.Message("assistant", "early", thinking="left out"),
        records.Message("user", "two"),
        records.Message("assistant", "let me see", thinking="\nhm\n", tool_calls=(call, call)),
        records.Message("tool", "3"),
        records.Message("tool", "<|im_end|>"),
        records.Message("assistant", "", tool_calls=(call,)),
        records.Message("tool", "4"),
        records.Message("assistant", "done", thinking="so"),
    )
    vocabulary = vocabularies.byte_pairs()
    for tools in (json.dumps([tool, tool]), ""):
        record = records.Record(messages, "test", 0, tools=tools)
        pieces = templates.render(record, opened["qwen3"])
        assert same(pieces, templates.render(record, templates.get("qwen3")))
        got = preprocess.tokenize(pieces, vocabulary)
        end = vocabulary.control_id("<|im_end|>")
        learnt = [i for i, w in zip(got.ids, got.weights, strict=True) if w > 0]
        assert learnt.count(end) == 4


def test_the_rendering_is_what_plain_jinja_gives(opened):
    record = conversation("  a\n", "b <|im_end|>", "c", "\nd ", system=" s")
    asked = [{"role": m.role, "content": m.content} for m in record.messages]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    for name, source in SOURCES.items():
        want = environment.from_string(source).render(
            messages=asked, bos_token="<|begin|>", eos_token="<|end_of_text|>"
        )
        got = "".join(piece.text for piece in templates.render(record, opened[name]))
        assert got == want


def test_private_use_characters_of_a_user_stay(opened):
    record = conversation("\U000f0000\U000f0001", "\U000f0000 \ue000")
    assert same(
        templates.render(record, opened["chatml"]),
        templates.render(record, templates.get("chatml")),
    )
    with pytest.raises(errors.DataError, match="both private-use planes"):
        templates.render(conversation("\U000f0000", "\U00100000"), opened["chatml"])


def test_generation_tags_say_what_is_learnt(made):
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
        "{% generation %}{{ m.content }}{% if loop.last %}{{ '<|im_end|>' }}{% endif %}"
        "{% endgeneration %}{% if not loop.last %}{{ '<|im_end|>' }}{% endif %}{{ '\n' }}"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    record = conversation("a", "b", "c", "<|im_end|>")
    # The end-of-turn token is learnt whether or not the tag encloses it.
    assert same(templates.render(record, made(source)), templates.render(record, _CHATML))


_CHATML = templates.get("chatml")


@pytest.mark.parametrize(
    "source, why",
    [
        ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}", "changes the w"),
        ("{% for m in messages %}{{ m.content[:3] }}<|im_end|>{% endfor %}", "changes the words"),
        (
            "{% for m in messages %}{{ m.content | replace('o', '0') }}<|im_end|>{% endfor %}",
            "changes the words",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no end-of-turn token"),
        (
            "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
            "{% if not add_generation_prompt %}{{ '' }}{% else %}<|im_start|>robot{% endif %}",
            "not the front of the conversation",
        ),
        (
            "{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}",
            r"leaves out message 0 \(user\)",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}",
            "changes the words",
        ),
        ("{% for m in messages %}{{ raise_exception('no: ' + m.role) }}{% endfor %}", "no: user"),
        (
            "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
            "{% generation %}{% endgeneration %}",
            "around no answer",
        ),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% for m in messages %}{{ m.content }", "is no Jinja"),
        ("{{ messages.append(1) }}", "SecurityError"),
    ],
)
def test_refuses_what_it_cannot_mask(made, source, why):
    """Class 1: never an all-zero or a guessed mask."""
    with pytest.raises(errors.DataError, match=why):
        templates.render(conversation("hello", "good bye"), made(source))


def test_refuses_a_template_that_writes_no_tools_calls_or_thinking(made):
    """ChatML without them wrote an answer of nothing, which was learnt."""
    plain = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    answer = records.Message("assistant", "sunny")
    call = records.ToolCall("weather", '{"city": "Bern"}')
    asked = (
        records.Message("user", "weather?"),
        records.Message("assistant", "", tool_calls=(call,)),
        records.Message("tool", "sun"),
        answer,
    )
    tools = json.dumps([{"type": "function", "function": {"name": "clock"}}])
    for record, why in (
        (records.Record(asked, "test", 0), "leaves out the tool calls of answer 1"),
        (conversation("a", "b", tools=tools), "leaves out the tools"),
        (
            records.Record((asked[0], answer._replace(thinking="hm")), "test", 0),
            "leaves out what the last answer thinks",
        ),
    ):
        with pytest.raises(errors.DataError, match=why):
            templates.render(record, made(plain))
    written = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + plain
    assert templates.render(conversation("a", "b", tools=tools), made(written))


@pytest.mark.parametrize(
    "source, why",
    [
        ("{{ 'a' * 10**9 }}", "needs more than 512 MiB"),
        ("{% for i in range(99999) %}{{ 'a' * 100 }}{% endfor %}", "more than 4000000 characters"),
    ],
)
def test_memory_and_length_are_bounded(made, source, why):
    with pytest.raises(errors.DataError, match=why):
        templates.render(conversation("hello", "good bye"), made(source))


def test_time_is_bounded():
    source = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    begin = time.monotonic()
    box = sandbox.Sandbox(source, "slow.jinja", timeout_seconds=0.5)
    with pytest.raises(errors.DataError, match="more than 0.5 s"):
        box.render([{"variables": {}, "marks": None}])
    assert time.monotonic() - begin < 5
    box.source = "{{ 1 + 1 }}"
    box.timeout_seconds = 10.0
    assert box.render([{"variables": {}, "marks": None}]) == [{"text": "2"}]  # another child
    box.close()


def test_the_day_does_not_matter():
    box = sandbox.Sandbox("{{ strftime_now('%d %b %Y') }} {{ {'a': '\u00e9<'} | tojson }}", "x")
    assert box.render([{"variables": {}, "marks": None}]) == [
        {"text": '26 Jul 2024 {"a": "\u00e9<"}'}
    ]
    box.close()


def test_files(tmp_path):
    (tmp_path / "own.jinja").write_text(CHATML)
    alone = templates.get(str(tmp_path / "own.jinja"))
    assert alone.ending() == "<|im_end|>"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert templates.get(str(tmp_path / "tokenizer_config.json")).source == CHATML
    before = templates.fingerprint(str(tmp_path / "own.jinja"))
    alone.close()
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.ConfigError, match="no chat_template"):
        templates.get(str(tmp_path / "empty"))
    with pytest.raises(errors.ConfigError, match="did you mean 'chatml'"):
        templates.get("chatmi")
    (tmp_path / "own.jinja").write_text(CHATML + " ")
    os.utime(tmp_path / "own.jinja")
    assert templates.fingerprint(str(tmp_path / "own.jinja")) != before  # class 15


def test_a_template_alone_takes_the_vocabulary_s_own_ends(tmp_path):
    """Llama 2's [INST] is text; </s> and <s> are what the vocabulary has for them."""
    (tmp_path / "llama2.jinja").write_text(LLAMA2)
    template, vocabulary = templates.get(str(tmp_path / "llama2.jinja")), vocab.load("bytes")
    record = conversation("a", "b", "c", "d", system="s")
    bos = [templates.Piece("bos", "control", 0.0, is_control=True)]
    for known in (vocabulary, vocabularies.sentence_piece()):
        got = preprocess.tokenize(templates.render(record, template), known)
        if known is vocabulary:
            want = bos + templates.render(record, templates.get("llama2"))
            want = preprocess.tokenize(want, known)
            assert (got.ids, got.weights) == (want.ids, want.weights)
        assert got.ids.count(known.bos_id) == got.ids.count(known.eos_id) == 2
        assert preprocess.end_ids(template, known) == (known.eos_id,)
    template.close()
