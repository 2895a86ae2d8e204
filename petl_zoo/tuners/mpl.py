"""MPL: modular prompts that are added, removed and carried from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from petl_zoo.backbones import Backbone, Plan, StreamPlan, Swap
from registry import TUNERS

from .base import Tuner
from .prompting import check_depth, check_positive, equal_linears, linear, random_prompt, replacing


@TUNERS.register_module()
class MPL(Tuner):
    """Before each deep layer add a * n vision prompts, remove the q newest and carry the rest.

    Text prompts T_i of n tokens as in MaPLe, in front of the words "a photo of a". Vision: V_1 = F_0(T_1); before layer
    i = 2..J the last q tokens leave and ``concat_{u=1..a} F_{i,u}(T_i)`` enters, so the sequence grows by a n - q a
    layer.

    Source: Huang, Pedapati, Chen and Gao 2025 (arXiv 2502.14125); the operations as in the authors' code, where the
    text side replaces only. T_1 starts at the embedding of the placeholder word "X"; all F_{i,u} start as copies of one
    layer. With q > n the first deep layer has fewer than q prompts, so the official code drops image patches too; this
    one does the same, and no more than a n tokens may be removed.
    """

    needs = frozenset({"vision", "text"})

    def __init__(self, *, length: int = 1, depth: int = 9, add: int = 2, remove: int = 1) -> None:
        """Choose the operations.

        Args:
            length: n, text tokens a layer.
            depth: J, number of layers with prompts of their own.
            add: a, add operations a layer; each adds n vision tokens.
            remove: q, vision tokens removed a layer.

        Raises:
            ValueError: more tokens would be removed than are added.
        """
        super().__init__()
        check_positive(length=length, depth=depth, add=add)
        if not 0 <= remove <= add * length:
            raise ValueError(f"remove ({remove}) must be 0 to add * length ({add * length})")
        self.length, self.depth, self.add, self.remove = length, depth, add, remove

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        check_depth(backbone, "text", self.depth)
        check_depth(backbone, "vision", self.depth)
        like = backbone.like
        text, vision = backbone.streams["text"].width, backbone.streams["vision"].width
        placeholder = backbone.word_vectors("X")[:1]
        later = (random_prompt(self.length, text, like) for _ in range(self.depth - 1))
        self.text = nn.ParameterList([nn.Parameter(placeholder.repeat(self.length, 1)), *later])
        self.template = " ".join(["[V]"] * self.length) + " a photo of a {}."
        self.coupling = linear(text, vision, like)
        maps = equal_linears(self.add * (self.depth - 1), text, vision, like)
        self.deep_coupling = nn.ModuleList(
            nn.ModuleList(maps[first : first + self.add]) for first in range(0, len(maps), self.add)
        )

    def role_of(self, name: str) -> str:
        return "prompt" if name.startswith("text") else "projection"

    def count(self, backbone: Backbone) -> int:
        text, vision = backbone.streams["text"].width, backbone.streams["vision"].width
        maps = 1 + self.add * (self.depth - 1)
        return self.depth * self.length * text + maps * (text * vision + vision)

    def plan(self, image: object = None) -> Plan:
        vision = {}
        for i in range(1, self.depth):
            added = [couple(self.text[i]) for couple in self.deep_coupling[i - 1].children()]
            vision[i] = Swap(torch.cat(added), self.remove)
        return Plan(
            {
                "text": StreamPlan(self.text[0], replacing(self.text)),
                "vision": StreamPlan(self.coupling(self.text[0]), vision),
            }
        )
