"""LoRA and DoRA equal the peft library's on the same weights: outputs, gradients, merged weights."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import nn

from petl_zoo.engine.counting import count_parameters
from petl_zoo.tuners import DoRA, LoRA
from petl_zoo.tuners.dora import DoRALinear


def pair(cls: type[LoRA], **options: Any) -> tuple[nn.Module, nn.Module]:
    """Our Linear and peft's, around equal weights, with equal updates that are not zero."""
    torch.manual_seed(0)
    linear = nn.Linear(12, 9, dtype=torch.float64)
    ours = cls(rank=3, alpha=6, **options).updated(linear)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["0"], use_dora=cls is DoRA)
    theirs = peft.get_peft_model(nn.Sequential(nn.Linear(12, 9, dtype=torch.float64)), config)
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        layer.base_layer.weight.copy_(linear.weight)
        layer.base_layer.bias.copy_(linear.bias)
        ours.lora_A.normal_()
        ours.lora_B.normal_()
        layer.lora_A["default"].weight.copy_(ours.lora_A)
        layer.lora_B["default"].weight.copy_(ours.lora_B)
        if isinstance(ours, DoRALinear):
            ours.magnitude.uniform_(0.5, 2)
            layer.lora_magnitude_vector["default"].weight.copy_(ours.magnitude)
    return ours, theirs


@pytest.mark.parametrize("cls", [LoRA, DoRA])
def test_outputs_and_gradients(cls: type[LoRA]) -> None:
    ours, theirs = pair(cls)
    theirs = theirs.double()
    layer = theirs.base_model.model[0]
    x = torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-10)
    for y in (ours(x), theirs(x)):
        (y**2).sum().backward()
    torch.testing.assert_close(ours.lora_A.grad, layer.lora_A["default"].weight.grad, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.lora_B.grad, layer.lora_B["default"].weight.grad, rtol=0, atol=1e-9)
    if isinstance(ours, DoRALinear):
        grad = layer.lora_magnitude_vector["default"].weight.grad
        torch.testing.assert_close(ours.magnitude.grad, grad, rtol=0, atol=1e-9)


def test_merged_weights_of_dora() -> None:
    ours, theirs = pair(DoRA)
    before = ours.weight.detach().clone()
    with torch.no_grad():
        ours.fold()
    merged = theirs.double().merge_and_unload()
    torch.testing.assert_close(ours.weight, merged[0].weight, rtol=0, atol=1e-10)
    with torch.no_grad():
        ours.unfold()
    torch.testing.assert_close(ours.weight, before, rtol=0, atol=1e-12)


def test_merged_weights_of_lora() -> None:
    ours, theirs = pair(LoRA)
    merged = theirs.double().merge_and_unload()
    updated = ours.weight + ours.scaling * ours.lora_B @ ours.lora_A
    torch.testing.assert_close(updated, merged[0].weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("tuner", "trainable"), [("lora_r32", 10_616_832), ("dora_r32", 10_782_720)])
def test_the_budgets_of_dopls_tables(tuner: str, trainable: int) -> None:
    assert count_parameters("blip_base", tuner)["trainable"] == trainable
