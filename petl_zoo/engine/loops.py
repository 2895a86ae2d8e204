"""Evaluation over several named sets, as protocols have them: ``base`` and ``new``, or one set a style."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import BaseLoop, Runner
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

from petl_zoo.evaluation import Measure
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
        self.measures: dict[str, Measure] = {}

    def run(self) -> dict[str, float]:
        """Evaluate all sets.

        Returns:
                Metrics, the protocol's own first; ``measures`` then says what those of the sets are.
        """
        self._call("before", "")
        self._call("before", "_epoch")
        self.runner.model.eval()
        metrics: dict[str, float] = {}
        for name, loader in self.loaders.items():
            self.dataloader = loader  # MMEngine's hooks ask the loop how long it is.
            metrics |= {f"{name}/{key}": value for key, value in self._run_set(name, loader).items()}
        if self.protocol is not None:
            metrics = self.protocol.summary(metrics) | metrics  # The headline first.
        self._call("after", "_epoch", metrics=metrics)
        self._call("after", "")
        return metrics

    @torch.no_grad()
    def _run_set(self, name: str, loader: DataLoader) -> dict[str, float]:
        model, (metric,) = self.runner.vl_model, self.evaluator.metrics
        device = model.backbone.like.device
        shown = sys.stderr.isatty() and is_main_process()
        # A head may read the whole set before its first result, so reading and computing are half of the bar each.
        with Progress(console=Console(stderr=True), transient=True, disable=not shown) as progress:
            bar = progress.add_task(f"{self.stage} {name}", total=2 * len(loader))

            def read() -> Iterator[dict[str, Any]]:
                batches = iter(loader)
                for index in range(len(loader)):
                    with autocast(False, device):  # A data set that draws its images draws them in full precision.
                        batch = next(batches)
                    self._call("before", "_iter", batch_idx=index, data_batch=batch)
                    progress.advance(bar)
                    yield batch

            with autocast(self.amp, device):
                for index, (batch, samples) in enumerate(model.head.evaluate(model, read())):
                    self.evaluator.process(data_samples=samples, data_batch=batch)
                    progress.advance(bar)
                    self._call("after", "_iter", batch_idx=index, data_batch=batch, outputs=samples)
        size = len(loader.dataset)  # type: ignore[arg-type]  # Ours have a length.
        metrics = self.evaluator.evaluate(size)
        self.measures |= {f"{name}/{key}": metric.measure(key, size) for key in metrics}
        return {key: float(value) for key, value in metrics.items()}

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
