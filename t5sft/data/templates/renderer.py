"""The process that runs foreign Jinja: python -m t5sft.data.templates.renderer.

A chat template is a program from the internet. Jinja's sandbox keeps it from Python's internals,
but not from `'a' * 10**9` or loops in loops: so it runs in a process of its own, with little
memory, no files and no children; whoever asks kills it when it takes too long.

One JSON line in, one out. The first line is {"source": text}; every other one a list of
{"variables": ..., "marks": [begin, end] or null}, answered by a list of {"text"} or {"error"}.
"""

import datetime
import json
import resource
import sys
from collections.abc import Callable

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from t5sft.data import sandbox

MEMORY_BYTES = 512 * 2**20
MAX_CHARACTERS = 4_000_000  # of one rendering
# What `strftime_now` tells: a prompt must not depend on the day on which it is prepared.
TODAY = datetime.datetime(2024, 7, 26)


class Refused(Exception):
    """The template called raise_exception."""


class Generation(jinja2.ext.Extension):
    """The tag {% generation %} of transformers: marks what an assistant writes."""

    tags = {"generation"}

    def parse(self, parser):
        """Wraps the body into a call of `_mark`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [jinja2.nodes.ContextReference()])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context, caller):
        begin, end = context.get("_t5sft_marks") or ("", "")
        return begin + caller() + end


def environment() -> jinja2.Environment:
    """Returns what transformers renders chat templates in, without a loader."""

    def refuse(message):
        raise Refused(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    extensions = [Generation, jinja2.ext.loopcontrols]
    functions: dict[str, Callable] = {
        "range": jinja2.sandbox.safe_range,
        "dict": dict,
        "raise_exception": refuse,
        "strftime_now": TODAY.strftime,
    }
    made = _Environment(functions, trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    made.filters["tojson"] = tojson
    return made


class _Environment(sandbox.Environment):
    """What `sandbox` allows, and our own tag."""

    def is_safe_callable(self, obj):
        """The tag calls a method of its extension, which no template can name."""
        owner = getattr(obj, "__self__", None)
        return isinstance(owner, Generation) or super().is_safe_callable(obj)


def render(template: jinja2.Template, variables: dict, marks) -> dict:
    """Renders once; stops a text that grows too long."""
    out, size = [], 0
    try:
        for part in template.generate(**variables, _t5sft_marks=marks):
            size += len(part)
            if size > MAX_CHARACTERS:
                return {"error": f"it writes more than {MAX_CHARACTERS} characters"}
            out.append(part)
    except Refused as error:
        return {"error": f"it says: {error}"}
    except MemoryError:
        return {"error": f"it needs more than {MEMORY_BYTES // 2**20} MiB"}
    except Exception as error:  # whatever a template can do wrong
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": "".join(out)}


def limit():
    """Takes from this process what rendering does not need."""
    for what, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def main():
    """Answers requests until standard input ends."""
    limit()
    template = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if template is None:
            try:
                template = environment().from_string(request["source"])
                answer: object = {}
            except Exception as error:  # a syntax error, or too deep a nesting
                answer = {"error": f"{type(error).__name__}: {error}"}
        else:
            answer = [render(template, one["variables"], one["marks"]) for one in request]
        # Lone surrogates are no UTF-8, so that JSON's own escapes are the safe way to write text.
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
