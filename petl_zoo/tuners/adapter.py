"""Bottleneck adapters, and what every tuner needs that puts small networks into layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import Backbone
from petl_zoo.backbones.transformer import Layer
from registry import TUNERS

from .base import Tuner
from .prompting import check_positive, linear

POSITIONS = ("parallel", "serial")
FUSED = ("fusion", "decoder")  # streams whose layers may read a context


class Slot(nn.Module):
    """What fills an adapter slot of a layer: the running stream's branch, and nothing in other streams.

    A branch stays its tuner's. It is not registered here, so that one that several layers share has one name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.branches: dict[str, Callable[..., Tensor]] = {}

    def forward(self, *args: Any) -> Tensor | float:
        *states, stream = args
        branch = self.branches.get(stream)
        return 0.0 if branch is None else branch(*states)


def fill(layer: Layer, place: str, stream: str, branch: Callable[..., Tensor]) -> None:
    """Put a branch into a layer's slot for one stream.

    Args:
        place: ``adapter`` or ``serial``; see ``Layer``.

    Raises:
        ValueError: another tuner is there.
    """
    if getattr(layer, place) is None:
        setattr(layer, place, Slot())
    slot = getattr(layer, place)
    if not isinstance(slot, Slot) or stream in slot.branches:
        raise ValueError(f"the {place} slot of a {stream} layer is taken: two tuners cannot share it in one stream")
    slot.branches[stream] = branch


def check_rank(rank: int, width: int, what: str, name: str = "rank") -> None:
    """Raise a ValueError if a bottleneck is wider than what it stands in."""
    if rank > width:
        raise ValueError(f"{name} ({rank}) is more than the width {width} of {what}: use 1 to {width}")


def start_zero(*parameters: Tensor) -> None:
    """Let parameters start at zero, so that what they belong to adds nothing."""
    for parameter in parameters:
        nn.init.zeros_(parameter)


class Bottleneck(nn.Module):
    """``s Up(ReLU(Down(x)))``."""

    def __init__(self, width: int, rank: int, scale: float, like: Tensor) -> None:
        super().__init__()
        self.down, self.up = linear(width, rank, like), linear(rank, width, like)
        start_zero(self.down.bias, self.up.weight, self.up.bias)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(F.relu(self.down(x)))

    def parallel(self, x: Tensor, after_self: Tensor, after_cross: Tensor | None) -> Tensor:
        """Beside the feed-forward network, reading what that reads, before its norm."""
        return self(after_self if after_cross is None else after_cross)


# Heads of the backbone ------------------------------------------------------------------------------------------------


