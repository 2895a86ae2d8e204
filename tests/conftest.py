"""What many tests need: a CLIP of a few thousand parameters, its words, and a batch."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch

from petl_zoo.backbones import CLIP
from petl_zoo.data.classes import ClassNames

NAMES = ("cat", "polar bear", "maine coon cat", "red fire truck")
SIZES: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 8,
    "vision_width": 24,
    "vision_layers": 3,
    "vision_heads": 3,
    "text_width": 16,
    "text_layers": 3,
    "text_heads": 2,
    "context_length": 32,
    "vocabulary": 64,
    "embed_dim": 64,
}


class WordTokenizer:
    """One id a word, from a checksum: a vocabulary without a file."""

    start, end, pad, context_length = 62, 63, 0, 32

    def encode(self, text: str) -> list[int]:
        return [1 + zlib.crc32(word.encode()) % 60 for word in text.lower().replace(".", " .").split()]


def make_clip(seed: int = 0, **sizes: Any) -> CLIP:
    """A small CLIP with random weights large enough for every part to matter."""
    torch.manual_seed(seed)
    clip = CLIP(**{**SIZES, **sizes}, tokenizer=WordTokenizer())
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if name != "logit_scale":
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return clip


@pytest.fixture
def clip() -> CLIP:
    return make_clip()


@pytest.fixture
def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.randn(4, 3, 16, 16, generator=generator),
        "labels": torch.tensor([0, 1, 2, 3]),
        "classes": ClassNames(NAMES, ("a photo of a {}.",)),
    }
