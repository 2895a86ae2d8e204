"""Aurora: low-rank updates of all weights from one small tensor, and a vector for each weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import Backbone
from petl_zoo.backbones.transformer import Layer, Multiway
from registry import TUNERS

from .adapter import FUSED, check_rank, fill, frozen_linear, task_heads
from .base import Tuner
from .prompting import check_positive

ATTENTION = ("attn.q", "attn.k", "attn.v")
VISION = (*ATTENTION, "attn.out", "fc1", "fc2")
CROSS = ("cross.q", "cross.k", "cross.v")
GATE_STD = 2e-4
WEIGHT = 0.1  # of the query transformation and of the context, as in the authors' code


class SharedFactors(nn.Module):
    """What all updates share: U (R, D) and V (D, R) for each width D, and the core C (R, R, R)."""

    def __init__(self, rank: int, widths_in: Sequence[int], widths_out: Sequence[int], like: Tensor) -> None:
        super().__init__()
        options = {"device": like.device, "dtype": like.dtype}
        self.U = nn.ParameterDict(
            {str(width): nn.Linear(width, rank, bias=False, **options).weight for width in widths_in}
        )
        self.V = nn.ParameterDict({str(width): nn.Parameter(torch.zeros(width, rank, **options)) for width in widths_out})
        self.C = nn.Parameter(torch.empty(rank, rank, rank, **options))
        nn.init.xavier_uniform_(self.C)


class ModeLinear(nn.Linear):
    """A frozen Linear, under its names, with the update that its mode vectors pick from the shared factors.

    A Linear of one width to another has one vector p and adds ``V S^T U x`` with ``S = sum_c C[:, :, c] p[c]``. One that
    is n times as wide on one side (``fc1``, ``fc2``) has n vectors, whose n cores stand side by side as one (R, n R)
    matrix, element by element: S[i, j n + m] is element (i, j) of the core of vector m. U reads, or V writes, n blocks.

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
    """``0.1 (a g_s + b_s) + 0.1 (c g_c + b_c)``: outputs of self- and cross-attention, gated and carried past the rest."""

    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__()
        for name in ("scale_self", "shift_self", "scale_cross", "shift_cross"):
            self.register_parameter(name, nn.Parameter(like.new_empty(width).normal_(std=GATE_STD)))

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
        self.query_transformation, self.context_enhancement, self.heads = query_transformation, context_enhancement, heads
        self.sites: dict[str, ModeLinear] = {}

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        sites = dict(_sites(backbone))
        widths_in, widths_out = (sorted({site[side] for site in sites.values()}) for side in (2, 3))
        for width in {*widths_in, *widths_out}:
            check_rank(self.rank, width, f"streams of width {width}")
        self.shared = SharedFactors(self.rank, widths_in, widths_out, backbone.like)
        for site, (layer, name, width_in, width_out) in sites.items():
            update = ModeLinear(frozen_linear(layer, name), self.shared, width_in, width_out, self.dropout)
            layer.set_submodule(name, update)
            self.sites[site] = update
        for stream in FUSED if self.query_transformation else ():
            layers = [layer for layer in _layers(backbone, stream) if layer.cross is not None]
            if layers:
                gates = [QueryTransformation(layer.spec.width, backbone.like) for layer in layers]
                for layer, gate in zip(layers, gates, strict=True):
                    fill(layer, "adapter", stream, gate)
                self.add_module(stream, nn.ModuleList(gates))
        # Gates start near zero, not at it, and are no change of a weight.
        self.identity = self.mergeable = not any(hasattr(self, stream) for stream in FUSED)

    def _trained_heads(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        heads = task_heads(backbone) if self.heads else {}
        return {name: p for name, p in heads.items() if not (self.official and name.startswith("text_proj"))}

    def trained(self, backbone: Backbone) -> dict[str, str]:
        modes = {f"backbone.{site}.mode": self.role for site in self.sites}
        return {**super().trained(backbone), **modes, **{f"backbone.{n}": "head" for n in self._trained_heads(backbone)}}

    def role_of(self, name: str) -> str:
        return "adapter" if name.startswith(FUSED) else self.role

    def count(self, backbone: Backbone) -> int:
        sites = list(_sites(backbone).values())
        factors = self.rank * (sum({site[2] for site in sites}) + sum({site[3] for site in sites})) + self.rank**3
        modes = sum(self.rank * blocks_of(la.get_submodule(name), i, o) for la, name, i, o in sites)
        gated = [layer for stream in FUSED for layer in _layers(backbone, stream) if layer.cross is not None]
        gates = sum(4 * layer.spec.width for layer in gated if self.query_transformation)
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
        for linear in self.sites.values():
            linear.fold(merged)


def _layers(backbone: Backbone, stream: str) -> list[Layer]:
    return [layer for _, layer in backbone.layers(stream)] if stream in backbone.streams else []


def _sites(backbone: Backbone) -> dict[str, tuple[Layer, str, int, int]]:
    """Every Linear that is updated, once, by its name within the backbone.

    Returns:
        The layer, the Linear's name in it, and the widths of what it reads and writes.
    """
    sites: dict[str, tuple[Layer, str, int, int]] = {}
    seen: list[nn.Module] = []
    for stream in backbone.streams:
        for layer_name, layer in backbone.layers(stream):
            for name, module in _linears(layer, VISION if stream == "vision" else ATTENTION + CROSS, stream, backbone):
                if module in seen:
                    continue  # Streams may share a layer, and a tied decoder shares cross-attention.
                seen.append(module)
                context = layer.spec.context_width or 0
                width_in = context if name in ("cross.k", "cross.v") else layer.spec.width
                sites[f"{layer_name}.{name}"] = (layer, name, width_in, layer.spec.width)
    return sites


def _linears(layer: Layer, names: Sequence[str], stream: str, backbone: Backbone) -> Iterator[tuple[str, nn.Module]]:
    """A layer's Linears by name; where there are experts, the stream's own or, in fusion, both."""
    expert = backbone.streams[stream].expert
    for name in names:
        if name.startswith("cross") and (layer.cross is None or stream not in FUSED):
            continue
        module = layer.get_submodule(name)
        if isinstance(module, Multiway):
            for e in ("vision", "text") if expert is None else (expert,):
                yield f"{name}.{e}", module.get_submodule(e)
        else:
            yield name, module
