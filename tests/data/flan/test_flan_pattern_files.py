import pytest

from t5sft import errors
from t5sft.data.flan import pattern_files
from t5sft.data.flan.patterns import Pattern

FILE = '''
"""Own wording in FLAN's form."""
import copy
PATTERNS = {
    "boat": [
        ("{text}\\n\\nDoes it "
         "float?\\n{options_}", "{answer}"),
        ("Name a boat.", "{" + "name}"),
    ],
}
PATTERNS["ship"] = PATTERNS["boat"]
PATTERNS["raft"] = [("Is it a raft?", "no")]
OTHER = {"x": [open("nothing")]}
for name in PATTERNS:
    print(name)
FEWSHOT_PATTERNS = {
    "boat": [
        FewShotPattern(
            inputs="{text}",
            targets="{answer}",
            inputs_prefix="Q: ",
            x_y_delimiter="\\n",
            in_template_mix=False),
    ],
}
'''


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "templates.py"
        path.write_text(text)
        return path

    return write


def test_reads_pairs_and_names_given_later(file):
    boat = [
        Pattern("{text}\n\nDoes it float?\n{options_}", "{answer}"),
        Pattern("Name a boat.", "{name}"),
    ]
    assert pattern_files.read(file(FILE)) == {
        "boat": boat,
        "ship": boat,
        "raft": [Pattern("Is it a raft?", "no")],
    }


def test_reads_few_shot_patterns(file):
    got = pattern_files.read(file(FILE), "FEWSHOT_PATTERNS")
    assert got == {"boat": [Pattern("{text}", "{answer}", inputs_prefix="Q: ", x_y_delimiter="\n")]}


HOSTILE = [
    "import pathlib\npathlib.Path('{canary}').write_text('')\nPATTERNS = {{'a': [('b', 'c')]}}",
    "PATTERNS = {{'a': [(open('{canary}', 'w').name, 'c')]}}",
    "PATTERNS = {{'a': [FewShotPattern(inputs=open('{canary}', 'w').name, targets='c')]}}",
    "PATTERNS = {{'a': [(f\"{{open('{canary}', 'w')}}\", 'c')]}}",
    "PATTERNS = {{open('{canary}', 'w').name: [('b', 'c')]}}",
    "PATTERNS = dict(a=open('{canary}', 'w'))",
    "PATTERNS = {{'a': [x for x in [open('{canary}', 'w')]]}}",
    "PATTERNS = {{}}\nPATTERNS[open('{canary}', 'w').name] = PATTERNS['a']",
    "@(lambda f: open('{canary}', 'w'))\ndef f(): pass\nPATTERNS = {{'a': [('b', 'c')]}}",
    "PATTERNS = {{**{{'a': open('{canary}', 'w')}}}}",
    "PATTERNS: open('{canary}', 'w') = {{'a': [('b', 'c')]}}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_never_runs_the_file(text, file, tmp_path):
    canary = tmp_path / "canary"
    try:
        got = pattern_files.read(file(text.format(canary=canary)))
    except errors.DataError:
        got = {}
    assert set(got) <= {"a"}
    assert not canary.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PATTERNS = {", r"not Python: '\{' was never closed"),
        ("X = {}", "no dict PATTERNS; .*templates.py; give FLAN's"),
        ("PATTERNS = 3", "PATTERNS is no dict; .*templates.py:1"),
        ("PATTERNS = {\n'a': 'b'}", "a name and its list of patterns; .*templates.py:2"),
        ("PATTERNS = {'a': [\n('b',)]}", "a pair of strings .*templates.py:2"),
        ("PATTERNS = {'a': [FewShotPattern(inputs='b')]}", "a pair of strings"),
        ("PATTERNS = {'a': [FewShotPattern(inputs='b', targets='', sep='')]}", "a pair of strings"),
        (
            "PATTERNS = {}\nPATTERNS['a'] = PATTERNS['b']",
            "expected a list of patterns, or PATTERNS",
        ),
        ("(" * 5000, "not Python"),
        ("\0", "not Python"),
        ("PATTERNS = " + "-" * 100_000 + "1", "not Python|no dict"),
    ],
)
def test_says_what_is_wrong_and_where(text, message, file):
    with pytest.raises(errors.DataError, match=message):
        pattern_files.read(file(text))
