"""From several glyphs to one image: each in its cell, clear of the others, on a coloured background; a whole batch
at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .atlas import STYLES, concepts, glyphs
from .grammar import RELATIONS, Scene
from .render import COLOURS, MEAN, STD, place, vary_colours

__all__ = ["PALETTE", "SCENE_DRAWS", "TEST_FREEDOM", "Freedom", "compose", "layout", "small_glyphs", "visible_on"]

# Backgrounds of scenes, as captions name them. The drawings of ``contrast`` would vanish on black.
PALETTE = {"white": (255, 255, 255), **{name: rgb for name, rgb in COLOURS.items() if name != "black"}}
MAX_OBJECTS = 4
_PER_OBJECT = 5  # size, turn, mirror, shift right, shift down
SCENE_DRAWS = 3 + MAX_OBJECTS * (_PER_OBJECT + 1)  # the background's shade; each object's draws and its cell
_SHADE = 0.06  # how far the background's channels are off the palette's, in all
_CONTRAST = 0.15  # least mean distance of a glyph from its background


@dataclass(frozen=True)
class Freedom:
    """How freely the objects of a scene are drawn.

    Attributes:
        scale: smallest and largest side of an object as a share of the image's; 26 to 29 of 64 pixels.
        rotation: largest turn either way, in degrees.
        shift: 0 to 1, how much of the free room around an object is used.
        jitter: 0 to 1, colour jitter as in ``View``.
    """

    scale: tuple[float, float] = (26 / 64, 29 / 64)
    rotation: float = 8.0
    shift: float = 1.0
    jitter: float = 0.0


TEST_FREEDOM = Freedom()


def layout(scenes: Sequence[Scene], u: Tensor, freedom: Freedom) -> tuple[Tensor, Tensor, list[str]]:
    """Where the objects of scenes lie.

    Objects of a relation share the image's halves, and stray across the other direction by less than they are
    apart; counted objects lie in three or four quarters, at random.

    Args:
        scenes: B scenes of G objects altogether.
        u: uniform numbers.
        freedom: the ranges that they are mapped to.

    Shape:
        u (B, SCENE_DRAWS) -> matrices (G, 2, 3), scene of each object (G,), concept id of each object.
    """
    owner: list[int] = []
    slot: list[int] = []
    ids: list[str] = []
    centres: list[tuple[float, float]] = []
    strays: list[tuple[float, float]] = []
    cells = u[:, 3 + MAX_OBJECTS * _PER_OBJECT :].argsort(1).tolist()
    for index, scene in enumerate(scenes):
        objects = [name for name, count in zip((scene.a, scene.b), scene.counts, strict=True) for _ in range(count)]
        ids += objects
        owner += [index] * len(objects)
        slot += range(len(objects))
        if scene.kind in RELATIONS:
            across = scene.kind in ("left", "right")
            sign = -0.5 if scene.kind in ("left", "above") else 0.5
            centres += [(sign, 0.0), (-sign, 0.0)] if across else [(0.0, sign), (0.0, -sign)]
            strays += [(0.0, 0.25) if across else (0.25, 0.0)] * 2
        else:
            centres += [(cell % 2 - 0.5, cell // 2 - 0.5) for cell in cells[index][: len(objects)]]
            strays += [(0.0, 0.0)] * len(objects)
    each = u[:, 3 : 3 + MAX_OBJECTS * _PER_OBJECT].unflatten(1, (MAX_OBJECTS, _PER_OBJECT))
    draw = each[torch.tensor(owner), torch.tensor(slot)]  # (G, _PER_OBJECT)
    low, high = freedom.scale
    scale = low + (high - low) * draw[:, 0]
    angle = (2 * draw[:, 1] - 1) * math.radians(freedom.rotation)
    mirror = 1 - 2 * (draw[:, 2] < 0.5).float()
    # A cell is half the image wide; the room in it is what the glyph's turned square leaves.
    room = (0.5 - scale * (angle.cos() + angle.abs().sin())).clamp_min(0)
    reach = room[:, None] + torch.tensor(strays)
    centre = torch.tensor(centres) + freedom.shift * reach * (2 * draw[:, 3:5] - 1)
    return place(scale, angle, mirror, centre[:, 0], centre[:, 1]), torch.tensor(owner), ids


def compose(
    drawings: Tensor,
    matrices: Tensor,
    owner: Tensor,
    ground: Tensor,
    *,
    size: int,
    jitter: Tensor | None = None,
    strength: float = 0.0,
) -> Tensor:
    """Draw images of several glyphs each, normalised with ``MEAN`` and ``STD``.

    Args:
        drawings: premultiplied, of G objects.
        matrices: as ``place`` makes them.
        owner: the image of each object; objects of an image must not overlap.
        ground: background colours, 0 to 1.
        size: side of the images in pixels.
        jitter: uniform numbers for the colours.
        strength: of the colour jitter, 0 to 1.

    Shape:
        drawings (G, 4, h, w) uint8, matrices (G, 2, 3), owner (G,), ground (B, 3), jitter (G, 6)
        -> (B, 3, size, size)
    """
    grid = F.affine_grid(matrices, [len(drawings), 4, size, size], align_corners=False)
    pixels = F.grid_sample(drawings.float() / 255, grid, align_corners=False)
    if jitter is not None and strength:
        colour = vary_colours(pixels[:, :3], pixels[:, 3:], jitter, strength)
        pixels = torch.cat([colour, pixels[:, 3:]], 1)
    images = pixels.new_zeros(len(ground), 4, size, size).index_add_(0, owner, pixels)
    colour, cover = images[:, :3], images[:, 3:].clamp_max(1)
    return ((colour + (1 - cover) * ground[:, :, None, None]).clamp_max(1) - MEAN) / STD


def shades(colours: Sequence[str], u: Tensor) -> Tensor:
    """Background colours (B, 3) near those named, white exactly; u (B, 3)."""
    named = torch.tensor([PALETTE[colour] for colour in colours]) / 255
    off = torch.tensor([[float(colour != "white")] for colour in colours])
    return (named + _SHADE * off * (u - 0.5)).clamp(0, 1)


@cache
def small_glyphs(style: str) -> Tensor:
    """A style's drawings at half size, which shows them at a scene's size without aliasing; (N, 4, 32, 32) uint8."""
    return F.avg_pool2d(glyphs(style).float(), 2).round().to(torch.uint8)


@cache
def visible_on(style: str) -> Tensor:
    """Whether each drawing of a style stands out from each colour of the palette; (N, colours) bool.

    Measured on drawings of 16 pixels, where fine patterns of the background's colour count less.
    """
    pixels = F.avg_pool2d(glyphs(style).float() / 255, 4)
    colour, cover = pixels[:, :3], pixels[:, 3:]
    area = cover.sum((1, 2, 3)).clamp_min(1e-3)
    distances = [
        (colour - cover * (torch.tensor(rgb) / 255)[:, None, None]).abs().mean(1).sum((1, 2)) / area
        for rgb in PALETTE.values()
    ]
    return torch.stack(distances, 1) >= _CONTRAST


@cache
def colours_for(a: int, b: int) -> tuple[str, ...]:
    """The colours that both concepts stand out from in every style that draws them.

    Args:
        a: place in ``concepts()``.
        b: the other's.
    """
    clear = torch.ones(len(PALETTE), dtype=torch.bool)
    for style in STYLES:
        for index in (a, b):
            if style in concepts()[index].styles:
                clear &= visible_on(style)[index]
    return tuple(colour for colour, good in zip(PALETTE, clear.tolist(), strict=True) if good)
