import pytest

from t5sft import errors
from t5sft.data.flan import promptsource

FILE = """dataset: boats
templates:
  0c1: !Template
    answer_choices: no ||| yes
    id: 0c1
    jinja: '{{text}}

      Does it float? ||| {% if label != -1 %}{{ answer_choices[label] }}{% endif %}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics: &m
      - Accuracy
    name: floats
    reference: ''
  0c2: !Template
    answer_choices: null
    id: 0c2
    jinja: 'Join: {% for word in words %}{{ loop.index }} {{ word | upper }}{{ ", " if not
      loop.last }}{% endfor %} ||| {{ words | join(" ") }} {{ ["a", "b"] | choice }}'
    metadata: !TemplateMetadata
      metrics: *m
    name: join
    reference: ''
"""


@pytest.fixture
def read(tmp_path):
    def write(text):
        path = tmp_path / "templates.yaml"
        path.write_text(text)
        return promptsource.read(path)

    return write


def apply(jinja, row=None, answers=None):
    prompt = promptsource.Prompt("p", jinja, answers, {}, "here")
    return promptsource.Writer(prompt).apply(row or {}, 0, "t", 3)


def test_reads_and_writes(read):
    floats, join = read(FILE)
    assert (floats.name, floats.answer_choices, join.name) == ("floats", "no ||| yes", "join")
    assert floats.metadata == {"choices_in_prompt": False, "metrics": ["Accuracy"]}
    writer = promptsource.Writer(floats)
    row = {"text": "A ||| of {{wood}}.", "label": 1}
    assert writer.apply(row) == ("A ||| of {{wood}}.\nDoes it float?", "yes", ["no", "yes"])
    assert writer.apply({**row, "label": -1}) is None  # no target: no example


def test_draws_depend_on_the_key_alone(read):
    writer = promptsource.Writer(read(FILE)[1])
    row = {"words": ["x", "y"]}
    got = [writer.apply(row, 0, "t", index) for index in range(40)]
    assert {x.inputs for x in got} == {"Join: 1 X, 2 Y"}
    assert {x.targets for x in got} == {"x y a", "x y b"}
    assert got == [writer.apply(row, 0, "t", index) for index in reversed(range(40))][::-1]


@pytest.mark.parametrize(
    ("jinja", "targets"),
    [
        ("x ||| {{ a.split('-')[1].lower() }}", "b"),
        ("x ||| {{ a.replace('-', ' ') }}", "A B"),
        (
            "x ||| {% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}"
            "{% endfor %}{{ ns.n }}",
            "6",
        ),
        (
            "x ||| {% set l = [] %}{% for i in [3, 1] %}{{ l.append(i) or '' }}{% endfor %}"
            "{{ l | sort }}",
            "[1, 3]",
        ),
        ("x ||| {{ {'k': 'v'}[['k'][0]] ~ '-' ~ 3 }}", "v-3"),
        ("x ||| {{ rows | selectattr('y', 'equalto', 2) | map(attribute='z') | first }}", "two"),
        ("x ||| {% for p, q in zip([1, 2], 'ab') %}{{ p }}{{ q }}{% endfor %}", "1a2b"),
        ("x ||| {{ '%s of %d: %0.1f%%' | format('one', 2, 3) }}", "one of 2: 3.0%"),
        (
            "x ||| {% for i in range(2) %}{% set j = i %}{{ a.replace('-', '') }}"
            "{{ rows[i].get('y') }}{% endfor %}",
            "AB1AB2",
        ),
        ("x ||| {{ ['b', 'a', 'b'] | most_frequent | join }}", "b"),
        ("x ||| {{ 7 // 2 + 2 * 3 - 7 % 4 }}{{ 'ab' * 2 }}{{ 'ab'[:-1] }}", "6ababa"),
        ("x ||| {{ ['q', 'r'].index('r') if a and not none else 0 }}", "1"),
        ("x ||| {{ rows[0].z | default('d') | capitalize }}", "One"),
    ],
)
def test_allows_what_promptsource_uses(jinja, targets):
    row = {"a": "A-B", "rows": [{"y": 1, "z": "one"}, {"y": 2, "z": "two"}], "none": None}
    assert apply(jinja, row).targets == targets


def test_a_template_cannot_change_the_row():
    row = {"words": ["x"], "d": {"k": 1}}
    assert apply("{{ words.append('y') or d.update({'k': 2}) }} ||| {{ words }}{{ d.k }}", row)
    assert row == {"words": ["x"], "d": {"k": 1}}


ESCAPES = [
    "''.__class__.__mro__[1].__subclasses__()",
    "''['__class__']",
    "''|attr('__class__')",
    "words|map(attribute='__class__')|list",
    "words|map('attr', '__class__')|list",
    "range.__globals__",
    "namespace.__init__.__globals__['os'].system(canary)",
    "namespace().__class__",
    "self.__init__.__globals__",
    "cycler.__init__.__globals__.os.popen(canary)",
    "lipsum.__globals__",
    "'{0.__class__}'.format(words)",
    "'{0.__class__}'.format_map({'0': words})",
    "'%c' | format(65)",
    "words.__iter__",
    "zip.__self__",
    "zip.__self__.join('ab')",
    "(words.append).__self__.__class__",
    "'a'.encode('utf-8')",
    "words.sort(key=zip)",
    "canary.open",
]
BOMBS = [
    "9**9**9",
    "'%1000000000d' % 3",
    "'a' * 1000000000",
    "1000000000 * 'a'",
    "[0] * 1000000000",
    "range(1000000000)|list",
    "'aaaaaaaaaa'|replace('a', 'a' * 999999)",
    "('a' * 1000).replace('a', 'a' * 9999)",
    "('b' * 99999)|join('a' * 99999)",
    "('a' * 99999).join('b' * 99999)",
    "'a'|center(1000000000)",
    "'%1000000000d'|format(3)",
    "'a'.ljust(1000000000)",
    "'a\\nb'|indent(1000000000)",
    "'{:>1000000000}'.format(1)",
    "[[0] * 999999] * 999999",
]


