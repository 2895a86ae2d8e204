"""Metrics. Importing this package registers them all."""

from .accuracy import Accuracy
from .base import Measure, Metric
from .recall import Recall

__all__ = ["Accuracy", "Measure", "Metric", "Recall"]
