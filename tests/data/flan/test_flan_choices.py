import collections

from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft.data.flan import choices


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 300), key=st.integers())
def test_draw_gives_every_number_once(count, key):
    assert sorted(choices.draw(count, key)) == list(range(count))


def test_draws_are_these_for_ever():
    numbers = [choices.number(10, 0, "rte", index, "pattern") for index in range(12)]
    assert numbers == [6, 5, 9, 2, 4, 7, 8, 2, 5, 4, 7, 8]
    assert list(choices.draw(8, 0, "rte", 3)) == [0, 2, 7, 6, 3, 1, 4, 5]


def test_every_position_is_equally_likely():
    """Of 3,000 orders of five numbers, each number is first, second ... about 600 times."""
    counts = collections.Counter(
        (place, number) for key in range(3000) for place, number in enumerate(choices.draw(5, key))
    )
    assert len(counts) == 25
    assert all(500 < count < 700 for count in counts.values())  # 600 +- 4.5 standard deviations


def test_key_has_no_two_readings():
    same = [choices.number(1 << 60, *key) for key in (("a", "b1"), ("a", "b", 1), ("ab", 1))]
    assert len(set(same)) == 3
