"""The contract of a head: how a model's features become a loss, predictions and an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from petl_zoo.backbones import Backbone

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from petl_zoo.model import VLModel

Batch = dict[str, Any]


class Head(nn.Module):
    """Base of all heads. A head's own parameters, if it has any, are trained and counted with role ``head``.

    What training changes without a gradient (a momentum copy, a queue) belongs into persistent buffers: checkpoints
    keep them, so that an interrupted run goes on as if nothing had happened.

    Attributes:
        streams: the backbone's streams that it runs; a tuner adapts no other.
        metric: registered metric that evaluates it, a ``petl_zoo.evaluation.Metric``.
        trains_on: what each training sample must have, by key.
        tests_on: what each evaluation sample must have, by key.
        drop_last: whether a training batch that is not full is left out, as where its samples are each other's
            negatives.
        forward_pass: what the cost account counts as one forward pass, after 'one'.
        conditioned: whether it can work with texts that depend on the image (CoCoOp's).
    """

    streams: ClassVar[frozenset[str]]
    metric: ClassVar[str]
    trains_on: ClassVar[frozenset[str]] = frozenset({"images"})
    tests_on: ClassVar[frozenset[str]] = frozenset({"images"})
    drop_last: ClassVar[bool] = False
    forward_pass: ClassVar[str] = "sample"
    conditioned: ClassVar[bool] = False

    def uses(self, backbone: Backbone) -> frozenset[str]:
        """The streams that it runs on a backbone."""
        return self.streams & set(backbone.all_streams)

    def attach(self, backbone: Backbone) -> None:
        """Make parameters whose sizes depend on the backbone, whose weights are in place."""

    def start(self, model: VLModel) -> None:
        """Make the buffers that training keeps, when the whole model stands."""

    def loss(self, model: VLModel, **batch: Any) -> dict[str, Tensor]:
        """Loss terms by name; what begins with ``loss`` is summed, the rest is logged."""
        raise NotImplementedError

    def predict(self, model: VLModel, **batch: Any) -> list[dict[str, Any]]:
        """One dict of predictions a sample."""
        raise NotImplementedError

    def features(self, model: VLModel, **batch: Any) -> tuple[Tensor, Tensor]:
        """Normalised image and text features of a batch."""
        raise NotImplementedError

    def evaluate(self, model: VLModel, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
        """What the metric takes: batches as they came, each with one dict a sample.

        Args:
            batches: this process's share of a set, as the data loader gives it. A head that compares samples with each
                other may read all of it before the first result, and must give a result for each sample.
        """
        for batch in batches:
            yield batch, model.test_step(batch)

    def probe(self, batch: Batch) -> Batch:
        """The arguments of ``predict`` whose time and arithmetic stand for an evaluation batch in the cost account."""
        return batch

    def data_faults(self, model: VLModel, part: str, dataset: Dataset) -> Iterator[str]:
        """What makes a set useless for this head though its samples have all keys.

        A message that begins with the name of an option, ``k_test (256) ...``, becomes a fault of that option.

        Args:
            part: ``train``, or the name of an evaluation set.
        """
        yield from ()

    def set_progress(self, epochs: float) -> None:
        """Take over how much of the training is done, in epochs and parts of one; called before each step."""
