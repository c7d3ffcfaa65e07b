"""What a stranger's Jinja may reach: the one guard of chat templates and of promptsource's.

Jinja's own sandbox forbids what is known to be bad: names with an underscore, `str.format` with
attributes, the filter `attr`; each was got round once (CVE-2024-56326, CVE-2025-27516). Here
nothing is reachable but what is listed: methods of texts, lists and mappings that only read, what a
loop and a namespace say, and the functions that the environment was given. No other template is
loaded.

How long a template runs and how much it writes is bounded by those who render: chat templates in
a process of their own (`templates.renderer`), promptsource's by a count of their work
(`flan.sandbox`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import jinja2.runtime
from jinja2 import nodes, sandbox

Methods = Mapping[type, frozenset[str]]
METHODS: Methods = {
    str: frozenset(
        "capitalize casefold count endswith find index isalnum isalpha isdigit islower isnumeric "
        "isspace isupper join lower lstrip partition removeprefix removesuffix replace rfind "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper".split()
    ),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index", "grouper", "list")),  # the last two: of `groupby`
    dict: frozenset(("get", "items", "keys", "values")),
}
_LOADING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class Environment(sandbox.SandboxedEnvironment):
    """Jinja that reaches METHODS and the functions it is given.

    Args:
      functions: name -> what templates may call.
      methods: in place of METHODS.
      options: of jinja2.Environment.
    """

    def __init__(
        self, functions: Mapping[str, Callable], methods: Methods = METHODS, **options: Any
    ):
        super().__init__(loader=None, **options)
        self.globals = {"namespace": jinja2.utils.Namespace, **functions}
        self._callable = tuple(self.globals.values())
        self._methods = methods
        del self.filters["attr"]

    def _parse(self, source, name, filename):
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(_LOADING):
            raise jinja2.TemplateSyntaxError(
                f"{type(node).__name__.lower()} of another template is not allowed", node.lineno
            )
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allows what is listed, and nothing with an underscore in front."""
        if attr.startswith("_"):
            return False
        if isinstance(obj, jinja2.utils.Namespace | jinja2.runtime.LoopContext):
            return True
        return self._is_listed(obj, attr)

    def wrap_str_format(self, value: Any) -> None:
        """Jinja would give `str.format` in a form of its own, before it asks what is safe."""

    def is_safe_callable(self, obj: Any) -> bool:
        """Allows what `is_safe_attribute` let through, the given functions, and macros."""
        if any(obj is one for one in self._callable):
            return True
        if isinstance(obj, jinja2.runtime.Macro | jinja2.runtime.LoopContext):
            return True
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, jinja2.runtime.LoopContext):
            return name in ("cycle", "changed")
        return self._is_listed(owner, name)

    def _is_listed(self, obj: Any, name: str) -> bool:
        return any(isinstance(obj, kind) and name in names for kind, names in self._methods.items())
