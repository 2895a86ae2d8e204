"""DoRA: low-rank updates of directions, and a magnitude for each output."""

from __future__ import annotations

import loralib
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import Backbone
from registry import TUNERS

from .lora import LoRA


class DoRALinear(loralib.Linear):
    """``y = m * (W + s B A) x / ||W + s B A|| + b`` with the norm of each row, one magnitude m an output.

    The norm counts as a constant in the backward pass (section 4.3 of the paper), which saves memory.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        super().__init__(
            linear.in_features,
            linear.out_features,
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            merge_weights=False,
            bias=linear.bias is not None,
            **like,
        )
        self.weight, self.bias = linear.weight, linear.bias
        self.magnitude = nn.Parameter(linear.weight.detach().norm(dim=1))  # (out,)
        self.folded_norm: Tensor | None = None

    def _norm(self) -> Tensor:
        return (self.weight + self.scaling * self.lora_B @ self.lora_A).norm(dim=1).detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.folded_norm is not None:
            return F.linear(x, self.weight, self.bias)
        base = F.linear(x, self.weight)
        dropped = self.lora_dropout(x)
        # With dropout, what is rescaled is dropped out as the update is; the frozen part itself is not.
        rescaled = base if dropped is x else F.linear(dropped, self.weight)
        ratio = (self.magnitude / self._norm()).to(base.dtype)
        update = self.scaling * F.linear(F.linear(dropped, self.lora_A), self.lora_B)
        y = base + (ratio - 1) * rescaled + ratio * update
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def fold(self) -> None:
        """Put magnitude and update into the weight."""
        if self.folded_norm is None:
            self.folded_norm = self._norm()
            updated = self.weight + self.scaling * self.lora_B @ self.lora_A
            self.weight.copy_(updated * (self.magnitude / self.folded_norm)[:, None])

    def unfold(self) -> None:
        """Undo ``fold``."""
        if self.folded_norm is not None:
            updated = self.weight * (self.folded_norm / self.magnitude)[:, None]
            self.weight.copy_(updated - self.scaling * self.lora_B @ self.lora_A)
            self.folded_norm = None


@TUNERS.register_module()
class DoRA(LoRA):
    """LoRA on the directions of the weights' rows, and a trained magnitude for each row.

    ``W' = m (W + s B A) / ||W + s B A||``; m starts at the rows' own norms and B at zero, so that the first step starts
    from the backbone.

    Source: Liu et al. 2024 (arXiv 2402.09353), equation 5, with the norm detached as in section 4.3. The paper's
    "column" is a row of a PyTorch weight, (out, in).
    """

    def updated(self, linear: nn.Linear) -> DoRALinear:
        return DoRALinear(linear, self.rank, self.alpha, self.dropout)

    def trained(self, backbone: Backbone) -> dict[str, str]:
        magnitudes = {f"backbone.{site}.magnitude": self.role for site in self.sites}
        return super().trained(backbone) | magnitudes

    def count(self, backbone: Backbone) -> int:
        return super().count(backbone) + sum(linear.out_features for linear in self.sites.values())

    @torch.no_grad()
    def merge(self) -> None:
        for linear in self.sites.values():
            linear.fold()

    @torch.no_grad()
    def unmerge(self) -> None:
        for linear in self.sites.values():
            linear.unfold()
