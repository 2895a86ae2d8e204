"""Accuracy against torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from petl_zoo.evaluation import Accuracy

CLASSES = 12


def test_accuracy_is_that_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, CLASSES, generator=generator)
    labels = torch.randint(CLASSES, (200,), generator=generator)
    logits[torch.arange(200), labels] += 1.0
    metric = Accuracy(per_class=True)
    best = logits.topk(5, dim=1).indices
    for part in torch.arange(200).split(64):
        batch = [{"label": int(labels[i]), "top": best[i].tolist()} for i in part]
        metric.process(None, batch)
    found = metric.evaluate(200)

    def reference(top: int, average: str) -> float:
        return float(MulticlassAccuracy(CLASSES, top_k=top, average=average)(logits, labels))

    assert found["accuracy"] == pytest.approx(reference(1, "micro"))
    assert found["top5_accuracy"] == pytest.approx(reference(5, "micro"))
    assert found["class_mean_accuracy"] == pytest.approx(reference(1, "macro"))


def test_fewer_classes_than_k_leave_k_out() -> None:
    metric = Accuracy()
    metric.process(None, [{"label": 1, "top": [1, 0]}, {"label": 0, "top": [1, 0]}])
    assert metric.evaluate(2) == {"accuracy": 0.5}


def test_a_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"top \(\(0,\)\)"):
        Accuracy(top=(0,))
