"""How image files are read: CLIP's statistics and the augmentation of the few-shot literature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

__all__ = ["CLIP_MEAN", "CLIP_STD", "FileReader"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class FileReader:
    """Reads image files below a folder.

    Training: random resized crop (area 8 to 100 %, bicubic) and horizontal flip. Testing: shorter side
        resized (bicubic), centre crop. Both normalise with CLIP's mean and standard deviation.

    Source: CoOp and Dassl's transforms, which all prompt learners after them use.
    """

    def __init__(
        self,
        root: Path,
        *,
        size: int,
        augment: bool,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        """Choose folder and transforms.

        Args:
            root: folder that the paths are relative to.
            size: side of the square images in pixels.
            augment: training's random transforms instead of testing's.
            mean: of each channel, subtracted.
            std: of each channel, divided by.
        """
        bicubic = v2.InterpolationMode.BICUBIC
        if augment:
            crop = [
                v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=bicubic),
                v2.RandomHorizontalFlip(),
            ]
        else:
            crop = [v2.Resize(size, interpolation=bicubic), v2.CenterCrop(size)]
        after = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        self.root, self.transform = root, v2.Compose([*crop, *after])

    def __call__(self, paths: Sequence[str]) -> Tensor:
        """Read images.

        Shape:
            returns (B, 3, size, size).

        Raises:
            ValueError: a file is missing or is no image; the message names it.
        """
        return torch.stack([self._read(self.root / path) for path in paths])

    def _read(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                return self.transform(image.convert("RGB"))
        except FileNotFoundError:
            raise ValueError(f"image {path} does not exist: unpack the data set there, or set dataset.root") from None
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"image {path} cannot be read ({error}): replace the file, it may be truncated") from error
