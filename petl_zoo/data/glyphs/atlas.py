"""The Glyphs atlas: several artists' drawings of the same objects, with names, keywords and groups.

One sheet a style and one metadata file lie beside this module; ``ATTRIBUTION.md`` names artists and licences.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["STYLES", "Concept", "concept_index", "concepts", "glyphs"]

FOLDER = Path(__file__).parent
STYLES = ("twemoji", "noto", "noto1", "emojione", "fluent", "flat", "contrast")


@dataclass(frozen=True)
class Concept:
    """One object of the atlas.

    Attributes:
        id: name with hyphens for blanks, as it stands in image paths.
        name: lower-case English name, such as ``red apple``.
        article: ``'a '``, ``'an '`` or, for plurals and substances, ``''``.
        keywords: further English words for it.
        group: one of five coarse groups, such as ``food-drink``.
        subgroup: one of 43 fine groups, such as ``food-fruit``.
        hexcode: the emoji's code points.
        styles: the styles that draw it.
        pretrain: whether the shipped backbones were pretrained on it.
    """

    id: str
    name: str
    article: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    hexcode: str
    styles: tuple[str, ...]
    pretrain: bool

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Concept:
        """From a row of ``glyphs.json``."""
        return cls(**{**row, "keywords": tuple(row["keywords"]), "styles": tuple(row["styles"])})

    @property
    def noun(self) -> str:
        """The name with its article."""
        return self.article + self.name

    @property
    def kind(self) -> str:
        """The subgroup as a caption says it: ``food-fruit`` is ``fruit``."""
        return KINDS.get(self.subgroup) or self.subgroup.split("-")[-1]


# How a caption names a subgroup whose last word does not say it.
KINDS = {
    "animal-amphibian": "amphibian",
    "animal-marine": "sea animal",
    "arts-crafts": "craft material",
    "award-medal": "award",
    "book-paper": "book or paper",
    "computer": "computer part",
    "event": "party decoration",
    "food-asian": "asian food",
    "food-prepared": "prepared food",
    "food-sweet": "sweet food",
    "household": "household object",
    "light-video": "light or camera",
    "mail": "mail",
    "medical": "medical object",
    "money": "money",
    "office": "office supply",
    "other-object": "strange object",
    "place-geographic": "landscape",
    "place-other": "scenery",
    "place-religious": "religious building",
    "plant-other": "plant",
    "science": "laboratory device",
    "sport": "sports equipment",
    "transport-air": "aircraft",
    "transport-ground": "land vehicle",
    "transport-water": "boat",
    "writing": "writing tool",
}


@cache
def _metadata() -> dict[str, Any]:
    return json.loads((FOLDER / "glyphs.json").read_text())


@cache
def metadata_hash() -> str:
    """sha256 of the metadata file, which names packages and versions of all artwork."""
    return hashlib.sha256((FOLDER / "glyphs.json").read_bytes()).hexdigest()


@cache
def concepts() -> tuple[Concept, ...]:
    """All concepts, in the order of the sheets."""
    return tuple(Concept.from_row(row) for row in _metadata()["concepts"])


@cache
def concept_index() -> dict[str, int]:
    """From a concept's id to its place in ``concepts()`` and in the sheets."""
    return {concept.id: index for index, concept in enumerate(concepts())}


@cache
def glyphs(style: str) -> Tensor:
    """A style's drawings, decoded once a process. Do not write to it.

    The colours are premultiplied with the coverage, so that resampling mixes in no colour of transparent
    pixels, which would show as a halo. A concept that the style lacks is all zero.

    Shape:
        (N, 4, 64, 64) uint8: red, green, blue, coverage.

    Raises:
        ValueError: no such style.
    """
    if style not in STYLES:
        raise ValueError(f"no glyph style {style!r}; the atlas has {', '.join(STYLES)}")
    size, columns = _metadata()["size"], _metadata()["columns"]
    with Image.open(FOLDER / f"{style}.webp") as image:
        sheet = np.asarray(image.convert("RGBA"))
    # (rows, size, columns, size, 4) -> (rows, columns, 4, size, size)
    cells = sheet.reshape(-1, size, columns, size, 4).transpose(0, 2, 4, 1, 3)
    straight = torch.from_numpy(cells.reshape(-1, 4, size, size)[: len(concepts())].copy())
    coverage = straight[:, 3:].float() / 255
    premultiplied = (straight[:, :3].float() * coverage).round().to(torch.uint8)
    return torch.cat([premultiplied, straight[:, 3:]], 1)
