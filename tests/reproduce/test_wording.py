"""Numbers as claims write them."""

import math

import pytest

from invertible.reproduce.wording import mean_and_deviation, number, over_seeds


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.25], "0.25"),
        ([1.0, 2.0, 30.0], "2 (1 to 30 over 3 seeds)"),
        ([1, 1, 1], "1 (over 3 seeds)"),
        ([1.0, 2.0, math.inf], "2 (1 to infinite over 3 seeds)"),
    ],
)
def test_median_and_range(values, text) -> None:
    assert over_seeds(values) == text


def test_what_is_not_finite_is_written_in_words() -> None:
    assert [number(value) for value in (math.nan, math.inf, -math.inf)] == ["NaN", "infinite", "minus infinite"]


def test_a_deviation_needs_two_values() -> None:
    assert mean_and_deviation([1.5], 1) == "1.5"
    assert mean_and_deviation([1.0, 3.0]) == "2.00 ± 1.41"
