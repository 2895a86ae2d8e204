"""A captioned data set of noise that takes no time: what the engine does with retrieval, not how well it goes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from petl_zoo.data.captions import Captioned, CaptionItem
from petl_zoo.data.classification import Reader
from registry import DATASETS

COLOURS = ("red", "green", "blue", "black", "white")
SIZES = {"train": 10, "val": 4, "test": 7}  # An odd test set, so that two processes need a repeated image.


@DATASETS.register_module()
class ToyCaptions(Captioned):
    """Two captions an image."""

    def __init__(self, *, image_size: int = 48, words: int = 3, empty: bool = False) -> None:
        """Choose the images' size and the captions' length; ``empty`` leaves one without words."""
        self.name, self.hash, self.image_size = "Toy", "70" * 32, image_size

        def captions(part: str, image: int) -> tuple[str, ...]:
            texts = (f"{COLOURS[image % 5]} " * words + f"number {image} of {part}, {side}" for side in ("a", "b"))
            return ("", "") if empty and image == 1 else tuple(texts)

        self.items = {
            part: tuple(CaptionItem(f"{part}/{i}.png", captions(part, i), f"{part} {i}") for i in range(count))
            for part, count in SIZES.items()
        }

    def reader(self, *, augment: bool) -> Reader:
        def read(paths: Sequence[str]) -> Tensor:
            seeds = [torch.Generator().manual_seed(zlib.crc32(path.encode())) for path in paths]
            images = torch.stack([torch.randn(3, self.image_size, self.image_size, generator=seed) for seed in seeds])
            # In reduced precision, as where images are drawn by matrix products, other numbers come out.
            images = torch.nn.functional.linear(images, torch.eye(self.image_size))
            return images + 0.1 * torch.randn(images.shape) if augment else images

        return read
