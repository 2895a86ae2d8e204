"""Statistics over seeds, and the two harmonic means of base-to-new tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

__all__ = ["CONFIDENCE", "Summary", "harmonic_mean", "harmonic_mean_of_means", "mean_of_harmonic_means",
           "summarize"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Hold what some runs that differ in the seed alone have in common.

    Attributes:
        mean: Mean over the runs, in the unit of the values.
        deviation: Standard deviation with n - 1 in the denominator; None for one run.
        half_width: Half the Student-t interval of the mean, which is mean ± half_width; None for one run.
        n: Number of runs.
    """

    mean: float
    deviation: float | None
    half_width: float | None
    n: int

    def overlaps(self, other: Summary) -> bool | None:
        """Say whether two intervals overlap; None where one of them has a single run and so no interval."""
        if self.half_width is None or other.half_width is None:
            return None
        # The slack keeps equal runs equal: means of three and of two equal values may differ in the last bit.
        return abs(self.mean - other.mean) <= self.half_width + other.half_width + 1e-12


def summarize(values: Sequence[float], confidence: float = CONFIDENCE) -> Summary:
    """Summarize the values of runs that differ in the seed alone.

    half_width = t((1 + confidence) / 2; n - 1) · s / √n, where s is the deviation with ddof = 1. With three
    seeds t is 4.30, not 1.96: the normal interval of the population's deviation, usual in prompt learning, is
    2.69 times too narrow there.

    Args:
        values: One value a run.
        confidence: Probability that the interval covers the mean, between 0 and 1.

    Raises:
        ValueError: there are no values, one is not finite, or the confidence is not between 0 and 1.
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"values: {list(values)} cannot be summarized; give at least one value, all finite")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is not allowed; give a number between 0 and 1, as 0.95")
    n = len(values)
    mean = statistics.fmean(values)
    if n == 1:
        return Summary(mean, None, None, n)
    deviation = statistics.stdev(values)
    quantile = float(special.stdtrit(n - 1, 0.5 + confidence / 2))
    return Summary(mean, deviation, quantile * deviation / math.sqrt(n), n)


def harmonic_mean(base: float, new: float) -> float:
    """Return 2·base·new / (base + new) of the accuracies on base and on new classes, 0 if either is 0.

    Raises:
        ValueError: an accuracy is negative.
    """
    return float(statistics.harmonic_mean([base, new]))


def mean_of_harmonic_means(base: Sequence[float], new: Sequence[float]) -> float:
    """Return the mean over pairs (data sets or seeds) of each pair's harmonic mean.

    It is what a table shows that averages a column of harmonic means, ours included. It is never above
    `harmonic_mean_of_means`, because the harmonic mean is concave: a paper that uses the one cannot be
    compared with a paper that uses the other.

    Raises:
        ValueError: there are no pairs, the lengths differ or an accuracy is negative.
    """
    return statistics.fmean(harmonic_mean(b, n) for b, n in _pairs(base, new))


def harmonic_mean_of_means(base: Sequence[float], new: Sequence[float]) -> float:
    """Return the harmonic mean of the mean base and the mean new accuracy: the CoOp family's 'average' row.

    Raises:
        ValueError: there are no pairs, the lengths differ or an accuracy is negative.
    """
    pairs = _pairs(base, new)
    return harmonic_mean(statistics.fmean(b for b, _ in pairs), statistics.fmean(n for _, n in pairs))


def _pairs(base: Sequence[float], new: Sequence[float]) -> list[tuple[float, float]]:
    if not base or len(base) != len(new):
        raise ValueError(f"base and new: {len(base)} and {len(new)} values do not pair up; "
                         "give as many of the one as of the other, at least 1")
    return list(zip(base, new, strict=True))
