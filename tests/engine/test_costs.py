"""The cost account: arithmetic in closed form, parameters that add up, merged latency that changes nothing."""

from __future__ import annotations

from typing import Any

import torch

from petl_zoo.backbones import CLIP
from petl_zoo.data.captions import Gallery
from petl_zoo.engine import costs
from petl_zoo.heads import ClassificationHead, RetrievalHead
from petl_zoo.model import VLModel
from petl_zoo.tuners import LoRA, MaPLe, NoTuner

from ..conftest import NAMES, SIZES


def test_arithmetic_is_the_closed_form(clip: CLIP, batch: dict[str, Any]) -> None:
    model = VLModel(clip, NoTuner(), ClassificationHead()).eval()
    width, layers, joint = SIZES["vision_width"], SIZES["vision_layers"], SIZES["embed_dim"]
    patches = (SIZES["image_size"] // SIZES["patch_size"]) ** 2
    tokens = patches + 1
    embed = patches * 3 * SIZES["patch_size"] ** 2 * width
    # Four projections and two of four times the width; queries with keys, and weights with values.
    layer = 12 * tokens * width**2 + 2 * tokens**2 * width
    last = 2 * tokens * width**2 + 10 * width**2 + 2 * tokens * width  # Only the class token goes on from here.
    compare = width * joint + joint * len(NAMES)
    assert costs.forward_flops(model, batch) == 2 * (embed + (layers - 1) * layer + last + compare)


def test_a_vision_prompt_costs_arithmetic(clip: CLIP, batch: dict[str, Any]) -> None:
    bare = costs.forward_flops(VLModel(clip, NoTuner(), ClassificationHead()).eval(), batch)
    prompted = VLModel(clip, MaPLe(depth=2, init=None), ClassificationHead()).eval()
    assert costs.forward_flops(prompted, batch) > bare


def test_retrieval_counts_an_image_and_its_first_caption(clip: CLIP, batch: dict[str, Any]) -> None:
    model = VLModel(clip, NoTuner(), RetrievalHead()).eval()
    texts = Gallery(("a cat", "a polar bear on ice", "a dog", "a truck"), (0, 1, 2, 3), 4)
    gallery = {"images": batch["images"], "index": torch.tensor([1, 0, 2, 3]), "gallery": texts}
    found = costs.forward_flops(model, gallery)
    assert found == costs.forward_flops(model, {**gallery, "images": batch["images"][:1], "index": torch.tensor([1])})
    assert found > costs.forward_flops(model, {**gallery, "index": torch.tensor([0, 1, 2, 3])})  # the shorter caption
    assert found > costs.forward_flops(VLModel(clip, NoTuner(), ClassificationHead()).eval(), batch)
    assert costs.flops_convention(model).startswith("2 per multiply-add; one image and one caption")
    assert costs.latencies(model, {"type": "CLIP", **SIZES}, gallery)["batch_size"] == 4


def test_parameters_add_up(clip: CLIP) -> None:
    model = VLModel(clip, MaPLe(depth=2, init=None), ClassificationHead())
    found = costs.parameters(model)
    assert sum(found["by_stream"].values()) == sum(found["by_role"].values()) == found["trainable"]
    assert found["total"] == model.backbone_parameters + found["added_at_inference"]
    assert found["share"] == found["trainable"] / model.backbone_parameters


def test_measuring_the_merged_latency_changes_no_weight(clip: CLIP, batch: dict[str, Any]) -> None:
    model = VLModel(clip, LoRA(rank=2), ClassificationHead()).eval()
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.normal_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = costs.latencies(model, {"type": "CLIP", **SIZES}, batch)
    assert all(value > 0 for value in found.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert costs.parameters(model)["added_at_inference"] == 0


def test_a_tuner_that_trains_nothing_has_no_checkpoint(clip: CLIP) -> None:
    assert costs.checkpoint_bytes(VLModel(clip, NoTuner(), ClassificationHead())) is None
    assert costs.checkpoint_bytes(VLModel(clip, LoRA(rank=2), ClassificationHead())) > 0  # type: ignore[operator]
