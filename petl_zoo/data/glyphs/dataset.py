"""Glyphs as a labelled data set: ``flat/red-apple/003`` names a style, a concept and one rendering."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from petl_zoo.data.classes import ClassNames
from petl_zoo.data.classification import Images, Item, Labelled, Reader, read_split
from registry import DATASETS

from .atlas import FOLDER, STYLES, concept_index, concepts, glyphs
from .render import DRAWS, TEST_VIEW, View, draws_for, render

__all__ = ["GlyphReader", "Glyphs", "every_concept"]

CLASSES = ("subgroups", "concepts")


class GlyphReader:
    """Renders paths of the form ``style/concept/number``.

    A path decides its image. With ``augment`` the shot stays recognisable (its background, roughly its place,
    size and turn), but is mirrored at random and moved a little, as a random crop would.
    """

    def __init__(self, *, size: int = 48, augment: bool = False, view: View = TEST_VIEW) -> None:
        """Choose size in pixels, and whether training's random changes are made."""
        self.size, self.augment, self.view = size, augment, view

    def __call__(self, paths: Sequence[str]) -> Tensor:
        """Render images.

        Shape:
            returns (B, 3, size, size).

        Raises:
            ValueError: a path names no drawing of the atlas.
        """
        draws = draws_for(paths)
        if self.augment:
            moved = draws[:, :5] + 0.3 * (torch.rand(len(draws), 5) - 0.5)
            moved[:, 2] = torch.rand(len(draws))  # the mirror
            draws = torch.cat([moved.clamp(0, 1), draws[:, 5:DRAWS]], 1)
        return render(torch.stack([self._glyph(path) for path in paths]), size=self.size, view=self.view, draws=draws)

    def _glyph(self, path: str) -> Tensor:
        style, _, rest = path.partition("/")
        concept = rest.partition("/")[0]
        index = concept_index().get(concept)
        if style not in STYLES or index is None or style not in concepts()[index].styles:
            raise ValueError(f"glyph path {path!r} names no drawing; it must be style/concept/number as in glyphs.json")
        return glyphs(style)[index]


@DATASETS.register_module()
class Glyphs(Labelled):
    """The embedded data in the layout of CoOp's split files.

    ``subgroups``: the classes are kinds of things (fruit, tool, sea animal), and train, val and test show
    different objects. ``concepts``: the classes are single objects, of which a style has one drawing, so test
    images are other renderings (size, turn, place, background) of the drawing that was trained on.
    """

    def __init__(
        self,
        *,
        classes: str = "concepts",
        style: str = "flat",
        image_size: int = 48,
        template: str = "a photo of a {}.",
    ) -> None:
        """Read the split.

        Args:
            classes: ``subgroups`` or ``concepts``.
            style: whose drawings are shown.
            image_size: side of the images in pixels.
            template: sentence for the class names.

        Raises:
            ValueError: unknown classes or style.
        """
        if classes not in CLASSES:
            raise ValueError(f"dataset.classes ({classes!r}) must be one of {', '.join(CLASSES)}")
        if style not in STYLES:
            raise ValueError(f"dataset.style ({style!r}) must be one of {', '.join(STYLES)}")
        self.classes, self.style, self.image_size = classes, style, image_size
        self.name, self.templates = f"Glyphs/{classes}/{style}", (template,)
        split, digest = read_split(FOLDER / f"split_{classes}.json")
        self.items = {part: tuple(_in_style(rows, style)) for part, rows in split.items()}
        atlas = hashlib.sha256((FOLDER / "glyphs.json").read_bytes() + (FOLDER / f"{style}.webp").read_bytes())
        parts = [digest, atlas.hexdigest(), style, image_size, asdict(TEST_VIEW)]
        self.hash = hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def reader(self, *, augment: bool) -> Reader:
        return GlyphReader(size=self.image_size, augment=augment)

    def in_style(self, style: str) -> Glyphs:
        """The same classes drawn by another artist."""
        return Glyphs(classes=self.classes, style=style, image_size=self.image_size, template=self.templates[0])


def _in_style(rows: Sequence[Item], style: str) -> list[Item]:
    """The rows that a style can draw, with its paths."""
    index = concept_index()
    moved = [row._replace(path=f"{style}/{row.path.split('/', 1)[1]}") for row in rows]
    return [row for row in moved if style in concepts()[index[row.path.split("/")[1]]].styles]


def every_concept(style: str, *, size: int = 48, tag: str = "all") -> Images:
    """One rendering of every concept that the shipped backbones were pretrained on.

    Args:
        style: whose drawings are shown; concepts that it lacks are left out.
        size: side of the images in pixels.
        tag: another tag gives other renderings.
    """
    shown = [c for c in concepts() if c.pretrain and style in c.styles]
    items = [Item(f"{style}/{c.id}/{tag}", label, c.name) for label, c in enumerate(shown)]
    return Images(items, ClassNames(tuple(c.name for c in shown)), GlyphReader(size=size))
