"""The contract of a metric: values by name, and what a record says of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmengine.evaluator import BaseMetric


@dataclass(frozen=True)
class Measure:
    """What a metric's value is.

    Attributes:
        unit: ``fraction``, of which more is better, or ``rank``, of which 1 is best.
        of: what it is taken over, such as ``images``; None where it is computed from other metrics.
        n: how many of them.
    """

    unit: str = "fraction"
    of: str | None = None
    n: int | None = None


class Metric(BaseMetric):
    """Base of all metrics.

    Processes of a distributed run each collect their share; MMEngine joins the shares and drops what padding repeated.

    Attributes:
        headline: name of the value that settings are chosen by, on validation data.
    """

    default_prefix = ""  # The loop puts a set's name in front of each value.
    headline: ClassVar[str]

    def measure(self, name: str, size: int) -> Measure:
        """What a value is, after ``evaluate``.

        Args:
            name: as ``evaluate`` returned it.
            size: samples of the set.
        """
        return Measure(of="images", n=size)
