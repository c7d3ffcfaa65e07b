"""Jinja of strangers reaches nothing: one list of escapes, for chat templates and promptsource.

Both are `data.sandbox`. What a template may cost: tests/data/test_jinja.py (chat templates, in a
process of their own), tests/data/flan/test_flan_promptsource.py.
"""

import re

import jinja2
import pytest

from t5sft.data.flan import sandbox as flan
from t5sft.data.templates import renderer

# {0}: a command that touches the canary.
ESCAPES = [
    "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}",
    "{{{{ ''['__class__'] }}}}",
    "{{{{ ''['__cla' ~ 'ss__'] }}}}",
    "{{{{ ''|attr('__class__') }}}}",
    "{{{{ ''|attr('__cla' ~ 'ss__') }}}}",
    "{{{{ ['']|map('attr', '__class__')|list }}}}",
    "{{{{ ['']|map(attribute='__class__')|join }}}}",
    "{{{{ ['']|map(attribute='__class__.__mro__')|first }}}}",
    "{{{{ ['']|sort(attribute='__class__.__mro__')|first.__doc__ }}}}",
    "{{{{ ['']|groupby('__class__')|first }}}}",
    "{{{{ ['']|selectattr('__class__')|list|first|attr('x') }}}}",
    # CVE-2016-10745, CVE-2019-10906: format strings; CVE-2024-56326: by an indirect reference.
    "{{{{ '{{0.__class__}}'.format(1) }}}}",
    "{{{{ '{{x.__class__}}'.format_map({{'x': 1}}) }}}}",
    "{{{{ '{{0.__class__.__init__.__globals__}}'|attr('format')(1) }}}}",
    "{{% set f = '{{0.__class__}}'.format %}}{{{{ f(1) }}}}",
    "{{{{ ['{{0.__class__}}'.format]|map('string')|first }}}}{{{{ ''.format }}}}",
    "{{% set m = '{{}}'.format_map %}}{{{{ [m]|first|string }}}}",
    # CVE-2025-27516: the filter attr; CVE-2025-24357 and others: globals of functions.
    "{{{{ ('a'|attr)('format') }}}}",
    "{{{{ lipsum.__globals__['os'].popen('{0}').read() }}}}",
    "{{{{ cycler.__init__.__globals__.os.popen('{0}').read() }}}}",
    "{{{{ joiner.__init__.__globals__.os.popen('{0}').read() }}}}",
    "{{{{ namespace.__init__.__globals__.os.popen('{0}').read() }}}}",
    "{{{{ namespace().__init__ }}}}{{{{ namespace()._Namespace__attrs }}}}",
    "{{% set n = namespace() %}}{{% set n.__class__ = 1 %}}{{{{ n.__class__ }}}}",
    "{{{{ range.__self__ }}}}",
    "{{{{ self.__init__.__globals__ }}}}",
    "{{{{ self._TemplateReference__context.environment.globals }}}}",
    "{{% for x in [1] %}}{{{{ loop._iterable }}}}{{{{ loop.__class__ }}}}{{% endfor %}}",
    "{{% macro m() %}}{{% endmacro %}}{{{{ m._environment }}}}",
    "{{% macro m() %}}{{% endmacro %}}{{{{ m.__globals__ }}}}",
    "{{{{ ''.join.__self__.__class__ }}}}",
    "{{{{ {{}}.items.__self__ }}}}",
    "{{{{ (1).__class__ }}}}",
    "{{{{ (1).real.imag }}}}",
    "{{{{ none.__class__.__base__ }}}}",
    "{{{{ undefined_thing.__class__ }}}}",
    "{{{{ ''.encode() }}}}",
    "{{{{ dict.fromkeys('ab') }}}}",
    "{{{{ dict.__base__.__subclasses__() }}}}",
    "{{{{ [].sort(key=range) }}}}",
    "{{{{ [].__len__() }}}}",
    "{{{{ {{'a': 1}}.setdefault('b', 2) }}}}",
    "{{{{ url_for.__globals__ }}}}{{{{ config }}}}{{{{ request.application.__globals__ }}}}",
    "{{{{ raise_exception.__globals__['sys'].exit() }}}}",
    "{{{{ raise_exception.__closure__ }}}}",
    "{{{{ strftime_now.__self__ }}}}",
    "{{{{ generation }}}}{{{{ _t5sft_marks.__class__ }}}}",
    "{{% include '/etc/passwd' %}}",
    "{{% include ['/nowhere', '/etc/passwd'] ignore missing %}}",
    "{{% import 'os' as os %}}{{{{ os.system('{0}') }}}}",
    "{{% from 'os' import system %}}{{{{ system('{0}') }}}}",
    "{{% extends '/etc/passwd' %}}",
    "{{% if false %}}{{% extends '/etc/passwd' %}}{{% endif %}}",
]


