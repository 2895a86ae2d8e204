"""The contract of a head: how a model's features become a loss and predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from petl_zoo.model import VLModel


class Head(nn.Module):
    """Base of all heads. A head's own parameters, if it has any, are trained and counted with role ``head``."""

    def loss(self, model: VLModel, **batch: Any) -> dict[str, Tensor]:
        """Loss terms by name; what begins with ``loss`` is summed, the rest is logged."""
        raise NotImplementedError

    def predict(self, model: VLModel, **batch: Any) -> list[dict[str, Any]]:
        """One dict of predictions a sample."""
        raise NotImplementedError
