"""From samples to the batch that the model takes as keyword arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from registry import FUNCTIONS

__all__ = ["collate"]


@FUNCTIONS.register_module()
def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack images and labels; keep the one ``ClassNames`` that all samples share.

    Shape:
        images (3, H, W) and labels, B times; returns images (B, 3, H, W) and labels (B,) long.

    Raises:
        ValueError: the samples have different class names.
    """
    classes = samples[0]["classes"]
    if any(sample["classes"] is not classes and sample["classes"] != classes for sample in samples):
        raise ValueError(
            "the samples of a batch must share their class names; a data set per class list keeps them apart"
        )
    return {
        "images": torch.stack([sample["images"] for sample in samples]),
        "labels": torch.tensor([sample["labels"] for sample in samples]),
        "classes": classes,
    }
