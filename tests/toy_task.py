"""SeqIO tasks of the tests, over the bytes vocabulary: `Data(modules=("toy_task",))`.

toy_copy     40 rows, 6 held out   "copy: abc" -> "abc"
toy_reverse  24 rows, 6 held out   "reverse: abc" -> "cba"
toy          both, two to one
toy_file     rows of a JSON file with inputs, targets and, if not "train", split
"""

from t5sft.data import define, files, prepare, sources
from t5sft.evaluate import scores

METRICS = [scores.exact_match]


def word(number: int) -> str:
    """Another word of two to five letters for every number."""
    letters = "".join(chr(97 + (number * step + step) % 26) for step in (1, 3, 7, 11, 17))
    return letters[: 2 + number % 4] + chr(97 + number % 26) + chr(97 + number // 26 % 26)


def _source(instruction, turn, size):
    def make(split):
        numbers = range(size) if split == "train" else range(100, 106)
        return [{"inputs": f"{instruction}: {word(n)}", "targets": turn(word(n))} for n in numbers]

    return sources.rows(make, ("train", "validation"))


def register(data: prepare.Data):
    """Registers toy_file over a JSON file."""
    if data.data is None:
        return

    def make(split):
        rows = files.read_rows(data.data)
        mine = [row for _, row in rows if row.get("split", "train") == split]
        return [{field: row[field] for field in ("inputs", "targets")} for row in mine]

    source = sources.rows(make, ("train", "validation"))
    define.add_task("toy_file", source, metric_fns=METRICS, replace=True)


define.add_task("toy_copy", _source("copy", str, 40), metric_fns=METRICS)
define.add_task("toy_reverse", _source("reverse", lambda w: w[::-1], 24), metric_fns=METRICS)
define.add_mixture("toy", {"toy_copy": 2.0, "toy_reverse": 1.0})
