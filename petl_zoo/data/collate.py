"""From samples to the batch that the model takes as keyword arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from registry import FUNCTIONS

__all__ = ["collate"]


@FUNCTIONS.register_module()
def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make one batch of samples with the same keys.

    Tensors are stacked, integers become a long tensor and strings a list. Anything else belongs to the batch as
    a whole, such as ``ClassNames`` or a ``Gallery``: all samples must have the same, and it is kept once.

    Shape:
        B times a tensor (...) -> (B, ...); B integers -> (B,)

    Raises:
        ValueError: the samples have different keys, or different values where they must share one.
    """
    keys = samples[0].keys()
    for sample in samples:
        if sample.keys() != keys:
            raise ValueError(
                f"the samples of a batch must have the same keys, not {', '.join(keys)} and {', '.join(sample)}; a "
                "loader for each data set keeps them apart"
            )
    return {key: _join(key, [sample[key] for sample in samples]) for key in keys}


def _join(key: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(values)
    if isinstance(first, int):
        return torch.tensor(values, dtype=torch.long)
    if isinstance(first, str):
        return values
    if any(value is not first and value != first for value in values):
        raise ValueError(
            f"the samples of a batch must share their {key} ({type(first).__name__}); a loader for each data set "
            "keeps them apart"
        )
    return first
