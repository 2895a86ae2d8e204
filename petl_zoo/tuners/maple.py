"""MaPLe: text prompts, and vision prompts that are functions of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from petl_zoo.backbones import Backbone, Plan, StreamPlan
from registry import TUNERS

from .base import Tuner
from .prompting import check_depth, check_positive, equal_linears, linear, random_prompt, replacing, text_context


@TUNERS.register_module()
class MaPLe(Tuner):
    """Learn text prompts T_i for the first J layers and couple the vision prompts to them: ``V_i = F_i(T_i)``.

    Layer 1: T_1 takes the places of the first n words of "a photo of a", V_1 stands behind the patches. Before each
    layer i = 2..J both are replaced; later layers carry them. F_i is Linear(D_text, D_vision) with bias.

    Source: Khattak et al. 2023 (arXiv 2210.03117), equations 3 to 8. As in the authors' code, the deep F_i start as
    copies of one layer, F_1 apart. Deviation: their prompts and F_1 are half precision throughout; here parameters keep
    the backbone's dtype and autocast does the rest.
    """

    needs = frozenset({"vision", "text"})

    def __init__(self, *, length: int = 2, depth: int = 9, init: str | None = "a photo of a") -> None:
        """Choose the prompts.

        Args:
            length: n, tokens a layer and stream.
            depth: J, number of layers with prompts of their own.
            init: words whose embeddings T_1 starts from.
        """
        super().__init__()
        check_positive(length=length, depth=depth)
        self.length, self.depth, self.init = length, depth, init

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        check_depth(backbone, "text", self.depth)
        check_depth(backbone, "vision", self.depth)
        like = backbone.like
        text, vision = backbone.streams["text"].width, backbone.streams["vision"].width
        first, self.template = text_context(backbone, self.length, self.init)
        later = (random_prompt(self.length, text, like) for _ in range(self.depth - 1))
        self.text = nn.ParameterList([first, *later])
        deep = equal_linears(self.depth - 1, text, vision, like)
        self.coupling = nn.ModuleList([linear(text, vision, like), *deep])

    def role_of(self, name: str) -> str:
        return "projection" if name.startswith("coupling") else "prompt"

    def count(self, backbone: Backbone) -> int:
        text, vision = backbone.streams["text"].width, backbone.streams["vision"].width
        return self.depth * (self.length * text + text * vision + vision)

    def plan(self, image: object = None) -> Plan:
        vision = [couple(prompt) for couple, prompt in zip(self.coupling, self.text, strict=True)]
        return Plan(
            {
                "text": StreamPlan(self.text[0], replacing(self.text)),
                "vision": StreamPlan(vision[0], replacing(vision)),
            }
        )
