"""What many tests need: backbones of a few thousand parameters, their words, and batches."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch

from petl_zoo.backbones import ALBEF, BLIP, CLIP, Backbone, BEiT3, Tokenizer
from petl_zoo.data.captions import Gallery
from petl_zoo.data.classes import ClassNames
from petl_zoo.heads import ClassificationHead, RetrievalHead
from petl_zoo.model import VLModel
from petl_zoo.tuners import Tuner

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
BLIP_SIZES: dict[str, Any] = {**SIZES, "vocabulary": 66, "caption_length": 12, "dropout": 0.0}
ALBEF_SIZES: dict[str, Any] = {**BLIP_SIZES, "text_layers": 6, "fusion_layer": 3}
BEIT3_SIZES: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 8,
    "width": 24,
    "layers": 3,
    "heads": 3,
    "context_length": 32,
    "vocabulary": 66,
    "caption_length": 12,
}
B = TypeVar("B", bound=Backbone)


class WordTokenizer(Tokenizer):
    """One id a word, from a checksum: a vocabulary without a file."""

    start, pad, context_length = 62, 0, 32
    mask, separator, dec, enc = 61, 63, 64, 65

    def __init__(self, end: int | None = 63) -> None:
        self.end = end

    def encode(self, text: str) -> list[int]:
        return [1 + zlib.crc32(word.encode()) % 60 for word in text.lower().replace(".", " .").split()]


def make_clip(seed: int = 0, **sizes: Any) -> CLIP:
    """A small CLIP with random weights large enough for every part to matter."""
    return _make(CLIP, {**SIZES, **sizes}, seed)


def make_blip(seed: int = 0, **sizes: Any) -> BLIP:
    """A small BLIP; see ``make_clip``."""
    return _make(BLIP, {**BLIP_SIZES, **sizes}, seed)


def make_albef(seed: int = 0, **sizes: Any) -> ALBEF:
    """A small ALBEF, whose texts have no end token; see ``make_clip``."""
    return _make(ALBEF, {**ALBEF_SIZES, **sizes}, seed, end=None)


def make_beit3(seed: int = 0, **sizes: Any) -> BEiT3:
    """A small BEiT-3; see ``make_clip``."""
    return _make(BEiT3, {**BEIT3_SIZES, **sizes}, seed)


MAKERS: dict[str, Callable[..., Backbone]] = {
    "CLIP": make_clip,
    "BLIP": make_blip,
    "ALBEF": make_albef,
    "BEiT3": make_beit3,
}


def _make(cls: type[B], sizes: dict[str, Any], seed: int, end: int | None = 63) -> B:
    torch.manual_seed(seed)
    backbone = cls(**sizes, tokenizer=WordTokenizer(end))
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name not in ("logit_scale", "temp"):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return backbone


@pytest.fixture
def clip() -> CLIP:
    return make_clip()


@pytest.fixture
def batch() -> dict[str, Any]:
    return class_batch()


def class_batch() -> dict[str, Any]:
    """Four images and what they show."""
    classes = ClassNames(NAMES, ("a photo of a {}.",))
    return {"images": _images(4), "labels": torch.tensor([0, 1, 2, 3]), "classes": classes}


def pair_batch() -> dict[str, Any]:
    """Four images with captions of different lengths; the first and the last are of one image."""
    captions = ["a cat", "two polar bears left of a red fire truck", "the maine coon cat sleeps", "a small cat"]
    return {"images": _images(4), "captions": captions, "ids": torch.tensor([0, 1, 2, 0])}


def gallery_batch() -> dict[str, Any]:
    """Three images and the captions that they are searched by: two, one and two."""
    captions = (*pair_batch()["captions"][::3], *pair_batch()["captions"][1:3], "a red cat")
    return {"images": _images(3), "index": torch.arange(3), "gallery": Gallery(captions, (0, 0, 1, 2, 2), 3)}


def _images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def disturbed_model(tuner: Tuner, backbone: Backbone | None = None) -> VLModel:
    """A model in double precision, its tuner moved from the start so that no zero hides anything.

    A backbone that is given retrieves; without one CLIP classifies.
    """
    fused = backbone is not None
    head = RetrievalHead() if fused else ClassificationHead()
    model = VLModel((backbone or make_clip()).double(), tuner, head, () if fused else NAMES).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model
