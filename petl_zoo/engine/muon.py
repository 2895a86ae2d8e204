"""MuonAdamW: orthogonalised momentum for the weights of linear layers, AdamW for every other parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from registry import OPTIMIZERS

__all__ = ["MuonAdamW", "orthogonalise"]

# Coefficients of the quintic iteration that pulls singular values to about one (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_MIN_SIDE, _MAX_RATIO = 64, 4


@OPTIMIZERS.register_module()
class MuonAdamW(Optimizer):
    """Muon for the weights of linear layers and AdamW for the rest, as one optimizer with one state.

    Muon replaces a matrix's momentum by the nearest (semi-)orthogonal matrix, found in a few Newton-Schulz
    steps. That costs the same for any batch, so it pays where data are dear. Which parameters are such
    weights is read off their shape: both sides at least 64, and at most 4 times as long as wide. Embedding
    tables are longer or shorter.

    torch.optim.Muon goes matrix by matrix and leaves other shapes to a second optimizer; here matrices of one
    shape go together, and checkpoints and schedules see one optimizer.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; AdamW is Loshchilov
    and Hutter 2019.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        muon_lr: float = 0.02,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
        iterations: int = 5,
    ) -> None:
        """Sort the parameters into Muon's groups and AdamW's.

        Args:
            params: parameters, or groups of them; a group may set ``lr``, ``muon_lr`` and ``weight_decay``.
            lr: AdamW's learning rate.
            muon_lr: Muon's, times sqrt(max(1, rows / columns)) for a matrix.
            momentum: Muon's, with Nesterov's look-ahead.
            betas: AdamW's.
            eps: AdamW's.
            weight_decay: decoupled; times the group's learning rate.
            iterations: Newton-Schulz steps.
        """
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        sorted_groups = []
        for group in groups:
            rest = {name: value for name, value in group.items() if name not in ("params", "muon_lr")}
            matrices = [p for p in group["params"] if _is_linear_weight(p)]
            others = [p for p in group["params"] if not _is_linear_weight(p)]
            if matrices:
                muon = {"params": matrices, "lr": group.get("muon_lr", muon_lr), "muon": True}
                sorted_groups.append({**rest, **muon})
            if others:
                sorted_groups.append({**rest, "params": others})
        super().__init__(sorted_groups, {"lr": lr, "weight_decay": weight_decay, "muon": False})
        self.momentum, self.betas, self.eps, self.iterations = momentum, betas, eps, iterations

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            update = self._muon if group["muon"] else self._adamw
            update(params, group["lr"], group["weight_decay"])
        return loss

    def _muon(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for param in params:
            by_shape[param.shape].append(param)
        for (rows, columns), same in by_shape.items():
            directions = []
            for param in same:
                state, grad = self.state[param], param.grad
                assert grad is not None
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                state["momentum"].lerp_(grad, 1 - self.momentum)
                directions.append(grad.lerp(state["momentum"], self.momentum))
            updates = orthogonalise(torch.stack(directions), self.iterations)
            rate = lr * max(1.0, rows / columns) ** 0.5
            for param, update in zip(same, updates, strict=True):
                param.mul_(1 - lr * decay).sub_(update, alpha=rate)

    def _adamw(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        low, high = self.betas
        for param in params:
            state, grad = self.state[param], param.grad
            assert grad is not None
            if not state:
                state.update(step=0, mean=torch.zeros_like(param), square=torch.zeros_like(param))
            state["step"] += 1
            state["mean"].lerp_(grad, 1 - low)
            state["square"].mul_(high).addcmul_(grad, grad, value=1 - high)
            scale = (state["square"] / (1 - high ** state["step"])).sqrt_().add_(self.eps)
            param.mul_(1 - lr * decay).addcdiv_(state["mean"], scale, value=-lr / (1 - low ** state["step"]))


def _is_linear_weight(param: Tensor) -> bool:
    if param.dim() != 2:
        return False
    low, high = sorted(param.shape)
    return low >= _MIN_SIDE and high <= _MAX_RATIO * low


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Pull the singular values of each matrix towards one and keep its singular vectors.

    Products are taken in bfloat16 where that is autocast's choice outside; the result has the input's type.

    Shape:
        matrices: (K, rows, columns); returns the same.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
