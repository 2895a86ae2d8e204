"""CoCoOp: context words that each image shifts."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from petl_zoo.backbones import Backbone, Plan, StreamPlan
from registry import TUNERS

from .base import Tuner
from .prompting import check_positive, linear, text_context


@TUNERS.register_module()
class CoCoOp(Tuner):
    """Shift every context vector by a function of the image: ``v_m(x) = v_m + W2 relu(W1 f(x))``.

    f(x) is the normalised image feature; W1 has E // reduction outputs, W2 the text width. Each image has prompts of
    its own, so the text tower runs B times; here all images of a batch run at once, with the same sums.

    Source: Zhou et al. 2022 (arXiv 2203.05557), section 3.2; reduction 16 and the normalised feature as in the code.
    """

    needs = frozenset({"text"})
    conditioned = True

    def __init__(self, *, length: int = 4, init: str | None = "a photo of a", reduction: int = 16) -> None:
        """Choose the context and the network.

        Args:
            length: number of context vectors.
            init: words whose embeddings the vectors start from; None for random vectors.
            reduction: by how much the network's hidden layer is narrower than the joint space.
        """
        super().__init__()
        check_positive(length=length, reduction=reduction)
        self.length, self.init, self.reduction = length, init, reduction

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        self.text_context, self.template = text_context(backbone, self.length, self.init)
        hidden = backbone.embed_dim // self.reduction
        if hidden < 1:
            raise ValueError(f"reduction ({self.reduction}) is more than the joint width {backbone.embed_dim}")
        self.meta_in = linear(backbone.embed_dim, hidden, backbone.like)
        self.meta_out = linear(hidden, backbone.streams["text"].width, backbone.like)

    def role_of(self, name: str) -> str:
        return "projection" if name.startswith("meta") else "prompt"

    def count(self, backbone: Backbone) -> int:
        width, joint = backbone.streams["text"].width, backbone.embed_dim
        hidden = joint // self.reduction
        return self.length * width + (joint * hidden + hidden) + (hidden * width + width)

    def plan(self, image: Tensor | None = None) -> Plan:
        assert image is not None, "the model hands the image features to a conditioned tuner"
        shift = self.meta_out(F.relu(self.meta_in(image)))  # (B, D)
        return Plan({"text": StreamPlan(context=self.text_context + shift[:, None, None])})  # (B, 1, M, D)
