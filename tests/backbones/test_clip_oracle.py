"""transformers' CLIPModel as an oracle: the same random weights, the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from petl_zoo.backbones import CLIP, TextBatch
from petl_zoo.backbones.checkpoints import load_checkpoint

START, END = 58, 59
IDS = [[START, 3, 17, END], [START, 5, END], [START, 3, 9, 20, 41, 8, END]]
# Every size differs from every other, so that a mixed-up axis cannot pass.
CONFIG = {
    "projection_dim": 20,
    "vision_config": {
        "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 192,
        "image_size": 40, "patch_size": 8, "hidden_act": "quick_gelu", "projection_dim": 20,
    },
    "text_config": {
        "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128,
        "vocab_size": 60, "max_position_embeddings": 13, "hidden_act": "quick_gelu", "projection_dim": 20,
        "bos_token_id": START, "eos_token_id": END, "pad_token_id": 0,
    },
}  # fmt: skip


def oracle(attention: str) -> CLIPModel:
    torch.manual_seed(0)
    config = CLIPConfig(**CONFIG)
    config._attn_implementation = attention
    model = CLIPModel(config).eval().double()
    with torch.no_grad():  # Biases are zeros and norms ones at first, which would hide two that are swapped.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ours(folder: Path, dtype: torch.dtype) -> CLIP:
    backbone = CLIP(
        image_size=40, patch_size=8, vision_width=48, vision_layers=3, vision_heads=3, text_width=32,
        text_layers=2, text_heads=4, context_length=13, vocabulary=60, embed_dim=20,
    ).to(dtype).eval()  # fmt: skip
    load_checkpoint(backbone, folder)
    return backbone


def padded(length: int, pad: int) -> Tensor:
    return torch.tensor([row + [pad] * (length - len(row)) for row in IDS])


def batch(shared: int) -> TextBatch:
    end = torch.tensor([len(row) - 1 for row in IDS])
    return TextBatch(padded(7, END), torch.empty(3, 0, dtype=torch.long), end, shared, 0, int((end + 1).sum()))


@pytest.mark.parametrize(
    ("attention", "dtype", "tolerance"),
    [
        ("sdpa", torch.float64, 1e-10),
        ("sdpa", torch.float32, 1e-5),
        ("eager", torch.float64, 1e-6),  # transformers' eager attention takes the softmax in float32
    ],
)
def test_features_and_logits_equal_those_of_transformers(
    tmp_path: Path, attention: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = oracle(attention)
    model.save_pretrained(tmp_path)
    backbone = ours(tmp_path, dtype)
    images = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        expected = model(input_ids=padded(13, 0), pixel_values=images)
        image_features = model.visual_projection(model.vision_model(images).pooler_output)
        text_features = model.text_projection(model.text_model(padded(13, 0)).pooler_output)
        image = backbone.encode_image(images.to(dtype))
        torch.testing.assert_close(image.double(), image_features, rtol=0, atol=tolerance)
        for shared in (0, 1):  # the plain path, and the start token run once
            text = backbone.encode_text(batch(shared))
            torch.testing.assert_close(text.double(), text_features, rtol=0, atol=tolerance)
            logits = backbone.logit_scale.exp() * normalize(image, dim=-1) @ normalize(text, dim=-1).T
            torch.testing.assert_close(
                logits.double(), expected.logits_per_image, rtol=0, atol=10 * tolerance
            )


def test_image_size_other_than_the_checkpoint_equals_interpolation_in_transformers(tmp_path: Path) -> None:
    model = oracle("sdpa")
    model.save_pretrained(tmp_path)
    backbone = CLIP(
        image_size=56, patch_size=8, vision_width=48, vision_layers=3, vision_heads=3, text_width=32,
        text_layers=2, text_heads=4, context_length=13, vocabulary=60, embed_dim=20,
    ).eval()  # fmt: skip
    load_checkpoint(backbone, tmp_path)
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        hidden = model.float().vision_model(images, interpolate_pos_encoding=True)
        expected = model.visual_projection(hidden.pooler_output)
        torch.testing.assert_close(backbone.encode_image(images), expected, rtol=0, atol=1e-5)
