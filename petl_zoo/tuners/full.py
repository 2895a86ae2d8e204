"""Full fine-tuning."""

from __future__ import annotations

from petl_zoo.backbones import Backbone
from registry import TUNERS

from .base import Tuner


@TUNERS.register_module()
class FullFineTuning(Tuner):
    """Train every parameter of the backbone, ``logit_scale`` included: what PETL is compared with, and pretraining."""

    identity = True

    def trained(self, backbone: Backbone) -> dict[str, str]:
        return {f"backbone.{name}": "backbone" for name, _ in backbone.named_parameters()}

    def count(self, backbone: Backbone) -> int:
        return sum(p.numel() for p in backbone.parameters())
