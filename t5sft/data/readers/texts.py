"""Formats of a prompt and a response: Alpaca, prompt/completion, P3, GSM8K, IFEval and others.

A record whose response is empty is Dropped("empty response"): it has nothing to learn.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from t5sft.data.readers import conversations, fields
from t5sft.data.records import Dropped, Message, Record

_NO_INPUT = re.compile(r"[<\[(]?\s*no\s?input\s*[>\])]?\.?", re.IGNORECASE)
_END_OF_TEXT = "<|endoftext|>"


def _pair(user: Message, response: str, **more) -> Record:
    if not response.strip():
        raise Dropped("empty response")
    return Record((user, Message("assistant", response)), **more)


def text(row: Mapping[str, Any], where: str) -> Record:
    """Reads plain text to continue. Example: {"text": "Once upon a time ..."}"""
    content = fields.text(row, "text", where=where)
    if not content.strip():
        raise Dropped("empty text")
    return Record((Message("text", content),), metadata=fields.metadata(row))


def alpaca(row: Mapping[str, Any], where: str) -> Record:
    """Reads Alpaca's format, also with `response` for `output` (GPTeacher) and `context` (Dolly).

    An input that only says that there is none ("<noinput>", "No input.") is no input. `system` and
    `history` (pairs of earlier instructions and answers) come first.
    Example: {"instruction": "Name two primes.", "input": "", "output": "2 and 3."}
    """
    instruction = fields.text(row, "instruction", where=where)
    context = fields.optional_text(row, "input", "context", where=where)
    if _NO_INPUT.fullmatch(context.strip()):
        context = ""
    response = fields.text(row, "output", "response", where=where)
    record = _pair(Message("user", instruction, context), response, metadata=fields.metadata(row))
    earlier = []
    for pair in fields.as_list(row.get("history", []), "history", where):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            fields.fail("a part of field 'history' is no pair", where)
        for role, content in zip(("user", "assistant"), pair, strict=True):
            earlier.append(Message(role, fields.as_text(content, "history", where)))
    whole = conversations.with_system(row, (*earlier, *record.messages), where)
    return record._replace(messages=whole)


def self_instruct(row: Mapping[str, Any], where: str) -> Record:
    """Reads Self-Instruct's tasks, one instance at a time (`readers.read_all` takes them apart).

    Example: {"instruction": "...", "instances": [{"input": "", "output": "..."}]}
    """
    if "instances" in row:
        listed = fields.as_list(row["instances"], "instances", where)
        if len(listed) != 1 or not isinstance(listed[0], Mapping):
            fields.fail(f"{len(listed)} instances in one row", where, "use readers.read_all")
        row = {**row, **listed[0]}
    return alpaca(row, where)


def inputs_targets(row: Mapping[str, Any], where: str) -> Record:
    """Reads T5's format; `inputs_pretokenized` is preferred to `inputs`, which may be ids then.

    Example: {"inputs": "translate English to German: house", "targets": "Haus"}; also
    {"input": ..., "target": ...} (BIG-Bench Hard)
    """
    if "inputs_pretokenized" in row or "targets_pretokenized" in row:
        prompt = fields.text(row, "inputs_pretokenized", where=where)
        response = fields.text(row, "targets_pretokenized", where=where)
    else:
        prompt = fields.text(row, "inputs", "input", where=where)
        response = fields.text(row, "targets", "target", where=where)
    return _pair(Message("user", prompt), response, metadata=fields.metadata(row))


def prompt_completion(row: Mapping[str, Any], where: str) -> Record:
    """Reads a prompt and a completion (or `response`), each a text or a list of messages.

    Example: {"prompt": "2+2=", "completion": "4"}
    """
    name = fields.one_of(row, ("completion", "response"), where)
    prompt = prompt_turns(row, "prompt", where)
    answer = answer_turns(row[name], name, where)
    ordered = (*prompt, *answer)
    mended: list[str] = []
    if isinstance(row["prompt"], list) or isinstance(row[name], list):
        ordered, mended = conversations.tidy(ordered)
    elif not answer[0].content.strip():
        raise Dropped("empty response")
    metadata = conversations.noted(fields.metadata(row), mended)
    return Record(ordered, tools=conversations.tools(row, where), metadata=metadata)


def prompt_turns(row: Mapping[str, Any], name: str, where: str) -> tuple[Message, ...]:
    """Returns a prompt, text or messages, after the row's own system text."""
    if name not in row:
        fields.fail(f"no field {name!r}", where)
    if isinstance(row[name], list):
        return conversations.with_system(row, conversations.turns(row[name], name, where), where)
    user = Message("user", fields.as_text(row[name], name, where))
    return conversations.with_system(row, (user,), where)


def answer_turns(value: Any, name: str, where: str) -> tuple[Message, ...]:
    """Returns an answer, text, one turn, or messages."""
    if isinstance(value, str):
        return (Message("assistant", value),)
    return conversations.turns([value] if isinstance(value, Mapping) else value, name, where)


