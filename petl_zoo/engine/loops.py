"""Evaluation over several named sets, as protocols have them: ``base`` and ``new``, or one set a style."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import BaseLoop, Runner
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from registry import LOOPS, PROTOCOLS

from .optimizers import autocast


class _SetsLoop(BaseLoop):
    """Run every named set through the model and join their metrics under ``NAME/METRIC``."""

    stage: str  # The name of MMEngine's hook points: ``val`` or ``test``.

    def __init__(
        self,
        runner: Runner,
        dataloader: Mapping[str, Any],
        evaluator: Evaluator | dict[str, Any] | list[dict[str, Any]],
        amp: bool = False,
        protocol: dict[str, Any] | None = None,
    ) -> None:
        """Build a data loader for each set.

        Args:
            dataloader: ``sets``: a data loader's config by the set's name.
            evaluator: one evaluator; it serves the sets in turn.
            amp: evaluate under bfloat16 autocast.
            protocol: config of a protocol that adds to the metrics, such as a harmonic mean.
        """
        self._runner = runner
        self.loaders: dict[str, DataLoader] = {
            name: runner.build_dataloader(config, seed=runner.seed) for name, config in dataloader["sets"].items()
        }
        self.dataloader = next(iter(self.loaders.values()))
        self.evaluator = evaluator if isinstance(evaluator, Evaluator) else runner.build_evaluator(evaluator)
        self.amp = amp
        self.protocol = PROTOCOLS.build(dict(protocol)) if protocol else None

    def run(self) -> dict[str, float]:
        """Evaluate all sets.

        Returns:
                Metrics as fractions, the protocol's own first.
        """
        self._call("before", "")
        self._call("before", "_epoch")
        self.runner.model.eval()
        metrics: dict[str, float] = {}
        for name, loader in self.loaders.items():
            self.dataloader = loader  # MMEngine's hooks ask the loop how long it is.
            metrics |= {f"{name}/{key}": float(value) for key, value in self._run_set(name, loader).items()}
        if self.protocol is not None:
            metrics = self.protocol.summary(metrics) | metrics  # The headline first.
        self._call("after", "_epoch", metrics=metrics)
        self._call("after", "")
        return metrics

    @torch.no_grad()
    def _run_set(self, name: str, loader: DataLoader) -> dict[str, float]:
        batches: Iterable[Any] = loader
        if sys.stderr.isatty() and is_main_process():
            batches = track(loader, f"{self.stage} {name}", console=Console(stderr=True), transient=True)
        for index, batch in enumerate(batches):
            self._call("before", "_iter", batch_idx=index, data_batch=batch)
            with autocast(self.amp, next(self.runner.model.parameters()).device):
                outputs = self.runner.model.test_step(batch)
            self.evaluator.process(data_samples=outputs, data_batch=batch)
            self._call("after", "_iter", batch_idx=index, data_batch=batch, outputs=outputs)
        return self.evaluator.evaluate(len(loader.dataset))  # type: ignore[arg-type]  # Ours have a length.

    def _call(self, when: str, what: str, **values: Any) -> None:
        self.runner.call_hook(f"{when}_{self.stage}{what}", **values)


@LOOPS.register_module()
class ProtocolValLoop(_SetsLoop):
    """Validation between epochs."""

    stage = "val"


@LOOPS.register_module()
class ProtocolTestLoop(_SetsLoop):
    """The evaluation that a record reports."""

    stage = "test"
