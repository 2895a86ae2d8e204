"""Classification accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from registry import METRICS

from .base import Metric


@METRICS.register_module()
class Accuracy(Metric):
    """Top-k accuracy as fractions: ``accuracy`` for k = 1, ``top5_accuracy`` and so on beyond."""

    headline = "accuracy"

    def __init__(self, *, top: Sequence[int] = (1, 5), per_class: bool = False, collect_device: str = "cpu") -> None:
        """Choose what is reported.

        Args:
            top: each k; a k beyond the model's best classes, or beyond the number of classes, is left out.
            per_class: also report ``class_mean_accuracy``, the mean over classes of each class's accuracy.
            collect_device: where processes exchange results, ``cpu`` or ``gpu``.

        Raises:
            ValueError: a k below 1, or none.
        """
        super().__init__(collect_device=collect_device)
        if not top or min(top) < 1:
            raise ValueError(f"top ({tuple(top)}) must be one or more numbers of at least 1")
        self.top, self.per_class = tuple(top), per_class

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Take a batch's predictions: dicts with ``label`` and ``top``, the best classes, best first."""
        self.results += [(sample["label"], sample["top"]) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[int, list[int]]]) -> dict[str, float]:
        labels = torch.tensor([label for label, _ in results])
        top = torch.tensor([best for _, best in results])  # (N, k)
        hit = top == labels[:, None]  # (N, k)
        metrics = {
            "accuracy" if k == 1 else f"top{k}_accuracy": hit[:, :k].any(1).double().mean().item()
            for k in self.top
            if k <= top.shape[1]
        }
        if self.per_class:
            right = hit[:, 0].double()
            means = [right[labels == label].mean() for label in labels.unique()]
            metrics["class_mean_accuracy"] = torch.stack(means).mean().item()
        return metrics
