"""Aurora: low-rank updates of all weights from one small tensor, and a vector for each weight."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import Backbone, Stream
from petl_zoo.backbones.transformer import Layer, Multiway
from registry import TUNERS

from .adapter import FUSED, check_rank, fill, frozen_linear, task_heads
from .base import Tuner
from .prompting import check_positive, linear

ATTENTION = ("attn.q", "attn.k", "attn.v")
VISION = (*ATTENTION, "attn.out", "fc1", "fc2")
CROSS = ("cross.q", "cross.k", "cross.v")
GATE_STD = 2e-4
WEIGHT = 0.1  # of the query transformation and of the context, as in the authors' code


class SharedFactors(nn.Module):
    """What all updates share: U (R, D) and V (D, R) for each width D, and the core C (R, R, R)."""

    def __init__(self, rank: int, widths_in: Sequence[int], widths_out: Sequence[int], like: Tensor) -> None:
        super().__init__()
        self.U = nn.ParameterDict({str(width): linear(width, rank, like).weight for width in widths_in})
        self.V = nn.ParameterDict({str(width): nn.Parameter(like.new_zeros(width, rank)) for width in widths_out})
        self.C = nn.Parameter(like.new_empty(rank, rank, rank))
        nn.init.xavier_uniform_(self.C)


class ModeLinear(nn.Linear):
    """A frozen Linear, under its names, with the update that its mode vectors pick from the shared factors.

    A Linear of one width to another has one vector p and adds ``V S^T U x`` with ``S = sum_c C[:, :, c] p[c]``. One
    that is n times as wide on one side (``fc1``, ``fc2``) has n vectors, and U reads, or V writes, n blocks. Their
    cores are one (R, n R) matrix, interleaved: S[i, j n + m] is element (i, j) of the core of vector m.

    Attributes:
        mode: (R, n).
    """

    def __init__(self, frozen: nn.Linear, shared: SharedFactors, width_in: int, width_out: int, dropout: float) -> None:
        super().__init__(frozen.in_features, frozen.out_features, frozen.bias is not None, device="meta")
        self.weight, self.bias = frozen.weight, frozen.bias
        self.shared = (shared,)  # In a tuple it is not registered: all sites share it, and the tuner owns it.
        self.width_in, self.width_out, self.dropout = width_in, width_out, dropout
        self.merged = False
        blocks = blocks_of(frozen, width_in, width_out)
        self.mode = nn.Parameter(self.weight.new_empty(len(shared.C), blocks))
        nn.init.xavier_uniform_(self.mode)

    def update(self, x: Tensor, dropout: float = 0.0) -> Tensor:
        """What is added to the output: (..., in) -> (..., out)."""
        shared = self.shared[0]
        down, up = shared.U[str(self.width_in)], shared.V[str(self.width_out)]
        cores = (shared.C @ self.mode).flatten(1)  # (R, n R)
        x = (x.unflatten(-1, (-1, self.width_in)) @ down.t()).flatten(-2)
        x = x @ (cores.t() if self.in_features > self.width_in else cores)
        x = F.dropout(x, dropout, self.training)
        return (x.unflatten(-1, (-1, len(cores))) @ up.t()).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.merged else y + self.update(x, self.dropout)

    @torch.no_grad()
    def fold(self, merged: bool) -> None:
        """Add the update to the weight, or take it out again."""
        if merged != self.merged:
            unit = torch.eye(self.in_features, device=self.weight.device, dtype=self.weight.dtype)
            self.weight.add_(self.update(unit).t(), alpha=1 if merged else -1)
            self.merged = merged


def blocks_of(linear: nn.Linear, width_in: int, width_out: int) -> int:
    """n of a Linear: how many times as wide it is on one side as the stream."""
    if linear.in_features % width_in or linear.out_features % width_out:
        raise ValueError(
            f"a Linear of {linear.in_features} to {linear.out_features} is no whole number of blocks of {width_in} to "
            f"{width_out}, which Aurora cuts feed-forward networks into"
        )
    return max(linear.in_features // width_in, linear.out_features // width_out)


class QueryTransformation(nn.Module):
    """Carry outputs a and c of self- and cross-attention past the rest: ``0.1 (a g + b) + 0.1 (c g' + b')``."""

    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__()
        self.scale_self, self.shift_self, self.scale_cross, self.shift_cross = (
            nn.Parameter(like.new_empty(width).normal_(std=GATE_STD)) for _ in range(4)
        )

    def forward(self, x: Tensor, after_self: Tensor, after_cross: Tensor) -> Tensor:
        from_self = after_self * self.scale_self + self.shift_self
        return WEIGHT * (from_self + after_cross * self.scale_cross + self.shift_cross)


@TUNERS.register_module()
class Aurora(Tuner):
    """Update weights by ``V (C . p)^T U`` with U, V and the core C shared by all, and a vector p for each weight.

    Updated are query, key, value, output and both feed-forward Linears of vision, and query, key and value of self- and
    cross-attention elsewhere. Fused layers carry their queries past the feed-forward network (query transformation). In
    training the fused states of true pairs get 0.1 times the mean state of the batch's texts (context enhancement).

    Source: Wang et al. 2023 (arXiv 2305.08381) as their code has it; the paper's count of 0.1M has a diagonal core, the
    code's core is full. The code freezes ``text_proj`` by a typing error in its filter of names: ``official``. Ours:
    a U and a V for each width where streams differ; dropout behind the core everywhere, where their text tower has it
    in front; each weight's vectors are drawn by themselves. The momentum encoder follows U, V and C as it does all that
    is trained; in the code it is called with the current ones.
    """

    role = "low_rank"
    needs = frozenset({"vision"})

    def __init__(
        self,
        *,
        rank: int = 64,
        dropout: float = 0.1,
        query_transformation: bool = True,
        context_enhancement: bool = True,
        heads: bool = True,
        official: bool = False,
    ) -> None:
        """Choose the updates.

        Args:
            rank: R.
            dropout: probability with which an element behind the core is dropped.
            query_transformation: carry queries past the feed-forward network in fused layers; such a model cannot be
                merged.
            context_enhancement: add the texts' mean state to true pairs in training.
            heads: train the backbone's projections and matching head too.
            official: leave the text projection frozen, as the authors' filter of names does.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__()
        check_positive(rank=rank)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout ({dropout}) must be at least 0 and below 1")
        self.rank, self.dropout, self.official = rank, dropout, official
        self.query_transformation, self.context_enhancement = query_transformation, context_enhancement
        self.heads = heads
        self.sites: dict[str, ModeLinear] = {}

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        sites = _sites(backbone)
        widths_in, widths_out = _widths(sites.values())
        for width in {*widths_in, *widths_out}:
            check_rank(self.rank, width, f"streams of width {width}")
        self.shared = SharedFactors(self.rank, widths_in, widths_out, backbone.like)
        for name, site in sites.items():
            frozen = frozen_linear(site.layer, site.name)
            self.sites[name] = ModeLinear(frozen, self.shared, site.width_in, site.width_out, self.dropout)
            site.layer.set_submodule(site.name, self.sites[name])
        for stream, layers in self._gated(backbone).items():
            gates = [QueryTransformation(layer.spec.width, backbone.like) for layer in layers]
            for layer, gate in zip(layers, gates, strict=True):
                fill(layer, "adapter", stream, gate)
            self.add_module(stream, nn.ModuleList(gates))
        # The query transformation starts near nothing, not at it, and is no change of a weight.
        self.identity = self.mergeable = not self._gated(backbone)

    def _gated(self, backbone: Backbone) -> dict[str, list[Layer]]:
        """The layers with a query transformation, by stream."""
        streams = [name for name in FUSED if name in backbone.streams and self.query_transformation]
        fused = {name: [la for _, la in backbone.layers(name) if la.cross is not None] for name in streams}
        return {name: layers for name, layers in fused.items() if layers}

    def _trained_heads(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        heads = task_heads(backbone) if self.heads else {}
        return {name: p for name, p in heads.items() if not (self.official and name.startswith("text_proj"))}

    def trained(self, backbone: Backbone) -> dict[str, str]:
        modes = {f"backbone.{site}.mode": self.role for site in self.sites}
        heads = {f"backbone.{name}": "head" for name in self._trained_heads(backbone)}
        return {**super().trained(backbone), **modes, **heads}

    def role_of(self, name: str) -> str:
        return "adapter" if name.startswith(FUSED) else self.role

    def count(self, backbone: Backbone) -> int:
        sites = _sites(backbone).values()
        widths_in, widths_out = _widths(sites)
        factors = self.rank * (sum(widths_in) + sum(widths_out)) + self.rank**3
        modes = sum(self.rank * blocks_of(site.linear, site.width_in, site.width_out) for site in sites)
        gates = sum(4 * layer.spec.width for layers in self._gated(backbone).values() for layer in layers)
        return factors + modes + gates + sum(p.numel() for p in self._trained_heads(backbone).values())

    def positives(self, fused: Tensor, texts: Tensor) -> Tensor:
        return fused + WEIGHT * texts.mean(0) if self.context_enhancement else fused

    def merge(self) -> None:
        self._fold(True)

    def unmerge(self) -> None:
        self._fold(False)

    def _fold(self, merged: bool) -> None:
        if not self.mergeable:
            raise ValueError(
                "Aurora cannot be merged or unmerged with its query transformation, which is no change of a weight: "
                "train with tuner.query_transformation=False"
            )
        for site in self.sites.values():
            site.fold(merged)


class Site(NamedTuple):
    """A Linear that is updated: its layer, its name there, and the widths of the streams that it reads and writes."""

    layer: Layer
    name: str
    width_in: int
    width_out: int

    @property
    def linear(self) -> nn.Linear:
        return cast(nn.Linear, self.layer.get_submodule(self.name))


def _sites(backbone: Backbone) -> dict[str, Site]:
    """Every Linear that is updated, once, by its name within the backbone."""
    sites: dict[str, Site] = {}
    seen: set[nn.Module] = set()  # Streams may share a layer, and a tied decoder shares cross-attention.
    for stream in backbone.streams.values():
        for layer_name, layer in backbone.layers(stream.name):
            for name in _names(layer, stream):
                context = layer.spec.context_width if name in CROSS[1:] else None
                site = Site(layer, name, context or layer.spec.width, layer.spec.width)
                if site.linear not in seen:
                    seen.add(site.linear)
                    sites[f"{layer_name}.{name}"] = site
    return sites


def _names(layer: Layer, stream: Stream) -> Iterator[str]:
    """Names of the Linears that a stream updates; where there are experts, its own or, in fusion, both."""
    names = VISION if stream.name == "vision" else ATTENTION
    for name in names + (CROSS if stream.name in FUSED and layer.cross is not None else ()):
        if isinstance(layer.get_submodule(name), Multiway):
            yield from (f"{name}.{e}" for e in ("vision", "text") if stream.expert in (None, e))
        else:
            yield name


def _widths(sites: Collection[Site]) -> tuple[list[int], list[int]]:
    """All widths that are read, and all that are written."""
    return sorted({site.width_in for site in sites}), sorted({site.width_out for site in sites})
