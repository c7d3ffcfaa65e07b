"""Bounds for the Jinja of promptsource, rendered in this process, row by row.

`data.sandbox` keeps templates from Python; it does not keep them from eating time and memory. Here
every turn of a loop costs one step, every text and list has a largest size, all that a rendering
makes or looks through has a largest sum, and only the kinds of expressions and the filters that
promptsource's 2,085 templates use are allowed.
"""

import contextlib
import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes

from t5sft.data import sandbox

MAX_STEPS = 100_000  # turns of all loops of one rendering
MAX_SIZE = 1_000_000  # characters of a text, items of a list, characters of a template
MAX_WORK = 20_000_000  # characters and items that one rendering makes or looks through
MAX_BITS = 4096  # of a whole number
MAX_DEPTH = 20  # of lists within lists

_ALLOWED = frozenset(
    "Add And Assign Call Compare Concat CondExpr Const Dict Div Filter FloorDiv For Getattr "
    "Getitem If Keyword List Mod Mul Name NSRef Neg Not Operand Or Output Pair Pos Pow Slice Sub "
    "Template TemplateData Test Tuple".split()
)
_FILTERS = (
    "abs default first float int last length list map max min reject rejectattr reverse round "
    "select selectattr sort unique"
).split()
_TEXT_FILTERS = "capitalize lower title trim upper".split()  # Jinja would write a list as text
_PATTERN = re.compile(r"(?:[^%]|%%|%\d?(?:\.\d)?[sdf])*+")
# Rows are copied, so that a template may change what it was given.
_METHODS = {
    **sandbox.METHODS,
    list: sandbox.METHODS[list] | {"append", "pop"},
    dict: sandbox.METHODS[dict] | {"pop", "update"},
}


class Bounded(Exception):
    """A template asked for more than it may have, or for something it may not have."""


class Template:
    """One template, compiled once and rendered for many rows.

    Raises:
      Bounded: the template is no Jinja, or uses what is not allowed.
    """

    def __init__(self, source: str):
        if len(source) > MAX_SIZE:
            raise Bounded(f"the template has {len(source)} characters, at most {MAX_SIZE}")
        self._environment = _Environment()
        with _faults():
            tree = self._environment.parse(source)
            self.names = jinja2.meta.find_undeclared_variables(tree) - set(
                self._environment.globals
            )
            self._template = self._environment.from_string(source)

    def render(self, values: Mapping[str, Any], choose: Callable[[int], int]) -> str:
        """Renders the template.

        Args:
          values: what the template may read; copied, so that it cannot change them.
          choose: draws a number below its argument for the filters `choice` and `random`.

        Raises:
          Bounded: too much work, or a value, filter or method that is not allowed; also any other
            fault of the template, with what Jinja says.
        """
        self._environment.begin(choose)
        parts, size = [], 0
        with _faults():
            for part in self._template.generate(**_copied(values)):
                size += len(part)
                if size > MAX_SIZE:
                    raise Bounded(f"the text has more than {MAX_SIZE} characters")
                parts.append(part)
        return "".join(parts)


@contextlib.contextmanager
def _faults():
    try:
        yield
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise Bounded(f"{type(error).__name__}: {error}") from error
    except (AttributeError, RecursionError, MemoryError) as error:
        raise Bounded(f"{type(error).__name__}: {error}") from error


def _copied(value: Any) -> Any:
    """Copies JSON-like values; anything else becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)


class _Work:
    """What a rendering has made and looked through so far."""

    def __init__(self):
        self._steps = self._amount = 0

    def step(self):
        """Counts a turn of a loop."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise Bounded(f"more than {MAX_STEPS} turns of loops")

    def charge(self, amount: int):
        """Counts characters and items."""
        self._amount += amount
        if self._amount > MAX_WORK:
            raise Bounded(f"more than {MAX_WORK} characters and items are made")

    def sized(self, value: Any) -> Any:
        """Counts a value and passes it on, if it is not too large."""
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise Bounded(f"a number of more than {MAX_BITS} bits")
        if isinstance(value, str | list | tuple | dict):
            if len(value) > MAX_SIZE:
                raise Bounded(f"a value of more than {MAX_SIZE} items")
            self.charge(len(value))
        return value

    def weighed(self, value: Any) -> Any:
        """Counts a value with all that is in it, and passes it on: no towers of lists."""
        budget = MAX_SIZE

        def visit(item, depth):
            nonlocal budget
            budget -= len(item) if isinstance(item, str) else 1
            if budget < 0 or depth > MAX_DEPTH:
                raise Bounded("a value with too many items within items")
            if isinstance(item, Mapping):
                for key, inner in item.items():
                    visit(key, depth + 1)
                    visit(inner, depth + 1)
            elif isinstance(item, list | tuple | set):
                for inner in item:
                    visit(inner, depth + 1)

        visit(value, 0)
        self.charge(MAX_SIZE - budget)
        return value

    def text(self, value: Any) -> str:
        """Writes a value, if it is not too large."""
        return str(self.sized(value) if isinstance(value, str) else self.weighed(value))


