"""What is optimised, and in which precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import nn

from registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS

from .muon import MuonAdamW

__all__ = ["CastOptimWrapper", "MuonAdamW", "TrainedParameters", "WarmupCosineLR", "autocast"]


def autocast(enabled: bool, device: torch.device) -> torch.autocast:
    """bfloat16 autocast on the device's kind, CPU included; it needs no gradient scaling."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@OPTIM_WRAPPERS.register_module()
class CastOptimWrapper(OptimWrapper):
    """An OptimWrapper whose forward pass runs under bfloat16 autocast.

    MMEngine's ``AmpOptimWrapper`` refuses a machine without an accelerator.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device
        with super().optim_context(model), autocast(True, device):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainedParameters:
    """Builds an optimizer over the trained parameters alone.

    A frozen parameter in an optimizer costs time at each step and, should it ever hold a gradient, would decay.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        """Take what MMEngine hands to every constructor.

        Args:
            optim_wrapper_cfg: config of the wrapper, with the optimizer's as ``optimizer``.
            paramwise_cfg: ``decay_vectors=False`` keeps weight decay from biases, norms and scalars.
        """
        self.wrapper = dict(optim_wrapper_cfg)
        self.optimizer = dict(self.wrapper.pop("optimizer"))
        self.decay_vectors = (paramwise_cfg or {}).get("decay_vectors", True)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": trained}]
        if not self.decay_vectors:
            vectors = [p for p in trained if p.dim() < 2]
            matrices = [p for p in trained if p.dim() >= 2]
            groups = [g for g in ({"params": matrices}, {"params": vectors, "weight_decay": 0.0}) if g["params"]]
        optimizer = OPTIMIZERS.build({**self.optimizer, "params": groups})
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **self.wrapper, "optimizer": optimizer})


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """A warm-up, then a cosine, in closed form: the rate is a function of the step alone.

    MMEngine's chained schedulers carry rounding from step to step, and its constant warm-up of one epoch never ends.

    Source: the schedule of CoOp's code (Zhou et al. 2022) with ``recount``, which keeps the cosine's full period behind
    the warm-up and so ends above zero.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        length: float,
        warmup: float = 0,
        warmup_factor: float = 0.0,
        linear: bool = False,
        final_factor: float = 0.0,
        recount: bool = False,
        begin: int = 0,
        end: int = 10**9,
        last_step: int = -1,
        by_epoch: bool = True,
    ) -> None:
        """Choose the shape.

        Args:
            optimizer: an optimizer, or its wrapper.
            length: steps in all; a step is an epoch or an iteration as ``by_epoch`` says.
            warmup: steps of warm-up.
            warmup_factor: share of the full rate in the warm-up, or at its start.
            linear: whether the warm-up rises to the full rate.
            final_factor: share of the full rate that the cosine runs to.
            recount: whether the cosine's period is ``length`` instead of what the warm-up leaves.
            begin: first step; MMEngine's.
            end: step behind the last; MMEngine's.
            last_step: MMEngine's.
            by_epoch: whether a step is an epoch.
        """
        self.warmup, self.warmup_factor, self.linear = warmup, warmup_factor, linear
        self.final_factor = final_factor
        self.period = max(length if recount else length - warmup, 1)
        super().__init__(optimizer, "lr", begin=begin, end=end, last_step=last_step, by_epoch=by_epoch)

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, epoch_length: int, **options: Any) -> WarmupCosineLR:
        """Count in iterations what is given in epochs."""
        for name in ("length", "warmup", "end"):
            if name in options:
                options[name] = int(options[name] * epoch_length)
        return cls(*args, **{**options, "by_epoch": False})

    def factor(self, step: int) -> float:
        """Share of the full rate at a step."""
        if step < self.warmup:
            start = self.warmup_factor
            return start + (1 - start) * step / self.warmup if self.linear else start
        cosine = (1 + math.cos(math.pi * min((step - self.warmup) / self.period, 1.0))) / 2
        return self.final_factor + (1 - self.final_factor) * cosine

    def _get_value(self) -> list[float]:
        return [base * self.factor(self.last_step) for base in self.base_values]
