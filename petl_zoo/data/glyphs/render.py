"""From glyphs to images: scale, turn, mirror, shift, put on a background; a whole batch at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DRAWS", "MEAN", "STD", "TEST_VIEW", "TRAIN_VIEW", "View", "draws_for", "place", "render", "vary_colours"]

MEAN, STD = 0.5, 0.25  # of every channel, for glyphs and the tiny backbones trained on them
DRAWS = 19  # uniform numbers that decide one image

# Background colours that are not white; a caption may name them.
COLOURS = {
    "gray": (150, 150, 150),
    "red": (225, 80, 80),
    "green": (110, 190, 110),
    "blue": (100, 140, 225),
    "yellow": (240, 220, 110),
    "purple": (165, 110, 200),
    "pink": (245, 180, 205),
    "orange": (245, 165, 85),
    "black": (35, 35, 40),
}
_WHITE, _BLACK = 0.98, 0.15


@dataclass(frozen=True)
class View:
    """How freely an image is drawn; every quantity is uniform in its range.

    Attributes:
        scale: smallest and largest side of the glyph as a share of the image's.
        rotation: largest turn either way, in degrees.
        flip: probability of mirroring left and right.
        white: probability of a white background; otherwise one of ``COLOURS``, a little off.
        jitter: 0 to 1, how far the glyph's contrast, saturation and colour balance vary.
        contrast: least mean distance (0 to 1) between glyph and background; below it the background becomes
            white behind a dark glyph and black behind a light one.
    """

    scale: tuple[float, float] = (0.6, 1.0)
    rotation: float = 15.0
    flip: float = 0.5
    white: float = 0.4
    jitter: float = 0.0
    contrast: float = 0.15


TRAIN_VIEW = View()
TEST_VIEW = View()


def draws_for(paths: Sequence[str], count: int = DRAWS) -> Tensor:
    """The uniform numbers of images that must always look the same: a function of each path and ``count`` alone.

    Shape:
        (B, count)
    """
    rows = []
    for path in paths:
        seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1
        rows.append(torch.rand(count, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows) if rows else torch.empty(0, count)


def render(glyphs: Tensor, *, size: int = 48, view: View = TRAIN_VIEW, draws: Tensor | None = None) -> Tensor:
    """Draw images of glyphs, normalised with ``MEAN`` and ``STD``.

    Args:
        glyphs: premultiplied drawings, as ``atlas.glyphs`` holds them.
        size: side of the images in pixels.
        view: the ranges that the draws are mapped to.
        draws: uniform numbers in [0, 1); by default from torch's global generator.

    Shape:
        glyphs (B, 4, 64, 64) uint8, draws (B, DRAWS) -> (B, 3, size, size) float
    """
    batch, device = len(glyphs), glyphs.device
    u = (torch.rand(batch, DRAWS) if draws is None else draws).to(device)
    pixels = F.grid_sample(
        glyphs.float() / 255,
        F.affine_grid(_placement(u[:, :5], view), [batch, 4, size, size], align_corners=False),
        align_corners=False,
    )
    colour, cover = pixels[:, :3], pixels[:, 3:]
    if view.jitter:
        colour = vary_colours(colour, cover, u[:, 5:11], view.jitter)
    ground = _background(colour, cover, u[:, 11:], view)
    return (colour + (1 - cover) * ground[:, :, None, None] - MEAN) / STD


def _placement(u: Tensor, view: View) -> Tensor:
    """Matrices (B, 2, 3) from image to glyph coordinates; the glyph's square stays inside."""
    low, high = view.scale
    scale = low + (high - low) * u[:, 0]
    angle = (2 * u[:, 1] - 1) * math.radians(view.rotation)
    mirror = 1 - 2 * (u[:, 2] < view.flip).float()
    right, down = (1 - scale) * (2 * u[:, 3] - 1), (1 - scale) * (2 * u[:, 4] - 1)
    return place(scale, angle, mirror, right, down)


def place(scale: Tensor, angle: Tensor, mirror: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Matrices from image to glyph coordinates, as ``affine_grid`` takes them.

    Args:
        scale: sides of the glyphs as shares of the image's.
        angle: turns in radians.
        mirror: -1 to mirror left and right, else 1.
        right: centres of the glyphs, -1 (left border of the image) to 1.
        down: the same, from top to bottom.

    Shape:
        each (B,) -> (B, 2, 3)
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    first = torch.stack([cos, sin, -(cos * right + sin * down)], 1) * mirror[:, None]
    second = torch.stack([-sin, cos, sin * right - cos * down], 1)
    return torch.stack([first, second], 1)  # (B, 2, 3)


def vary_colours(colour: Tensor, cover: Tensor, u: Tensor, strength: float) -> Tensor:
    """Vary saturation, contrast, brightness and colour balance of premultiplied colours."""
    around = (strength * (2 * u - 1))[:, :, None, None]  # (B, 6, 1, 1)
    gray = colour.mean(1, keepdim=True)
    colour = gray + (colour - gray) * (1 + around[:, :1])
    mean = colour.mean((2, 3), keepdim=True) / cover.mean((2, 3), keepdim=True).clamp_min(1e-3)
    shift = mean + 0.5 * around[:, 2:3] + 0.3 * around[:, 3:6]
    colour = (colour - mean * cover) * (1 + around[:, 1:2]) + shift * cover
    return torch.minimum(colour.clamp_min(0), cover)


def _background(colour: Tensor, cover: Tensor, u: Tensor, view: View) -> Tensor:
    """Background colours (B, 3) that the glyphs stand out from."""
    palette = torch.tensor(list(COLOURS.values()), device=u.device) / 255
    index = (u[:, 0] * len(palette)).long().clamp(max=len(palette) - 1)
    ground = (palette[index] + 0.2 * (u[:, 1:4] - 0.5)).clamp(0, 1)
    ground = torch.where((u[:, 4] < view.white)[:, None], torch.ones_like(ground), ground)
    area = cover.sum((1, 2, 3)).clamp_min(1)
    distance = (colour - cover * ground[:, :, None, None]).abs().mean(1).sum((1, 2)) / area
    dark = colour.mean(1).sum((1, 2)) / area < 0.5
    clear = torch.where(dark, _WHITE, _BLACK)[:, None].expand_as(ground)
    return torch.where((distance < view.contrast)[:, None], clear, ground)
