"""How retrieval reads images: against torchvision composed by hand, and each operation against pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode

from petl_zoo.data.transforms import CLIP_MEAN, CLIP_STD, Policy, SquareReader

GRAY = (128, 128, 128)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(20, 200, (24, 32, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return path


def test_the_whole_image_is_squeezed_to_a_square(image: Path) -> None:
    read = SquareReader(image.parent, size=24, augment=False)
    by_hand = v1.Compose(
        [v1.Resize((24, 24), InterpolationMode.BICUBIC), v1.ToTensor(), v1.Normalize(CLIP_MEAN, CLIP_STD)]
    )
    torch.testing.assert_close(read([image.name])[0], by_hand(Image.open(image)), rtol=0, atol=1e-6)


def test_training_crops_half_to_all_of_the_image_mirrors_and_then_draws_operations(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the operations it is torchvision's crop and flip; they are drawn last and change nothing before."""
    monkeypatch.setattr(Policy, "_AUGMENTATION_SPACE", {"Identity": (lambda bins, height, width: None, False)})
    read = SquareReader(image.parent, size=24, augment=True)
    crop = v1.RandomResizedCrop(24, scale=(0.5, 1.0), interpolation=InterpolationMode.BICUBIC)
    by_hand = v1.Compose([crop, v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(CLIP_MEAN, CLIP_STD)])
    for seed in range(8):
        torch.manual_seed(seed)
        mine = read([image.name])[0]
        torch.manual_seed(seed)
        torch.testing.assert_close(mine, by_hand(Image.open(image)), rtol=0, atol=1e-6)


def test_two_operations_with_even_odds_each(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    choose = Policy._get_random_item

    def recorded(self: Policy, space: dict[str, tuple[Callable, bool]]) -> tuple[str, tuple[Callable, bool]]:
        name, how = choose(self, space)
        calls.append(name)
        return name, how

    monkeypatch.setattr(Policy, "_get_random_item", recorded)
    read = SquareReader(image.parent, size=8, augment=True)
    torch.manual_seed(0)
    counts = []
    for _ in range(400):
        before = len(calls)
        read([image.name])
        counts.append(len(calls) - before)
    # Binomial of 2 and 1/2: a quarter, a half, a quarter; three standard errors of 400 are 0.075 at most.
    for number, share in enumerate((0.25, 0.5, 0.25)):
        assert abs(counts.count(number) / 400 - share) < 0.075
    assert set(calls) == {
        "Identity", "AutoContrast", "Brightness", "Sharpness", "Equalize", "ShearX", "ShearY", "TranslateX",
        "TranslateY", "Rotate",
    }  # fmt: skip
    assert max(calls.count(name) for name in set(calls)) < 0.2 * len(calls)


def sheared(x: float, y: float) -> Callable[[Image.Image], Image.Image]:
    def shear(image: Image.Image) -> Image.Image:
        # The corner of the image stays, not the middle of its first pixel.
        return image.transform(
            image.size, Image.Transform.AFFINE, (1, x, 0, y, 1, 0), Image.Resampling.BILINEAR, fillcolor=GRAY
        )

    return shear


def moved(x: int, y: int) -> Callable[[Image.Image], Image.Image]:
    def move(image: Image.Image) -> Image.Image:
        canvas = Image.new("RGB", image.size, GRAY)
        canvas.paste(image, (x, y))
        return canvas

    return move


def turned(degrees: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=GRAY)


def brightened(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def sharpened(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageEnhance.Sharpness(image).enhance(factor)


@pytest.mark.parametrize(
    ("name", "magnitude", "expected"),
    [
        ("Identity", 5, [lambda image: image]),
        ("AutoContrast", 5, [ImageOps.autocontrast]),
        ("Equalize", 5, [ImageOps.equalize]),
        ("Brightness", 5, [lambda image: image]),
        ("Brightness", 7, [brightened(0.1 + 1.8 * 0.7)]),
        ("Sharpness", 5, [lambda image: image]),
        ("Sharpness", 7, [sharpened(0.1 + 1.8 * 0.7)]),
        ("ShearX", 5, [sheared(0.15, 0), sheared(-0.15, 0)]),
        ("ShearY", 7, [sheared(0, 0.21), sheared(0, -0.21)]),
        ("TranslateX", 5, [moved(5, 0), moved(-5, 0)]),
        ("TranslateY", 7, [moved(0, 7), moved(0, -7)]),
        ("Rotate", 5, [turned(15), turned(-15)]),
    ],
)
def test_an_operation_is_as_strong_as_in_the_published_code(
    image: Path, name: str, magnitude: int, expected: list[Callable[[Image.Image], Image.Image]]
) -> None:
    policy = Policy(magnitude)
    policy._AUGMENTATION_SPACE = {name: Policy._AUGMENTATION_SPACE[name]}
    before = Image.open(image)
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        after = np.asarray(policy(before)).astype(int)
        apart = [np.abs(after - np.asarray(make(before)).astype(int)).mean() for make in expected]
        assert min(apart) < 0.1  # of 255 levels; the edges are rounded differently
        seen.add(int(np.argmin(apart)))
    assert seen == set(range(len(expected)))
