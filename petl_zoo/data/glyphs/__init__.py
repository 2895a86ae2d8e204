"""Glyphs: the embedded data. Emoji artwork of about 700 objects in seven styles, rendered on the fly."""

from __future__ import annotations

from .atlas import STYLES, Concept, concept_index, concepts, glyphs
from .render import MEAN, STD, View, draws_for, render

__all__ = [
    "MEAN",
    "STD",
    "STYLES",
    "Concept",
    "View",
    "concept_index",
    "concepts",
    "draws_for",
    "glyphs",
    "render",
]
