"""Numbers as people read them."""

import pytest

from t5sft.plan import report


@pytest.mark.parametrize(
    "value, shown",
    [(17.18e9, "17.2 G"), (1.018e14, "102 T"), (999, "999 "), (0.0165, "16.5 m"), (2e-6, "2 u")],
)
def test_prefixes(value, shown):
    assert report.amount(value) == shown


def test_a_table_puts_text_left_and_numbers_right():
    rows = [("kind", "count"), ("all-gather", "7"), ("x", "1,234")]
    assert report.table(rows) == ["kind        count", "all-gather      7", "x           1,234"]