def is_nothing(text):
    """What no attribute gives is Undefined, and prints as nothing or by this name."""
    return not re.sub(r"Undefined|[\[\](), ']", "", text)


def told_by_chat(source):
    try:
        template = renderer.environment().from_string(source)
    except Exception as error:  # as `renderer.main` does
        return f"{type(error).__name__}: {error}", True
    answer = renderer.render(template, {"messages": []}, None)
    return answer.get("error", answer.get("text")), "error" in answer


def told_by_promptsource(source):
    try:
        return flan.Template(source).render({}, lambda count: 0), False
    except flan.Bounded as error:
        return str(error), True


@pytest.mark.parametrize("told", [told_by_chat, told_by_promptsource])
@pytest.mark.parametrize("escape", ESCAPES)
def test_an_escape_is_an_error_or_says_nothing(escape, told, tmp_path):
    canary = tmp_path / "canary"
    text, is_error = told(escape.format(f"touch {canary}"))
    assert is_error or is_nothing(text), text
    assert not canary.exists() and "root:" not in text


@pytest.mark.parametrize("told", [told_by_chat, told_by_promptsource])
def test_what_templates_need_is_allowed(told):
    source = (
        "{% set ns = namespace(n=0, x='') %}{% for p in range(3) %}{% set ns.n = ns.n + p %}"
        "{% if not loop.first and loop.previtem == 0 %}{% set ns.x = 'y' %}{% endif %}{% endfor %}"
        "{{ ns.n }}{{ ns.x.upper().lower().strip() }}{{ 'a-b'.split('-')[1] }}"
        "{% for k, v in {'b': 1}.items() %}{{ k }}{{ {'b': 1}.get(k) }}{% endfor %}"
        "{{ [3, 1] | sort | join(',') }}{{ 'x'.startswith('x') }}"
    )
    assert told(source) == ("3ybb11,3True", False)


def test_of_chat_templates_alone():
    """Macros, blocks of text, dictionaries sorted: what published templates are written with."""
    source = (
        "{%- macro call(name, inner=none) -%}{{ name | upper }}{{ caller() if caller else '' }}"
        "{%- endmacro -%}{{ call('a') }}{% call call('b') %}!{% endcall %}"
        "{% filter upper %}x{% endfilter %}{% set t %}q{% endset %}{{ t | trim }}"
        "{% for k, v in {'b': 1, 'a': [2]} | dictsort %}{{ k }}{{ v | tojson }}{% endfor %}"
        "{% for g in [{'r': 1}, {'r': 1}] | groupby('r') %}{{ g.grouper }}{{ g.list | length }}"
        "{% endfor %}{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}"
        "{{ dict(a=1).a }}{{ strftime_now('%Y') }}{{ '<' | e }}{{ '<' | safe }}"
    )
    assert told_by_chat(source) == ("AB!Xqa[2]b112112024&lt;<", False)


def test_the_list_would_tell(monkeypatch):
    """Under plain Jinja most of these get out: the list is one of escapes."""
    plain, out = jinja2.Environment(), 0
    for escape in ESCAPES:
        try:
            text = plain.from_string(escape.format("true")).render(messages=[])
            out += not is_nothing(text)
        except Exception:
            continue
    assert out > len(ESCAPES) // 3