def grown(start, step, times=99):
    """A program that sets x to something larger in every turn of a loop."""
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range({times}) %}}"
        f"{{% set ns.x = {step} %}}{{% endfor %}}"
    )


PROGRAMS = [
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}",
    grown("'a'", "ns.x ~ ns.x"),
    grown("'a'", "ns.x + ns.x"),
    grown("[1]", "ns.x + ns.x"),
    grown("3", "ns.x * ns.x", times=9999),
    grown("[1]", "[ns.x, ns.x]") + "{{ ns.x }}",
    grown("[1]", "(ns.x, ns.x)", times=60) + "{{ ns.x | string }}",
    "{% set l = [1] %}{% for i in range(99) %}{{ l.append(l) }}{% endfor %}",
    "{% set d = {} %}{% for i in range(99) %}{{ d.update({'a': [d, d]}) }}{% endfor %}",
    "{% set x %}{% for i in range(9999) %}{{ 'a' * 99999 }}{% endfor %}{% endset %}{{ x[0] }}",
    "{% set l = [] %}{% for i in range(9999) %}{{ l.append('a' * 99999 ~ i) or '' }}{% endfor %}",
    "{% set x = 'a' * 99999 %}{% set l = [] %}{% for i in range(9999) %}"
    "{{ l.append(x[i:]) or '' }}{% endfor %}",
    "{% set x = 'a' * 99999 %}{% set l = [] %}{% for i in range(9999) %}"
    "{{ l.append(x.split('')) or '' }}{% endfor %}",
    "{% set x = 'a ' * 99999 %}{% for i in range(9999) %}{% set y = x.split() %}{% endfor %}",
    "{% set x = 'ab' * 99999 %}{% for i in range(9999) %}{% set y = x.count('b') %}{% endfor %}",
    "{% set x = 'a' * 99999 %}{% for i in range(9999) %}{% set y = x | list | sort %}{% endfor %}",
    "{% autoescape true %}{{ 1 }}{% endautoescape %}",
    "{% with a = 1 %}{{ a }}{% endwith %}",
    "{% for c in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{% filter upper %}x{% endfilter %}",
    "{% call f() %}{% endcall %}",
]


@pytest.mark.parametrize("program", [f"{{{{ {x} }}}}" for x in ESCAPES + BOMBS] + PROGRAMS)
def test_a_hostile_template_is_an_error(program, tmp_path):
    canary = tmp_path / "canary"
    row = {"words": ["x"], "canary": f"touch {canary}", "f": 1, "os": 1}
    row |= dict.fromkeys(("self", "cycler", "lipsum"), "")
    with pytest.raises(errors.DataError, match="; here; mend the template"):
        apply(f"{program} ||| y", row)
    assert not canary.exists()


YAML = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object/new:os.system ['touch {canary}']",
    "templates: {{a: !!python/object/apply:pathlib.Path ['{canary}']}}",
    "templates: {{a: !Other {{name: b, jinja: c}}}}",
    "a: &a [1, 1]\ntemplates: {{b: {{<<: *a}}}}",
    "templates: {{a: &a {{x: 1}}, b: {{<<: [*a, *a]}}}}",
    "[" * 5000,
    "templates: " + "{{a: " * 200 + "1" + "}}" * 200,
    "templates: 3",
    "templates: {{a: 3}}",
    "templates: {{a: !Template {{name: b, jinja: [c]}}}}",
    "templates: {{a: !Template {{name: b, jinja: c, answer_choices: 3}}}}",
    "\x00",
    "a: [",
]


@pytest.mark.parametrize("text", YAML)
def test_a_hostile_file_is_an_error(text, read, tmp_path):
    canary = tmp_path / "canary"
    with pytest.raises(errors.DataError, match="templates.yaml"):
        read(text.format(canary=canary))
    assert not canary.exists()


def test_an_alias_copies_nothing(read):
    """The billion laughs: twelve levels of tenfold aliases are read and never written out."""
    lines = ["a0: &a0 [x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 13)
    ]
    (prompt,) = read(
        "\n".join([*lines, "templates: {t: {name: n, jinja: 'a ||| b', metadata: *a12}}"])
    )
    assert prompt.name == "n"


def test_says_which_field_is_missing():
    message = r"needs the field 'txt' \(did you mean 'text'\?\); here; the row has label, text"
    with pytest.raises(errors.DataError, match=message):
        apply("{{txt}} ||| x", {"text": "", "label": 1})


def test_a_method_is_as_strict_as_python_and_a_filter_as_lenient_as_jinja():
    assert apply("x ||| {{ [1, 'a'] | join('-') }}").targets == "1-a"
    with pytest.raises(errors.DataError, match="join needs texts"):
        apply("x ||| {{ '-'.join([1, 'a']) }}")
    with pytest.raises(errors.DataError, match="replace needs texts"):
        apply("x ||| {{ 'a'.replace('a', 1) }}")


def test_two_separators_are_an_error():
    with pytest.raises(errors.DataError, match=r"more than one \|\|\|; here"):
        apply("a ||| b ||| c")


def test_syntax_errors_are_told():
    with pytest.raises(errors.DataError, match="TemplateSyntaxError: .*; here; mend"):
        apply("{% if %} ||| b")
