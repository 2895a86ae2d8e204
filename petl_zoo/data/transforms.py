"""How image files are read: normalisation, and the augmentations of few-shot learning and of retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

__all__ = ["CLIP_MEAN", "CLIP_STD", "STATISTICS", "FileReader", "Policy", "SquareReader"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
# Mean and standard deviation of each channel, by the name that configs give: CLIP, BLIP and ALBEF take CLIP's, BEiT-3
# Inception's.
STATISTICS = {"clip": (CLIP_MEAN, CLIP_STD), "inception": (HALF, HALF)}
BICUBIC = v2.InterpolationMode.BICUBIC


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
        crop = self._augmentation(size) if augment else self._resizing(size)
        after = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        self.root, self.transform = root, v2.Compose([*crop, *after])

    def _augmentation(self, size: int) -> list[nn.Module]:
        crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=BICUBIC)
        return [crop, v2.RandomHorizontalFlip()]

    def _resizing(self, size: int) -> list[nn.Module]:
        return [v2.Resize(size, interpolation=BICUBIC), v2.CenterCrop(size)]

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


class Policy(v2.RandAugment):
    """One operation of RandAugment's retrieval policy, drawn evenly from ten.

    At magnitude m of 10: shear by 0.03 m, translate by m pixels, rotate by 3 m degrees, each to either side; brightness
    and sharpness times 0.1 + 0.18 m, which at 5 changes nothing. What comes in from outside is gray.

    Source: the augmentation of ALBEF's, BLIP's and BEiT-3's fine-tuning; torchvision's own ranges differ.
    """

    # torchvision's way to say what is drawn from: a range over the magnitudes, and whether its sign is drawn too.
    _AUGMENTATION_SPACE = {  # noqa: RUF012  # torchvision declares it as a plain attribute
        "Identity": (lambda bins, height, width: None, False),
        "AutoContrast": (lambda bins, height, width: None, False),
        "Brightness": (lambda bins, height, width: torch.linspace(-0.9, 0.9, bins), False),
        "Sharpness": (lambda bins, height, width: torch.linspace(-0.9, 0.9, bins), False),
        "Equalize": (lambda bins, height, width: None, False),
        "ShearX": (lambda bins, height, width: torch.linspace(0.0, 0.3, bins), True),
        "ShearY": (lambda bins, height, width: torch.linspace(0.0, 0.3, bins), True),
        "TranslateX": (lambda bins, height, width: torch.linspace(0.0, 10.0, bins), True),
        "TranslateY": (lambda bins, height, width: torch.linspace(0.0, 10.0, bins), True),
        "Rotate": (lambda bins, height, width: torch.linspace(0.0, 30.0, bins), True),
    }

    def __init__(self, magnitude: int) -> None:
        """Choose the strength.

        Args:
            magnitude: 0 to 10.

        Raises:
            ValueError: another magnitude.
        """
        if not 0 <= magnitude <= 10:
            raise ValueError(f"dataset.magnitude ({magnitude}) must be 0 to 10; BLIP takes 5, ALBEF and BEiT-3 take 7")
        super().__init__(1, magnitude, 11, v2.InterpolationMode.BILINEAR, [128, 128, 128])


class SquareReader(FileReader):
    """Reads image files as retrieval does: the whole image, squeezed to a square.

    Training: random resized crop (area 50 to 100 %, bicubic), horizontal flip, and twice with even odds an operation
        of ``Policy``. Testing: resized to the square (bicubic), nothing cut off.

    Source: ALBEF, BLIP and BEiT-3, retrieval fine-tuning.
    """

    def __init__(
        self,
        root: Path,
        *,
        size: int,
        augment: bool,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        magnitude: int = 5,
    ) -> None:
        """Choose folder and transforms.

        Args:
            root: folder that the paths are relative to.
            size: side of the square images in pixels.
            augment: training's random transforms instead of testing's.
            mean: of each channel, subtracted.
            std: of each channel, divided by.
            magnitude: strength of the policy's operations, 0 to 10.
        """
        self.policy = Policy(magnitude)
        super().__init__(root, size=size, augment=augment, mean=mean, std=std)

    def _augmentation(self, size: int) -> list[nn.Module]:
        crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC)
        operations = [v2.RandomApply([self.policy], p=0.5) for _ in range(2)]
        return [crop, v2.RandomHorizontalFlip(), *operations]

    def _resizing(self, size: int) -> list[nn.Module]:
        return [v2.Resize((size, size), interpolation=BICUBIC)]
