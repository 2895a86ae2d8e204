"""LoRA: low-rank updates of chosen projections."""

from __future__ import annotations

from collections.abc import Sequence

import loralib
import torch
from torch import nn

from petl_zoo.backbones import Backbone
from petl_zoo.backbones.base import ENCODERS
from registry import TUNERS

from .base import Tuner
from .prompting import check_positive


@TUNERS.register_module()
class LoRA(Tuner):
    """Add a low-rank update to chosen Linears: ``y = W x + b + (alpha / r) B A dropout(x)``.

    A is (r, in) and starts Kaiming-uniform, B is (out, r) and starts at zero, so the first step starts from the
    backbone.

    Source: Hu et al. 2022 (arXiv 2106.09685), equation 3, by the authors' ``loralib.Linear``. Their layer folds the
    update in at every ``eval()``, which rounds the frozen weights anew each time; here folding is done by ``merge``
    alone.
    """

    role = "low_rank"
    mergeable = True
    identity = True

    def __init__(
        self,
        *,
        rank: int = 4,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: Sequence[str] = ("attn.q", "attn.v"),
        streams: Sequence[str] | None = None,
    ) -> None:
        """Choose the projections and the rank.

        Args:
            rank: r.
            alpha: numerator of the scale alpha / r; None for r, a scale of 1.
            dropout: probability with which an input of the update is dropped.
            targets: names of Linears within a layer: ``attn.q``, ``attn.k``, ``attn.v``, ``attn.out``, ``cross.q``
                and so on, ``fc1``, ``fc2``.
            streams: the streams whose layers are changed; None for the encoders' that are in use: vision, text and
                fusion, not a decoder.
        """
        super().__init__()
        check_positive(rank=rank)
        if not targets:
            raise ValueError("targets is empty: name at least one Linear, 'attn.q' for example")
        self.rank, self.alpha, self.dropout = rank, rank if alpha is None else alpha, dropout
        self.targets, self.streams = tuple(targets), None if streams is None else tuple(streams)
        self.needs = frozenset(streams or ())
        self.sites: dict[str, loralib.Linear] = {}

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        own: set[nn.Module] = set()
        for stream in self.streams or [name for name in ENCODERS if name in backbone.streams]:
            expert = backbone.streams[stream].expert
            for layer_name, layer in backbone.layers(stream):
                for name, linear in _linears(layer, self.targets, expert):
                    if linear in own:
                        continue  # What two streams share was changed for the first of them.
                    site = f"{layer_name}.{name}"
                    if type(linear) is not nn.Linear:
                        kind = f"{type(linear).__module__}.{type(linear).__qualname__}"
                        raise ValueError(
                            f"targets: {site} is a {kind} already: two tuners cannot change one Linear; give them "
                            "different targets or streams"
                        )
                    limit = min(linear.in_features, linear.out_features)
                    if self.rank > limit:
                        raise ValueError(f"rank ({self.rank}) is more than the {limit} of {site}: use 1 to {limit}")
                    update = self.updated(linear)
                    layer.set_submodule(name, update)
                    self.sites[site] = update
                    own.add(update)

    def updated(self, linear: nn.Linear) -> loralib.Linear:
        """A Linear with a low-rank update, around the weight and bias of a frozen one."""
        update = loralib.Linear(
            linear.in_features,
            linear.out_features,
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            merge_weights=False,
            bias=linear.bias is not None,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        update.weight, update.bias = linear.weight, linear.bias
        return update

    def trained(self, backbone: Backbone) -> dict[str, str]:
        return {f"backbone.{site}.lora_{part}": self.role for site in self.sites for part in "AB"}

    def count(self, backbone: Backbone) -> int:
        # A and B of one Linear: r (in + out).
        return sum(self.rank * sum(linear.weight.shape) for linear in self.sites.values())

    @torch.no_grad()
    def merge(self) -> None:
        self._fold(True)

    @torch.no_grad()
    def unmerge(self) -> None:
        self._fold(False)

    def _fold(self, merged: bool) -> None:
        for linear in self.sites.values():
            training = linear.training
            linear.merge_weights = True
            linear.train(not merged)  # loralib folds the update in on eval() and out on train().
            linear.merge_weights = False
            linear.train(training)


def _linears(layer: nn.Module, targets: Sequence[str], expert: str | None) -> list[tuple[str, nn.Linear]]:
    """A layer's Linears that are named.

    ``attn.q`` is ``attn.q``, or where experts are ``attn.q.vision`` and ``attn.q.text``, or one of them.

    Raises:
        ValueError: a target names no Linear of the layer; the message lists what there is.
    """
    linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    found = []
    for target in targets:
        wanted = {target, *(f"{target}.{e}" for e in ("vision", "text") if expert in (None, e))}
        named = [(n, m) for n, m in linears.items() if n in wanted]
        if not named:
            raise ValueError(f"targets: {target!r} is no Linear of the layer; there are {', '.join(sorted(linears))}")
        found += named
    return found