class _Environment(sandbox.Environment):
    """Jinja's sandbox with a budget for every rendering."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self):
        functions = {"range": self.range, "zip": self.zip}
        finalize = lambda value: self._work.text(value)  # noqa: E731
        super().__init__(functions, _METHODS, finalize=finalize, cache_size=0)
        self.begin(lambda count: 0)
        self.filters = {
            **{name: self._charged(self.filters[name]) for name in _FILTERS},
            **{name: self._of_text(self.filters[name]) for name in _TEXT_FILTERS},
            "_counted": self.counted,
            "_joined": lambda values: self.join(values, ""),
            "_weighed": lambda value: self._work.weighed(value),
            "choice": self.choice,
            "random": self.choice,
            "format": self.format,
            "join": self.join,
            "most_frequent": _most_frequent,
            "replace": self.replace,
            "string": lambda value: self._work.text(value),
        }

    def begin(self, choose: Callable[[int], int]):
        """Gives a rendering its budget and its draws."""
        self._work = _Work()
        self._choose = choose

    def _charged(self, function):
        @functools.wraps(function)  # with the marks by which Jinja knows what else to hand over
        def charged(*args, **kwargs):
            return self._work.sized(function(*args, **kwargs))

        return charged

    def _of_text(self, function):
        return lambda value, *args: self._work.sized(function(self._work.text(value), *args))

    def _parse(self, source, name, filename):
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(nodes.Node):
            kind = type(node).__name__
            if kind not in _ALLOWED or getattr(node, "recursive", False):
                raise Bounded(f"{kind} is not allowed, line {node.lineno}")
            if isinstance(node, nodes.Filter) and node.name not in self.filters:
                raise Bounded(f"filter {node.name!r} is not allowed, line {node.lineno}")
        return _Guarded().visit(tree)

    def counted(self, values):
        """Yields the items of a loop, each for one step."""
        for value in values:
            self._work.step()
            yield value

    def range(self, *args):
        """Returns a range of at most MAX_STEPS numbers."""
        values = range(*args)
        if len(values) > MAX_STEPS:
            raise Bounded(f"a range of more than {MAX_STEPS} numbers")
        return self._work.sized(list(values))

    def zip(self, *args):
        """Returns the pairs of lists, as promptsource's templates ask for them."""
        return self._work.sized(list(zip(*args, strict=False)))

    @jinja2.pass_context  # so that Jinja does not draw once, when it compiles
    def choice(self, context, values):
        """Draws one of the values by the rendering's own key."""
        values = list(self.counted(values))
        if not values:
            raise Bounded("a choice among nothing")
        return values[self._choose(len(values))]

    def format(self, pattern, *args):
        """Puts values into %s, %d, %f %0.2f and the like, the only forms allowed."""
        if not _PATTERN.fullmatch(self._work.text(pattern)):
            raise Bounded("format allows %s, %d, %f, with a digit of width and of precision")
        plain = (x if isinstance(x, int | float) else self._work.text(x) for x in args)
        return self._work.sized(str(pattern) % tuple(plain))

    def join(self, values, separator="", attribute=None):
        """Joins texts that together are not too large."""
        if attribute is not None:
            values = [self.getattr(value, attribute) for value in values]
        texts = [self._work.text(value) for value in self.counted(values)]
        separator = self._work.text(separator)
        if sum(map(len, texts)) + len(separator) * len(texts) > MAX_SIZE:
            raise Bounded(f"a text of more than {MAX_SIZE} characters")
        return self._work.sized(separator.join(texts))

    def replace(self, value, old, new, count=None):
        """Replaces a text where the result is not too large."""
        value, old, new = (self._work.text(x) for x in (value, old, new))
        times = value.count(old) if count is None else min(value.count(old), count)
        if len(value) + times * len(new) > MAX_SIZE:
            raise Bounded(f"a text of more than {MAX_SIZE} characters")
        return self._work.sized(value.replace(old, new, -1 if count is None else count))

    def call(self, context, obj, *args, **kwargs):
        """Calls a method; those whose result may be large go through the bounded forms."""
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        hidden = ("_loop_vars", "_block_vars")  # added by Jinja inside a loop
        kwargs = {key: value for key, value in kwargs.items() if key not in hidden}
        if isinstance(owner, str) and name == "replace":
            if not all(isinstance(value, str) for value in args[:2]):
                raise Bounded("replace needs texts")
            return self.replace(owner, *args, **kwargs)
        if isinstance(owner, str) and name == "join":
            values = list(self.counted(*args))
            if not all(isinstance(value, str) for value in values):
                raise Bounded("join needs texts")  # as in Python; the filter writes any value
            return self.join(values, separator=owner)
        if isinstance(owner, str | list | tuple | dict):
            self._work.charge(len(owner))  # looked through
        self._work.weighed([args, kwargs])
        return self._work.sized(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context, operator, left, right):
        """Computes within bounds: no powers, no formatting, nothing larger than MAX_SIZE."""
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise Bounded(f"{operator} is not allowed here")
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str | list | tuple) and isinstance(times, int):
                    if len(many) * times > MAX_SIZE:
                        raise Bounded(f"a value of more than {MAX_SIZE} items")
        if operator == "+" and isinstance(left, str | list | tuple):
            if len(left) + len(right) > MAX_SIZE:
                raise Bounded(f"a value of more than {MAX_SIZE} items")
        return self._work.sized(super().call_binop(context, operator, left, right))


class _Guarded(jinja2.visitor.NodeTransformer):
    """Puts bounds where no hook of the sandbox is: a ~ b, and lists within lists."""

    def visit_Concat(self, node):
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_List(self, node):
        self.generic_visit(node)
        return _filtered(node, "_weighed")

    visit_Dict = visit_List

    def visit_Tuple(self, node):
        self.generic_visit(node)
        return _filtered(node, "_weighed") if node.ctx == "load" else node

    def visit_For(self, node):
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node


def _filtered(node, name):
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _most_frequent(values):
    counts = Counter(values).most_common()
    return [value for value, count in counts if count == counts[0][1]]
