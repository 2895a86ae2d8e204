"""BitFit: train the biases."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from petl_zoo.backbones import Backbone
from registry import TUNERS

from .base import Tuner


@TUNERS.register_module()
class BitFit(Tuner):
    """Train every bias of the backbone, those of LayerNorms included.

    Source: Ben Zaken, Goldberg and Ravfogel, 2022 (arXiv 2106.10199), section 3: "bias terms", all of them by default.
    """

    identity = True
    role = "bias"

    def __init__(self, *, streams: Sequence[str] = ("vision", "text")) -> None:
        """Choose what is trained.

        Args:
            streams: the streams whose biases are trained.
        """
        super().__init__()
        self.streams = tuple(streams)
        self.needs = frozenset(streams)

    def trained(self, backbone: Backbone) -> dict[str, str]:
        return {
            f"backbone.{name}": "bias"
            for name, _ in backbone.named_parameters()
            if name.endswith(".bias") and backbone.stream_of(name) in self.streams
        }

    def count(self, backbone: Backbone) -> int:
        biased = [
            (name, m) for name, m in backbone.named_modules() if isinstance(m, nn.Linear | nn.LayerNorm | nn.Conv2d)
        ]
        return sum(
            m.weight.shape[0] for name, m in biased if m.bias is not None and backbone.stream_of(name) in self.streams
        )
