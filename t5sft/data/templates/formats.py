"""The named formats, each as published by those whose models speak it."""

import dataclasses

from t5sft.data.templates.written import Template, Tools, Turn

_ALPACA = "Below is an instruction that describes a task{}. " + (
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
)

# Hermes function calling (github.com/NousResearch/Hermes-Function-Calling), as Qwen 2.5 and 3 have
# taken it over. The tags are tokens where a vocabulary has them (Qwen), text elsewhere.
_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_HERMES = Tools(
    where="system",
    definitions="\n\n# Tools\n\nYou may call one or more functions to assist with the user query."
    "\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>{tools}"
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    each="\n{tool}",
    call='<tool_call>\n{"name": "{name}", "arguments": {arguments}}\n</tool_call>',
    before_results="<|im_start|>user\n",
    result="<tool_response>\n{content}\n</tool_response>",
    after_results="<|im_end|>\n",
)


def _chatml(role: str) -> Turn:
    return Turn(before=f"<|im_start|>{role}\n", after="<|im_end|>\n")


# OpenAI's ChatML as Qwen and OpenHermes write it.
_CHATML = Template(
    {
        "system": _chatml("system"),
        "user": _chatml("user"),
        "assistant": Turn(before="<|im_start|>assistant\n", after="\n"),
    },
    controls=("<|im_start|>", "<|im_end|>"),
    optional=_TAGS,
    end="<|im_end|>",
    tools=_HERMES,
)


def _llama3(role: str, text: str = "") -> Turn:
    return Turn(
        before=f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}",
        after="" if role == "assistant" else "<|eot_id|>",
    )


_LLAMA3 = Template(  # github.com/meta-llama/llama3, llama/tokenizer.py: ChatFormat
    {role: _llama3(role) for role in ("system", "user", "assistant")},
    controls=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    end="<|eot_id|>",
)

TEMPLATES: dict[str, Template] = {
    # T5: the instruction is the encoder's text as it stands, the answer the decoder's.
    "plain": Template({"user": Turn(), "assistant": Turn()}),
    # A decoder needs a border between instruction and answer.
    "lines": Template({"user": Turn(after="\n"), "assistant": Turn()}),
    # The two prompts of github.com/tatsu-lab/stanford_alpaca, train.py.
    "alpaca": Template(
        {
            "user": Turn(
                before=_ALPACA.format(""),
                with_context="{content}\n\n### Input:\n{context}",
                after="\n\n### Response:\n",
            ),
            "assistant": Turn(after=""),
        },
        before_with_context=_ALPACA.format(", paired with an input that provides further context"),
    ),
    # github.com/lm-sys/FastChat, fastchat/conversation.py: vicuna_v1.1.
    "vicuna": Template(
        {
            "system": Turn(after=" "),
            "user": Turn(before="USER: ", after=" "),
            "assistant": Turn(before="ASSISTANT:", lead=" "),
        },
        default_system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    ),
    # Tulu 1 to 3 (github.com/allenai/open-instruct): the marks of the roles are text.
    "tulu": Template(
        {
            "system": Turn(before="<|system|>\n", after="\n"),
            "user": Turn(before="<|user|>\n", after="\n"),
            "assistant": Turn(before="<|assistant|>\n"),
        },
        separator="\n",
    ),
    "chatml": dataclasses.replace(
        _CHATML, tools=dataclasses.replace(_HERMES, before_results="<|im_start|>tool\n")
    ),
    "qwen2.5": dataclasses.replace(
        _CHATML,
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    # A system turn holds the tools even where nobody gave a system prompt, see written.py.
    "qwen3": dataclasses.replace(
        _CHATML,
        optional=(*_TAGS, "<think>", "</think>"),
        thinking="<think>\n{thinking}\n</think>\n\n",
    ),
    # github.com/meta-llama/llama, llama/generation.py: the system prompt stands inside the first
    # user turn, and every pair begins with <s>.
    "llama2": Template(
        {
            "user": Turn(before="[INST] ", after=" [/INST]"),
            "assistant": Turn(lead=" ", tail=" "),
        },
        system_in="first_user",
        system_pattern="<<SYS>>\n{system}\n<</SYS>>\n\n",
        separator="{bos}",
    ),
    "llama3": _LLAMA3,
    # github.com/meta-llama/llama-models: prompt format of Llama 3.1; the day is the format's own
    # default, so that a prompt does not depend on the day it is written.
    "llama3.1": dataclasses.replace(
        _LLAMA3,
        turns={
            **_LLAMA3.turns,
            "system": _llama3(
                "system",
                "{tools_line}Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
            ),
        },
        default_system="",
        tools=Tools(
            where="first_user",
            definitions="Given the following functions, please respond with a JSON for a function "
            "call with its proper arguments that best answers the given prompt.\n\n"
            'Respond in the format {"name": function name, "parameters": dictionary of argument '
            "name and its value}.Do not use variables.\n\n{tools}",
            each="{tool}\n\n",
            indent=4,
            call='{"name": "{name}", "parameters": {arguments}}',
            max_calls=1,
            after_content=None,
            before_results="<|start_header_id|>ipython<|end_header_id|>\n\n",
            result="{json}",
            between_results="<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n",
            after_results="<|eot_id|>",
            system_line="Environment: ipython\n",
        ),
    ),
    # github.com/google-deepmind/gemma: no system role, so the system prompt begins the first user
    # turn (Gemma 3 writes it so).
    "gemma": Template(
        {
            "user": Turn(before="<start_of_turn>user\n", after="<end_of_turn>\n"),
            "assistant": Turn(before="<start_of_turn>model\n", after="\n"),
        },
        controls=("<start_of_turn>", "<end_of_turn>"),
        end="<end_of_turn>",
        system_in="first_user",
    ),
    # github.com/mistralai/mistral-common, tokenizer of version 3: system prompt and tools go with
    # the last user turn, so earlier turns are learnt without them.
    "mistral": Template(
        {
            "user": Turn(before="[INST]{space}", after="[/INST]"),
            "assistant": Turn(lead=" "),
        },
        controls=("[INST]", "[/INST]"),
        optional=(
            *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
            *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        ),
        system_in="last_user",
        tools=Tools(
            where="last_user",
            definitions="[AVAILABLE_TOOLS] [{tools}][/AVAILABLE_TOOLS]",
            each="{tool}",
            between_tools=", ",
            before_calls="[TOOL_CALLS] [",
            call='{"name": "{name}", "arguments": {arguments}, "id": "{id}"}',
            between_calls=", ",
            after_calls="]",
            after_content=None,
            result='[TOOL_RESULTS] {"content": {json}, "call_id": "{id}"}[/TOOL_RESULTS]',
            between_results="",
        ),
    ),
}
TEMPLATES = {name: dataclasses.replace(t, name=name) for name, t in TEMPLATES.items()}