def task_heads(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The backbone's own heads that the streams in use end in: joint projections, and matching where there is fusion.

    Returns:
        Parameters by their names within the backbone.
    """
    heads = []
    if {"vision", "text"} <= set(backbone.streams):
        heads += ["vision_proj", "text_proj"]
        heads += ["itm_head"] if backbone.matches and "fusion" in backbone.streams else []
    return {f"{h}.{name}": p for h in heads for name, p in backbone.get_submodule(h).named_parameters()}


# Keys and values of cross-attention -----------------------------------------------------------------------------------


class LowRank(nn.Module):
    """``s Up(Down(x))`` with a learned s: UniAdapter's change of keys or values."""

    def __init__(self, width_in: int, rank: int, width_out: int, like: Tensor, *, zero: bool) -> None:
        super().__init__()
        self.down, self.up = linear(width_in, rank, like), linear(rank, width_out, like)
        if zero:
            start_zero(self.down.bias, self.up.weight, self.up.bias)
        self.scale = nn.Parameter(like.new_ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(self.down(x))


class BesideLinear(nn.Linear):
    """A frozen Linear, under its names, and a branch beside it: ``W x + b + branch(x)``."""

    def __init__(self, frozen: nn.Linear, branch: nn.Module) -> None:
        super().__init__(frozen.in_features, frozen.out_features, frozen.bias is not None, device="meta")
        self.weight, self.bias = frozen.weight, frozen.bias
        self._branch = (branch,)  # In a tuple it is not registered: all layers share it, and the tuner owns it.

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self._branch[0](x)


def frozen_linear(layer: Layer, name: str) -> nn.Linear:
    """A layer's Linear that nothing has changed yet.

    Raises:
        ValueError: another tuner is there.
    """
    found = layer.get_submodule(name)
    if type(found) is not nn.Linear:
        kind = f"{type(found).__module__}.{type(found).__qualname__}"
        raise ValueError(f"{name} is a {kind} already: two tuners cannot change one Linear")
    return found


def cross_pairs(backbone: Backbone, rank: int, *, zero: bool = True) -> dict[str, nn.ModuleDict]:
    """Give the cross-attention of each stream that has one a low-rank change of keys and one of values.

    All layers of a stream share the two.

    Args:
        zero: let them start as nothing; else as PyTorch starts a Linear.

    Returns:
        The pairs, ``k`` and ``v``, by stream; a stream that shares another's cross-attention has none of its own.
    """
    pairs: dict[str, nn.ModuleDict] = {}
    done: list[nn.Module] = []
    for stream in (name for name in FUSED if name in backbone.streams):
        layers = [la for _, la in backbone.layers(stream) if la.cross is not None and la.cross not in done]
        for layer in layers:
            width, context = layer.spec.width, layer.spec.context_width
            assert context is not None, "a layer with cross-attention has a context"
            check_rank(rank, min(width, context), "cross-attention", "cross_rank")
            if stream not in pairs:
                pairs[stream] = nn.ModuleDict(
                    {part: LowRank(context, rank, width, backbone.like, zero=zero) for part in "kv"}
                )
            for part in "kv":
                linear_ = frozen_linear(layer, f"cross.{part}")
                layer.set_submodule(f"cross.{part}", BesideLinear(linear_, pairs[stream][part]))
        done += [layer.cross for layer in layers if layer.cross is not None]
    return pairs


def pair_size(backbone: Backbone, stream: str, rank: int) -> int:
    """The number of parameters of one stream's pair."""
    width = backbone.streams[stream].width
    context = next(layer.spec.context_width or 0 for _, layer in backbone.layers(stream))
    return 2 * (context * rank + rank + rank * width + width + 1)


# The tuner ------------------------------------------------------------------------------------------------------------


@TUNERS.register_module()
class Adapter(Tuner):
    """Give every layer of every stream a bottleneck of its own: ``s Up(ReLU(Down(x)))``.

    ``parallel``: added to the layer's output, x being what the feed-forward network starts from. ``serial``: x is the
    layer's output. In a backbone whose streams share layers each stream still has its own adapters.

    Source: Houlsby et al. 2019 (arXiv 1902.00751), section 2.1, with one adapter a layer, behind the feed-forward
    network, as Pfeiffer et al. 2021 (arXiv 2005.00247) place it; in parallel as UniAdapter (arXiv 2302.06605). None of
    them says how the DoPL paper's row "Adapter, 28.9M" is made up: 36 adapters of rank 512 on BLIP-base are 28,357,632,
    and with the heads and the cross-attention pair of UniAdapter, ``heads=True`` and ``cross_rank=64``, 28,951,172.
    """

    role = "adapter"
    identity = True

    def __init__(
        self,
        *,
        rank: int = 64,
        scale: float = 1.0,
        position: str = "parallel",
        streams: Sequence[str] | None = None,
        heads: bool = False,
        cross_rank: int | None = None,
    ) -> None:
        """Choose the adapters.

        Args:
            rank: r, width of the bottleneck.
            scale: s.
            position: ``parallel`` or ``serial``.
            streams: the streams that are adapted; None for all that are in use.
            heads: train the backbone's projections and matching head too.
            cross_rank: rank of a change of cross-attention's keys and values; None for none.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__()
        check_positive(rank=rank, cross_rank=1 if cross_rank is None else cross_rank)
        if position not in POSITIONS:
            raise ValueError(f"position ({position!r}) must be one of {', '.join(POSITIONS)}")
        self.rank, self.scale, self.position = rank, scale, position
        self.streams = None if streams is None else tuple(streams)
        self.needs = frozenset(streams or ())
        self.heads, self.cross_rank = heads, cross_rank
        self.pairs: tuple[str, ...] = ()

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        for stream in self.streams or tuple(backbone.streams):
            width, depth = backbone.streams[stream].width, backbone.streams[stream].depth
            check_rank(self.rank, width, f"the {stream} stream")
            adapters = [Bottleneck(width, self.rank, self.scale, backbone.like) for _ in range(depth)]
            for (_, layer), adapter in zip(backbone.layers(stream), adapters, strict=True):
                if self.position == "parallel":
                    fill(layer, "adapter", stream, adapter.parallel)
                else:
                    fill(layer, "serial", stream, adapter)
            self.add_module(stream, nn.ModuleList(adapters))
        if self.cross_rank is not None:
            pairs = cross_pairs(backbone, self.cross_rank)
            self.pairs = tuple(pairs)
            for stream, pair in pairs.items():
                self.add_module(f"{stream}_pair", pair)

    def trained(self, backbone: Backbone) -> dict[str, str]:
        heads = task_heads(backbone) if self.heads else {}
        return {**super().trained(backbone), **{f"backbone.{name}": "head" for name in heads}}

    def count(self, backbone: Backbone) -> int:
        streams = [backbone.streams[name] for name in self.streams or backbone.streams]
        adapters = sum(s.depth * (2 * s.width * self.rank + self.rank + s.width) for s in streams)
        pairs = sum(pair_size(backbone, stream, self.cross_rank or 0) for stream in self.pairs)
        return adapters + pairs + sum(p.numel() for p in task_heads(backbone).values() if self.heads)
