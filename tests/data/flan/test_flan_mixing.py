import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5sft import errors
from t5sft.data.flan import mixing


def test_capped_in_proportion():
    got = mixing.proportional({"a": 1_000, "b": 3_000, "c": 400_000}, cap=3_000)
    assert got == pytest.approx({"a": 1 / 7, "b": 3 / 7, "c": 3 / 7})


def test_temperature_flattens():
    sizes = {"a": 100, "b": 10_000}
    assert mixing.proportional(sizes, temperature=2.0) == pytest.approx({"a": 1 / 11, "b": 10 / 11})
    assert mixing.proportional(sizes, temperature=math.inf) == pytest.approx({"a": 0.5, "b": 0.5})


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.dictionaries(st.text(max_size=3), st.integers(1, 10**9), min_size=1),
    cap=st.none() | st.integers(1, 10**6),
    temperature=st.floats(0.2, 50),
)
def test_rates_add_up_and_keep_the_order_of_sizes(sizes, cap, temperature):
    rates = mixing.proportional(sizes, cap=cap, temperature=temperature)
    assert math.isclose(sum(rates.values()), 1.0)
    for a in sizes:
        assert all(rates[a] <= rates[b] for b in sizes if sizes[a] <= sizes[b])


def test_nothing_to_mix_is_an_error():
    with pytest.raises(errors.ConfigError, match="task 'a' has 0 examples"):
        mixing.proportional({"a": 0})
    with pytest.raises(errors.ConfigError, match="temperature is 0"):
        mixing.proportional({"a": 1}, temperature=0)
    with pytest.raises(errors.ConfigError, match="weights are {}"):
        mixing.explicit({})


def test_flan_v2s_weights():
    assert math.isclose(sum(mixing.FLAN2022_WEIGHTS.values()), 1.0)
    assert set(mixing.FLAN2022_WEIGHTS) == set(mixing.FLAN2022_CAPS) == set(mixing.FLAN2022_STYLES)
