"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from petl_zoo.results.statistics import (
    harmonic_mean,
    harmonic_mean_of_means,
    mean_of_harmonic_means,
    summarize,
)


def test_interval_of_three_seeds_by_hand() -> None:
    # mean 0.62; squared differences 0.0004 + 0 + 0.0004 over n - 1 = 2 give s = 0.02;
    # the tables have t(0.975; 2) = 4.302653
    summary = summarize([0.60, 0.62, 0.64])
    assert summary.n == 3
    assert summary.mean == pytest.approx(0.62, abs=1e-12)
    assert summary.deviation == pytest.approx(0.02, abs=1e-12)
    assert summary.half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3), abs=1e-7)


def test_interval_of_two_values_by_hand() -> None:
    # s = |a - b| / sqrt(2), so that s / sqrt(2) = 0.05; t(0.975; 1) = 12.706205
    assert summarize([0.4, 0.5]).half_width == pytest.approx(12.706205 * 0.05, abs=1e-6)


def test_interval_at_another_confidence() -> None:
    expected = 2.919986 * 0.02 / math.sqrt(3)  # t(0.95; 2) of the tables
    assert summarize([0.60, 0.62, 0.64], 0.90).half_width == pytest.approx(expected, abs=1e-7)


def test_usual_interval_of_prompt_learning_is_2_69_times_narrower() -> None:
    values = [0.60, 0.62, 0.64]
    population = math.sqrt(sum((value - 0.62) ** 2 for value in values) / 3)
    half_width = summarize(values).half_width
    assert half_width is not None
    assert half_width / (1.96 * population / math.sqrt(3)) == pytest.approx(2.69, abs=0.005)


def test_one_seed_has_no_interval() -> None:
    summary = summarize([0.7])
    assert (summary.mean, summary.deviation, summary.half_width, summary.n) == (0.7, None, None, 1)


def test_equal_seeds_have_an_interval_of_width_zero() -> None:
    assert summarize([0.7, 0.7, 0.7]).half_width == 0


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [float("inf")]])
def test_values_that_cannot_be_summarized(values: list[float]) -> None:
    with pytest.raises(ValueError, match="give at least one value, all finite"):
        summarize(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"confidence: {confidence}"):
        summarize([0.1, 0.2], confidence)


def test_overlap_of_intervals() -> None:
    wide, near, far = summarize([0.60, 0.62, 0.64]), summarize([0.66, 0.66]), summarize([0.68, 0.68])
    assert wide.overlaps(near) is True  # 0.62 + 0.0497 reaches 0.66 ...
    assert wide.overlaps(far) is False  # ... but not 0.68
    assert wide.overlaps(summarize([0.62])) is None


def test_equal_means_of_unlike_counts_overlap() -> None:
    values = [0.1, 0.7, 0.57, 0.9999]
    assert all(summarize([value] * 3).overlaps(summarize([value] * 7)) for value in values)


def test_both_harmonic_means_by_hand() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 0.8) == 0
    base, new = [0.9, 0.5], [0.3, 0.5]
    assert mean_of_harmonic_means(base, new) == pytest.approx((0.45 + 0.5) / 2)
    assert harmonic_mean_of_means(base, new) == pytest.approx(2 * 0.7 * 0.4 / 1.1)


def test_harmonic_means_need_pairs() -> None:
    with pytest.raises(ValueError, match="2 and 1 values do not pair up"):
        mean_of_harmonic_means([0.1, 0.2], [0.3])
    with pytest.raises(ValueError, match="0 and 0 values do not pair up"):
        harmonic_mean_of_means([], [])
