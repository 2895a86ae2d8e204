"""UniAdapter: adapters whose down-projection vision, text and fusion share."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import Backbone
from registry import TUNERS

from .adapter import FUSED, check_rank, cross_pairs, fill, pair_size, start_zero, task_heads
from .base import Tuner
from .prompting import check_positive, linear

# What a stream's layers ask of the adapter of their index; a fused layer reads text before it reads the image.
KINDS = {"vision": ("vision",), "text": ("text",), "fusion": ("text", "fusion"), "decoder": ("text", "fusion")}


class SharedAdapter(nn.Module):
    """The adapter of one layer index: one Down, an Up for each kind of input, ``z(x) = ReLU(Down(LN(x)))``."""

    def __init__(
        self, width: int, rank: int, scale: float, kinds: Sequence[str], like: Tensor, *, official_init: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        self.norm = nn.LayerNorm(width, device=like.device, dtype=like.dtype)
        self.down = linear(width, rank, like)
        start_zero(self.down.bias)
        self.up = nn.ModuleDict({kind: linear(rank, width, like) for kind in kinds})
        for kind, up in self.up.items():
            if kind == "text" or not official_init:
                start_zero(*up.parameters())
        if "fusion" in kinds:
            self.fusion_norm = nn.LayerNorm(width, device=like.device, dtype=like.dtype)

    def _hidden(self, x: Tensor) -> Tensor:
        return F.relu(self.down(self.norm(x)))

    def vision(self, x: Tensor, after_self: Tensor, after_cross: Tensor | None) -> Tensor:
        """``s Up_v(z(a))``, a being the self-attention's output."""
        return self.scale * self.up["vision"](self._hidden(after_self))

    def text(self, x: Tensor, after_self: Tensor, after_cross: Tensor | None) -> Tensor:
        """``s Up_t(z(a))``."""
        return self.scale * self.up["text"](self._hidden(after_self))

    def fusion(self, x: Tensor, after_self: Tensor, after_cross: Tensor | None) -> Tensor:
        """``s LN(Up_m(z(b)) + Up_t(z(b))) + s Up_t(z(a))``, b being the cross-attention's output.

        A fused layer without cross-attention has no query to keep, and b is a: the first term alone.
        """
        hidden = self._hidden(after_self if after_cross is None else after_cross)
        y = self.scale * self.fusion_norm(self.up["fusion"](hidden) + self.up["text"](hidden))
        return y if after_cross is None else y + self.text(x, after_self, after_cross)


@TUNERS.register_module()
class UniAdapter(Tuner):
    """One adapter a layer index for all streams, a low-rank change of cross-attention's keys and values, and the heads.

    Layers of one index share Down where their widths are equal; where they are not (BLIP-Large's ViT, CLIP) a width has
    adapters of its own. Keys and values of all fused layers share one pair.

    Source: Lu et al. 2024 (arXiv 2302.06605); positions, the LayerNorms, s = 0.1, the learned scale of the pair and the
    trained heads as in the authors' code. There, two things look unmeant, and are options here:
    the fused LayerNorm stays frozen because its name holds "_m", which marks momentum copies (``official``); and all
    but the text's Up start at random, so that training does not start from the backbone (``official_init``). For
    questions, decoder layers use the adapters of their index, as the code does; the second set of adapters that it
    makes for the decoder and leaves unused is left out, so that counts are of what works.
    """

    role = "adapter"
    identity = True
    needs = frozenset({"vision"})

    def __init__(
        self,
        *,
        rank: int = 512,
        scale: float = 0.1,
        cross_rank: int | None = 64,
        heads: bool = True,
        official: bool = False,
        official_init: bool = False,
    ) -> None:
        """Choose the adapters.

        Args:
            rank: r, width of the bottleneck.
            scale: s.
            cross_rank: rank of the change of cross-attention's keys and values; None for none.
            heads: train the backbone's projections and matching head too.
            official: leave the fused LayerNorm frozen, as the authors' filter of names does.
            official_init: start the Ups of vision and fusion, and the pair, as PyTorch starts a Linear.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__()
        check_positive(rank=rank, cross_rank=1 if cross_rank is None else cross_rank)
        self.rank, self.scale, self.cross_rank, self.heads = rank, scale, cross_rank, heads
        self.official, self.official_init = official, official_init
        self.identity = not official_init
        self.pairs: tuple[str, ...] = ()

    @staticmethod
    def _kinds(backbone: Backbone) -> dict[int, dict[int, list[str]]]:
        """What the adapter of each width and layer index is asked for."""
        kinds: dict[int, dict[int, list[str]]] = {}
        for name, stream in backbone.streams.items():
            for i in range(stream.first, stream.first + stream.depth):
                asked = kinds.setdefault(stream.width, {}).setdefault(i, [])
                asked += [kind for kind in KINDS[name] if kind not in asked]
        return kinds

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        self.adapters = nn.ModuleDict()
        for width, indices in self._kinds(backbone).items():
            check_rank(self.rank, width, f"streams of width {width}")
            adapters = {
                i: SharedAdapter(width, self.rank, self.scale, kinds, backbone.like, official_init=self.official_init)
                for i, kinds in indices.items()
            }
            for name, stream in backbone.streams.items():
                if stream.width == width:
                    branch = "fusion" if name in FUSED else name
                    for i, (_, layer) in enumerate(backbone.layers(name), start=stream.first):
                        fill(layer, "adapter", name, getattr(adapters[i], branch))
            self.adapters[str(width)] = nn.ModuleDict({str(i): adapter for i, adapter in adapters.items()})
        if self.cross_rank is not None:
            pairs = cross_pairs(backbone, self.cross_rank, zero=not self.official_init)
            self.pairs = tuple(pairs)
            for name, pair in pairs.items():
                self.add_module(f"{name}_pair", pair)

    def trained(self, backbone: Backbone) -> dict[str, str]:
        own = super().trained(backbone)
        if self.official:
            own = {name: role for name, role in own.items() if ".fusion_norm." not in name}
        heads = task_heads(backbone) if self.heads else {}
        return {**own, **{f"backbone.{name}": "head" for name in heads}}

    def count(self, backbone: Backbone) -> int:
        total = 0
        for width, indices in self._kinds(backbone).items():
            for kinds in indices.values():
                norms = 1 + ("fusion" in kinds and not self.official)
                total += 2 * width * norms + (width + 1) * self.rank + len(kinds) * (self.rank + 1) * width
        total += sum(pair_size(backbone, stream, self.cross_rank or 0) for stream in self.pairs)
        return total + sum(p.numel() for p in task_heads(backbone).values() if self.heads)
