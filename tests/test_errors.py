"""Every mistake has a name, an exit code, and a nearest right name."""

import pytest

from t5sft import errors

EXIT_CODES = {
    "CONFIG": 2,
    "DATA": 3,
    "NONFINITE": 4,
    "CHECKPOINT": 5,
    "STORAGE": 6,
    "OWNER": 7,
    "DISTRIBUTED": 8,
    "SANDBOX": 9,
}


def test_names_and_exit_codes_are_the_documented_ones():
    classes = errors.T5sftError.__subclasses__()
    assert {c.name: c.exit_code for c in classes} == EXIT_CODES


@pytest.mark.parametrize("kind", errors.T5sftError.__subclasses__())
def test_every_error_is_caught_as_one(kind):
    with pytest.raises(errors.T5sftError, match="what; where; what to do"):
        raise kind("what; where; what to do")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("drop_rate", " (did you mean 'dropout_rate'?)"),
        ("DROPOUT_RATE", " (did you mean 'dropout_rate'?)"),
        ("dtpye", " (did you mean 'dtype'?)"),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_suggests_the_nearest_name(name, expected):
    assert errors.suggest(name, ["dropout_rate", "dtype"]) == expected


def test_suggests_nothing_of_nothing():
    assert errors.suggest("name", []) == ""


def test_suggests_from_any_iterable():
    assert errors.suggest("sped", iter(["speed"])) == " (did you mean 'speed'?)"