def p3(row: Mapping[str, Any], where: str) -> Record:
    """Reads P3's examples as T0's JSON lines hold them: the completion ends in a text mark, which
    is taken off; the template's name rides along.

    Example: {"template": "rte_...", "prompt": "...", "completion": "yes<|endoftext|>"}
    """
    response = fields.text(row, "completion", where=where).removesuffix(_END_OF_TEXT)
    user = Message("user", fields.text(row, "prompt", where=where))
    return _pair(user, response, metadata=fields.metadata(row))


def cot_tsv(row: Mapping[str, Any], where: str) -> Record:
    r"""Reads FLAN's chains of thought: question, answer and rationale, with `\n` for a line end.

    The rationale comes first, then the answer in a sentence; both also ride along alone.
    Example: {"inputs": "1+1?\\nOptions:\\n- 2", "answer": "2", "rationale": "One more is two."}
    """
    prompt, answer, rationale = (
        fields.text(row, *names, where=where).replace("\\n", "\n")
        for names in (("inputs", "question", "input"), ("answer",), ("rationale",))
    )
    if not answer.strip() or not rationale.strip():
        raise Dropped("empty response")
    response = f"{rationale} So the answer is {answer}."
    metadata = {**fields.metadata(row), "rationale": rationale}
    return _pair(Message("user", prompt), response, answer=answer, metadata=metadata)


def gsm8k(row: Mapping[str, Any], where: str) -> Record:
    """Reads GSM8K: the answer to check stands behind `####`, without commas.

    Example: {"question": "1,000 + 1?", "answer": "It is <<1000+1=1001>>1,001.\\n#### 1,001"}
    """
    solution = fields.text(row, "answer", where=where)
    _, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        fields.fail("an answer without #### and a result", where)
    user = Message("user", fields.text(row, "question", where=where))
    checked = answer.strip().replace(",", "")
    return _pair(user, solution, answer=checked, metadata=fields.metadata(row))


def ifeval(row: Mapping[str, Any], where: str) -> Record:
    """Reads IFEval: a prompt without answer; what to check is JSON in the record's answer.

    Example: {"prompt": "...", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    """
    ids = fields.as_list(row.get("instruction_id_list", 0), "instruction_id_list", where)
    arguments = fields.as_list(row.get("kwargs", 0), "kwargs", where)
    if len(ids) != len(arguments):
        fields.fail(f"{len(ids)} instructions, but {len(arguments)} kwargs", where)
    checks = [[name, fields.present(one)] for name, one in zip(ids, arguments, strict=True)]
    user = Message("user", fields.text(row, "prompt", where=where))
    return Record(
        (user,), answer=json.dumps(checks, ensure_ascii=False), metadata=fields.metadata(row, "key")
    )


def mt_bench(row: Mapping[str, Any], where: str) -> Record:
    """Reads MT-bench's questions: the first turn is the prompt; all turns ride along as JSON.

    Example: {"question_id": 81, "category": "writing", "turns": ["...", "..."], "reference": []}
    """
    turns = fields.as_list(row.get("turns", 0), "turns", where)
    if not turns:
        fields.fail("no turns", where)
    texts = [fields.as_text(one, "turns", where) for one in turns]
    references = fields.as_list(row.get("reference", []), "reference", where)
    metadata = {
        **fields.metadata(row, "question_id"),
        "turns": json.dumps(texts, ensure_ascii=False),
        "references": json.dumps(references, ensure_ascii=False),
    }
    answer = fields.as_text(references[0], "reference", where) if references else ""
    return Record((Message("user", texts[0]),), answer=answer, metadata=metadata)


def natural_instructions(row: Mapping[str, Any], where: str) -> Record:
    """Reads one instance of a Natural Instructions task, version 1 or 2, with its definition.

    The instruction is the definition (and version 1's cautions), the input its context, the answer
    the first output; all of several outputs ride along as JSON `references`.
    Example: {"Definition": ["..."], "Positive Examples": [...], "input": "...", "output": ["..."]}
    """
    definition = row.get("Definition", "")
    if isinstance(definition, list):
        definition = "\n".join(fields.as_text(one, "Definition", where) for one in definition)
    parts = [fields.as_text(definition, "Definition", where).strip()]
    for name in ("Emphasis & Caution", "Things to Avoid"):
        caution = fields.optional_text(row, name, where=where).strip()
        if caution not in ("", "-"):
            parts.append(f"{name}: {caution}")
    output = row.get("output", 0)
    outputs = [output] if isinstance(output, str) else fields.as_list(output, "output", where)
    texts = [fields.as_text(one, "output", where) for one in outputs]
    if not texts:
        raise Dropped("empty response")
    metadata = fields.metadata(row, "Title")
    if len(texts) > 1:
        metadata["references"] = json.dumps(texts, ensure_ascii=False)
    user = Message("user", "\n".join(parts), fields.text(row, "input", where=where))
    return _pair(user, texts[0], answer=texts[0], metadata=metadata)
