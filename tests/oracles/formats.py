"""The published chat formats, written a second time as Jinja, and a renderer that shares no code.

Learnt stretches stand between U+E000 and U+E001. A message's own words reach the template as
U+E100 number U+E101 and are put in after control tokens have been found, so nothing a user writes
is taken for one.
"""

import json
import re

import jinja2

_CHATML = """
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
<|im_start|>assistant
\ue000{{ m.content }}\ue001[[end]]
{% else -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
"""
_QWEN3 = """
{%- set ns = namespace(last=0) -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
<|im_start|>assistant
\ue000{% if loop.index0 > ns.last and (loop.last or m.thinking) %}<think>
{{ m.thinking }}
</think>

{% endif %}{{ m.content }}\ue001[[end]]
{% else -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
"""
_LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' %}\ue000{{ m.content }}\ue001[[end]]"
    "{% else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}"
)
_INSIDE = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
)
_ALPACA = (
    "{% for m in messages %}{% if m.role == 'user' %}Below is an instruction that describes a task"
    "{% if m.context %}, paired with an input that provides further context{% endif %}. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
    "{{ m.content }}{% if m.context %}\n\n### Input:\n{{ m.context }}{% endif %}"
    "\n\n### Response:\n{% else %}\ue000{{ m.content }}\ue001[[end]]{% endif %}{% endfor %}"
)
FORMATS = {
    "plain": "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}"
    "{% if m.context %}\n\n{{ m.context }}{% endif %}"
    "{% else %}\ue000{{ m.content }}\ue001[[end]]{% endif %}{% endfor %}",
    "lines": "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}"
    "{% if m.context %}\n\n{{ m.context }}{% endif %}\n"
    "{% else %}\ue000{{ m.content }}\ue001[[end]]{% endif %}{% endfor %}",
    "alpaca": _ALPACA,
    "vicuna": _INSIDE + "{% if system is defined %}{{ system }}{% else %}A chat between a curious "
    "user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user's questions.{% endif %} "
    "{% for m in rest %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:"
    "{% else %}\ue000\ue002{{ m.content }}\ue001[[end]]{% endif %}{% endfor %}",
    "tulu": "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
    "\ue000{{ m.content }}\ue001[[end]]{% if not loop.last %}\n{% endif %}"
    "{% else %}{{ m.content }}\n{% endif %}{% endfor %}",
    "chatml": _CHATML,
    "qwen2.5": "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen, created by "
    "Alibaba Cloud. You are a helpful assistant.<|im_end|>\n{% endif %}" + _CHATML,
    "qwen3": _QWEN3,
    "llama2": _INSIDE + "{% for m in rest %}{% if m.role == 'user' %}"
    "{% if not loop.first %}[[bos]]{% endif %}[INST] {% if loop.first and system %}<<SYS>>\n"
    "{{ system }}\n<</SYS>>\n\n{% endif %}{{ m.content }} [/INST]"
    "{% else %}\ue000\ue002{{ m.content }} \ue001[[end]]{% endif %}{% endfor %}",
    "llama3": _LLAMA3,
    "llama3.1": _INSIDE + "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
    "December 2023\nToday Date: 26 Jul 2024\n\n{{ system }}<|eot_id|>"
    "{% set messages = rest %}" + _LLAMA3,
    "gemma": _INSIDE + "{% for m in rest %}{% if m.role == 'user' %}<start_of_turn>user\n"
    "{% if loop.first and system %}{{ system }}\n\n{% endif %}{{ m.content }}<end_of_turn>\n"
    "{% else %}<start_of_turn>model\n\ue000{{ m.content }}\ue001[[end]]\n{% endif %}{% endfor %}",
    "mistral": _INSIDE + "{% for m in rest %}{% if m.role == 'user' %}[INST]\ue002"
    "{% if loop.index0 >= rest|length - 2 and system %}{{ system }}\n\n{% endif %}"
    "{{ m.content }}[/INST]{% else %}\ue000\ue002{{ m.content }}\ue001[[end]]{% endif %}"
    "{% endfor %}",
}
CONTROLS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "mistral": ("[INST]", "[/INST]"),
}
CONTROLS["qwen2.5"] = CONTROLS["chatml"]
CONTROLS["qwen3"] = (*CONTROLS["chatml"], "<think>", "</think>")
CONTROLS["llama3.1"] = CONTROLS["llama3"]
ENDS = {
    **{name: "<|im_end|>" for name in ("chatml", "qwen2.5", "qwen3")},
    **{name: "<|eot_id|>" for name in ("llama3", "llama3.1")},
    "gemma": "<end_of_turn>",
}


def parts(name, messages, as_text=False):
    """The rendering as (text or control token, is control, is learnt, starts an answer)."""
    words = []

    def hide(text):
        words.append(text)
        return f"\ue100{len(words) - 1}\ue101" if text else ""

    hidden = [
        {k: v if k == "role" else hide(v) for k, v in message.items()} for message in messages
    ]
    environment = jinja2.Environment(keep_trailing_newline=False)
    text = environment.from_string(FORMATS[name].strip("\n") + "\n").render(messages=hidden)
    controls = () if as_text else CONTROLS.get(name, ())
    marks = [*map(re.escape, controls), r"\[\[end\]\]", r"\[\[bos\]\]", "[\ue000\ue001]"]
    out, learnt, starts = [], False, False
    for part in re.split(f"({'|'.join(marks)})", text):
        if part == "\ue000":
            learnt = starts = True
            continue
        if part == "\ue001":
            continue  # the end token that follows is learnt
        is_control = part in (*controls, "[[end]]", "[[bos]]")
        if is_control:
            end = "eos" if as_text else ENDS.get(name, "eos")
            shown = {"[[end]]": end, "[[bos]]": "bos"}.get(part, part)
            out.append((shown, True, learnt, starts))
            learnt = learnt and part != "[[end]]"
        elif part or starts:
            shown = re.sub("\ue100(\\d+)\ue101", lambda m: words[int(m[1])], part)
            out.append((shown, False, learnt, starts))
        starts = False
    return out


def tokens(name, messages, vocabulary, as_text=False):
    """Ids and weights of a decoder's conversation, stretch by stretch."""
    ids, weights = [], []
    if vocabulary.bos_id is not None:
        ids, weights = [vocabulary.bos_id], [0.0]
    for text, is_control, learnt, _ in parts(name, messages, as_text):
        if is_control:
            own = {"eos": vocabulary.eos_id, "bos": vocabulary.bos_id}
            new = [own[text] if text in own else vocabulary.control_id(text)]
            new = [] if new == [None] and text == "bos" else new
            if new == [None]:
                raise KeyError(text)
        else:
            # The format's space before an answer (Llama-2) is the vocabulary's own, if it adds one.
            text = text.replace("\ue002", "" if vocabulary.adds_space else " ")
            new = vocabulary.encode(text) if text else []
        ids += new
        weights += [float(learnt)] * len(new)
    return ids, weights


def tool_text(value, indent=None):
    """JSON as Hugging Face's `tojson` writes it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
