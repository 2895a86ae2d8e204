"""Metrics. Importing this package registers them all."""

from .accuracy import Accuracy

__all__ = ["Accuracy"]
