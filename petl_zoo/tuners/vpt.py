"""Visual prompts (VPT), and independent prompts for vision and language (IVLP)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from petl_zoo.backbones import Backbone, Plan, StreamPlan
from registry import TUNERS

from .base import Tuner
from .prompting import check_depth, check_positive, random_prompt, replacing, text_context


@TUNERS.register_module()
class VPT(Tuner):
    """Put n prompt tokens behind the patches, and replace them before each of the first J layers.

    Before layer i < J the last n tokens leave and P_i enters; later layers carry P_{J-1}'s outputs. The text side is
    the fixed "a photo of a NAME.", not the data set's own template. Depth 1 is VPT-shallow.

    Source: Jia et al. 2022 (arXiv 2203.12119), equations 4 to 6; in CLIP as in the MaPLe authors' code: tokens at the
    end of the sequence, before ``ln_pre``, without positions.
    """

    needs = frozenset({"vision"})

    def __init__(self, *, length: int = 8, depth: int = 12) -> None:
        """Choose the prompts.

        Args:
            length: n, tokens a layer.
            depth: J, number of layers with prompts of their own.
        """
        super().__init__()
        check_positive(length=length, depth=depth)
        self.length, self.depth = length, depth
        self.template = "a photo of a {}."

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        check_depth(backbone, "vision", self.depth)
        width = backbone.streams["vision"].width
        self.vision = nn.ParameterList(
            random_prompt(self.length, width, backbone.like) for _ in range(self.depth)
        )

    def count(self, backbone: Backbone) -> int:
        return self.depth * self.length * backbone.streams["vision"].width

    def plan(self, image: object = None) -> Plan:
        return Plan({"vision": StreamPlan(context=self.vision[0], swaps=replacing(self.vision))})


@TUNERS.register_module()
class IVLP(Tuner):
    """Deep prompts for vision and for text, learned side by side without a coupling.

    Vision is VPT. In the text the first n words of "a photo of a" are replaced, and before each of the first J layers
    slots 1 to n are replaced again, without positions. A vision depth of 0 is language-only prompting.

    Source: the baseline of Rasheed et al. 2023 (arXiv 2212.03640) and Khattak et al. 2023 (MaPLe, arXiv 2210.03117,
    Table 1); initialisation as in their code: N(0, 0.02^2) but for the first text prompt.
    """

    needs = frozenset({"text"})

    def __init__(
        self,
        *,
        length: int = 2,
        depth: int = 12,
        vision_length: int | None = None,
        vision_depth: int | None = None,
        init: str | None = "a photo of a",
    ) -> None:
        """Choose the prompts.

        Args:
            length: tokens a layer in the text stream.
            depth: number of text layers with prompts of their own.
            vision_length: tokens a layer in the vision stream; None for ``length``.
            vision_depth: number of vision layers with prompts; 0 for none, None for ``depth``.
            init: words whose embeddings the first text prompt starts from.
        """
        super().__init__()
        self.length, self.depth, self.init = length, depth, init
        self.vision_length = length if vision_length is None else vision_length
        self.vision_depth = depth if vision_depth is None else vision_depth
        check_positive(length=length, depth=depth, vision_length=self.vision_length)
        if self.vision_depth < 0:
            raise ValueError(f"vision_depth ({self.vision_depth}) must be 0 or more")

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        check_depth(backbone, "text", self.depth)
        check_depth(backbone, "vision", self.vision_depth, "vision_depth")
        like = backbone.like
        first, self.template = text_context(backbone, self.length, self.init)
        text, vision = backbone.streams["text"].width, backbone.streams["vision"].width
        later = (random_prompt(self.length, text, like) for _ in range(self.depth - 1))
        self.text = nn.ParameterList([first, *later])
        self.vision = nn.ParameterList(
            random_prompt(self.vision_length, vision, like) for _ in range(self.vision_depth)
        )

    def count(self, backbone: Backbone) -> int:
        text, vision = backbone.streams["text"].width, backbone.streams["vision"].width
        return self.depth * self.length * text + self.vision_depth * self.vision_length * vision

    def plan(self, image: object = None) -> Plan:
        streams = {"text": StreamPlan(context=self.text[0], swaps=replacing(self.text))}
        if len(self.vision):
            streams["vision"] = StreamPlan(context=self.vision[0], swaps=replacing(self.vision))
        return Plan(streams)
