"""Linear probe: a classifier on frozen image features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import Backbone
from registry import TUNERS

from .base import Tuner

INITS = ("text", "zero")


@TUNERS.register_module()
class LinearProbe(Tuner):
    """Train one weight vector and one bias a class on the normalised image features.

    ``logit_c = s (W_c f + b_c)`` with s the backbone's scale. A class that was not trained keeps its zero-shot weight,
    its normalised text feature, and no bias: a probe says nothing of new classes.

    Source: Radford et al. 2021 (CLIP), section 3.2, but started from the text features as in Wortsman et al. 2022
    (arXiv 2109.01903, section 3), since few shots from zero fall below zero-shot; ``init='zero'`` is the classic probe.
    """

    role = "head"
    identity = True
    needs_classes = True

    def __init__(self, *, init: str = "text") -> None:
        """Choose the start.

        Args:
            init: ``text`` for the classes' text features, ``zero`` for zeros.
        """
        super().__init__()
        if init not in INITS:
            raise ValueError(f"init ({init!r}) must be one of {', '.join(INITS)}")
        self.init = init
        self.classes: tuple[str, ...] = ()

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        like = backbone.like
        shape = len(self.classes), backbone.embed_dim
        # How far the weights are from the start: zero at first, so that the start itself need not be known here.
        self.weight = nn.Parameter(torch.zeros(shape, device=like.device, dtype=like.dtype))
        self.bias = nn.Parameter(torch.zeros(shape[0], device=like.device, dtype=like.dtype))

    def count(self, backbone: Backbone) -> int:
        return len(self.classes) * (backbone.embed_dim + 1)

    def logits(self, image: Tensor, text: Tensor, scale: Tensor, classes: Sequence[str]) -> Tensor:
        index = {name: i for i, name in enumerate(self.classes)}
        rows = torch.tensor([index.get(name, -1) for name in classes], device=image.device)
        known = (rows >= 0)[:, None]
        start = F.normalize(text, dim=-1)
        if self.init == "zero":
            start = start.masked_fill(known, 0.0)
        weight = start + self.weight[rows].masked_fill(~known, 0.0)  # (C, E)
        bias = self.bias[rows].masked_fill(~known[:, 0], 0.0)
        return scale * (F.normalize(image, dim=-1) @ weight.t() + bias)
