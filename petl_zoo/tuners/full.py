"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from petl_zoo.backbones import Backbone
from registry import TUNERS

from .base import Tuner


@TUNERS.register_module()
class FullFineTuning(Tuner):
    """Train every parameter of the streams in use, the scale included: what PETL is compared with, and pretraining."""

    identity = True

    def trained(self, backbone: Backbone) -> dict[str, str]:
        return {f"backbone.{name}": "backbone" for name, _ in _used(backbone)}

    def count(self, backbone: Backbone) -> int:
        return sum(parameter.numel() for _, parameter in _used(backbone))


def _used(backbone: Backbone) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the streams in use, and those of no stream."""
    for name, parameter in backbone.named_parameters():
        if backbone.stream_of(name) in (*backbone.streams, "joint"):
            yield name, parameter
