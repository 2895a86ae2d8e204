"""The learning rate in closed form, as the runner sets it, and the optimizer's parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from petl_zoo.engine.optimizers import TrainedParameters, WarmupCosineLR
from petl_zoo.engine.schedule import Runtime, Schedule


def rates(schedule: Schedule, steps: int, epoch_length: int = 1) -> list[float]:
    """The rate at each step, from the scheduler that the schedule describes."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=schedule.lr)
    options = schedule.scheduler()
    del options["type"]
    if options.pop("convert_to_iter_based"):
        scheduler = WarmupCosineLR.build_iter_from_epoch(optimizer, epoch_length=epoch_length, **options)
    else:
        scheduler = WarmupCosineLR(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_the_prompt_learners_schedule() -> None:
    # CoOp's code at MaPLe's 5 epochs and rate 0.0035.
    assert rates(Schedule(epochs=5, batch_size=4, lr=0.0035), 5) == pytest.approx(
        [1e-5, 3.5e-3, 3.166e-3, 2.291e-3, 1.209e-3], rel=1e-3
    )


def test_a_linear_warm_up_then_a_cosine_by_iteration() -> None:
    schedule = Schedule(
        epochs=4, batch_size=1, lr=1.0, step="iteration", warmup=0.5, warmup_kind="linear", warmup_lr=0.0,
        final_lr=0.1, recount=False,
    )  # fmt: skip
    found = rates(schedule, 40, epoch_length=10)
    expected = [i / 5 for i in range(5)]
    expected += [0.1 + 0.9 * (1 + math.cos(math.pi * i / 35)) / 2 for i in range(35)]
    assert found == pytest.approx(expected)


def test_the_optimizer_holds_trained_parameters_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model[0].bias.requires_grad_(False)
    config = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1, "weight_decay": 0.5}}
    wrapper = TrainedParameters(config, {"decay_vectors": False})(model)
    groups = {group["weight_decay"]: group["params"] for group in wrapper.optimizer.param_groups}
    assert [id(p) for p in groups[0.5]] == [id(model[0].weight)]
    assert {id(p) for p in groups[0.0]} == {id(model[1].weight), id(model[1].bias)}


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: Schedule(epochs=0, batch_size=1, lr=1.0), "epochs"),
        (lambda: Schedule(epochs=1, batch_size=1, lr=0.0), "lr"),
        (lambda: Schedule(epochs=1, batch_size=1, lr=1.0, step="day"), "step"),
        (lambda: Schedule(epochs=2, batch_size=1, lr=1.0, warmup=0.5), "warmup"),
        (lambda: Runtime(seed=-1), "seed"),
    ],
)
def test_values_out_of_range_are_named(build: object, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} \("):
        build()  # type: ignore[operator]
